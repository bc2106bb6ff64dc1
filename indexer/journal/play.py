"""A journal put into an index that may be older than it: what was revoked is revoked again.

Nothing is published by that. What is still to be deleted is found when every repo is checked: only
a copy of a repo tells whether the version that was revoked still stands there, or a newer grant.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from indexer.journal.lines import Entry
from indexer.rules import slice as slices
from indexer.rules.slice import Slice
from indexer.store import audit, invites, repos, tombstones
from indexer.store.db import Transaction
from indexer.store.tombstones import Tombstone, is_revoked

_ACTIONS = {"invite": "invite.revoke", "verification": "verification.revoke"}


@dataclass(slots=True)
class Played:
    """How many revocations there were, and of how many the index knew nothing."""

    entries: int = 0
    news: int = 0


async def play(tx: Transaction, entries: Iterable[Entry], now: int) -> Played:
    """Revoke what these say, as they say: who, why and when are the first's. `now` is Unix ms."""
    played = Played()
    for entry in entries:
        played.entries += 1
        if entry.space_uri and entry.token_hash:
            is_news = await _revoke_token(tx, entry, entry.space_uri, entry.token_hash)
        else:
            is_news = await _revoke_version(tx, entry, now)
        if is_news:
            played.news += 1
            await repos.track(tx, [entry.did], now)
            action = _ACTIONS.get(entry.kind, f"{entry.kind}.revoke")
            await audit.write(tx, entry.actor, action, [entry.uri], entry.reason, entry.at)
    return played


async def _revoke_token(tx: Transaction, entry: Entry, space_uri: str, token_hash: str) -> bool:
    known = await tombstones.revoked_tokens(tx, [(space_uri, token_hash)])
    if known and known[0].created_at <= entry.at:
        return False
    carried = await invites.with_token(tx, space_uri, token_hash)
    versions = {(row.uri, row.cid): row.rev for row in carried}
    for stone in await tombstones.with_token(tx, space_uri, token_hash):
        versions[stone.uri, stone.cid] = max(stone.rev, versions.get((stone.uri, stone.cid), ""))
    if not versions:
        versions[entry.uri, entry.cid] = entry.rev
    stones = [
        replace(
            _stone(entry),
            uri=uri,
            cid=cid,
            rev=rev,
            space_uri=space_uri,
            token_hash=token_hash,
        )
        for (uri, cid), rev in versions.items()
    ]
    await tombstones.save(tx, stones)
    await tombstones.date_back(tx, stones)
    await invites.mark_revoked(tx, [row.uri for row in carried])
    return not known


async def _revoke_version(tx: Transaction, entry: Entry, now: int) -> bool:
    part = await slices.load(tx, {entry.did}, [entry.uri])
    known = part.tombstones.get(entry.uri, {}).get(entry.cid)
    was_known = is_revoked(known)
    if known is not None and was_known and known.created_at <= entry.at:
        return False
    _end_versions(part, entry)
    part.bury(_stone(entry))
    part.put_repo(part.repo(entry.did))
    await slices.save(tx, part, now)
    await tombstones.date_back(tx, [_stone(entry)])
    return not was_known


def _end_versions(part: Slice, entry: Entry) -> None:
    """End the version that was revoked, and one that it had replaced; never a newer grant."""
    row = part.rows.get(entry.uri)
    if row is None or row.revoked:
        return
    if row.cid == entry.cid:
        part.put_row(row._replace(revoked=True))
        part.bury(replace(_stone(entry), rev=row.rev))
    elif row.rev <= entry.rev:
        part.bury(
            replace(
                _stone(entry), cid=row.cid, rev=row.rev, cause="replaced", actor=None, reason=None
            )
        )
        part.drop_row(entry.uri)


def _stone(entry: Entry) -> Tombstone:
    return Tombstone(
        uri=entry.uri,
        cid=entry.cid,
        kind="invite" if entry.kind == "invite" else "verification",
        did=entry.did,
        rev=entry.rev,
        cause="revoked",
        actor=entry.actor,
        reason=entry.reason,
        created_at=entry.at,
        space_uri=entry.space_uri,
        token_hash=entry.token_hash,
    )
