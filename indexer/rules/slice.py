"""The part of the index that a batch of events touches, held in memory.

A few queries load it, `projection` changes it, and a few statements save it: the cost of SQLite
is paid by the batch and not by the event. It lives inside one transaction, so what it holds is
what the file holds.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

from indexer.records import Invite, Row, Space, Verification
from indexer.store import (
    invite_tokens,
    invites,
    members,
    outbox,
    repos,
    spaces,
    tombstones,
    verifications,
)
from indexer.store.db import Transaction
from indexer.store.repos import Repo
from indexer.store.tombstones import Cause, Tombstone

Token = tuple[str, str]  # space URI, token hash
_Step = Literal["publish", "confirm"]


@dataclass(slots=True)
class Slice:
    repos: dict[str, Repo]
    rows: dict[str, Row]
    tombstones: dict[str, dict[str, Tombstone]]  # by URI, then by CID
    revoked_tokens: dict[Token, Tombstone]  # the first revocation of each
    deletions: dict[str, tuple[str, str]]  # the outbox: URI to state and `record_rev`
    dropped: dict[str, str]  # of those that a person gave up: the revision of that moment
    _dirty_repos: set[str] = field(default_factory=set)
    _dirty_rows: dict[str, None] = field(default_factory=dict)  # in the order of the events
    _dirty_tombstones: set[tuple[str, str]] = field(default_factory=set)
    _claims: dict[Token, None] = field(default_factory=dict)  # in the order of the events
    _loaded: dict[str, Row] = field(default_factory=dict)
    fell: list[Tombstone] = field(default_factory=list)  # what is revoked since this was loaded
    # What happens to the outbox, in order: what was confirmed can be asked for again.
    _steps: list[tuple[_Step, str, str]] = field(default_factory=list)  # with URI and rev

    def repo(self, did: str) -> Repo:
        return self.repos.get(did) or Repo(did)

    def put_repo(self, repo: Repo) -> None:
        if self.repos.get(repo.did) != repo:
            self.repos[repo.did] = repo
            self._dirty_repos.add(repo.did)

    def put_row(self, row: Row) -> None:
        self.rows[row.uri] = row
        self._dirty_rows[row.uri] = None
        if row.trusted and isinstance(row.fields, Invite):
            self.claim([(row.fields.space_uri, row.fields.token_hash)])

    def claim(self, tokens: Iterable[Token]) -> None:
        """Note that spaces' owners have invited to them with these, whatever became of that."""
        self._claims.update(dict.fromkeys(tokens))

    def drop_row(self, uri: str) -> None:
        self.rows.pop(uri, None)
        self._dirty_rows[uri] = None

    def buried_up_to(self, uri: str) -> str:
        """Return the revision up to which nothing of this URI lives; '' if there is none."""
        return max((stone.rev for stone in self.tombstones.get(uri, {}).values()), default="")

    def newest(self, uri: str) -> str:
        """Return the newest revision that is known of a URI; '' if nothing is."""
        row = self.rows.get(uri)
        return max(self.buried_up_to(uri), row.rev if row is not None else "")

    def ended_up_to(self, uri: str) -> str:
        """Return up to which nothing of this URI lives, but for what ended with its account."""
        stones = self.tombstones.get(uri, {}).values()
        return max((stone.rev for stone in stones if stone.cause != "purged"), default="")

    def forget_purge(self, uris: Collection[str], rev: str) -> dict[tuple[str, str], str]:
        """Let what an account's deletion took away be put back at these URIs, as of `rev`.

        Returns the revision that each had, by URI and CID.
        """
        purged: dict[tuple[str, str], str] = {}
        for uri in self.tombstones.keys() & uris:
            for stone in list(self.tombstones[uri].values()):
                if stone.cause == "purged" and stone.rev <= rev:
                    purged[uri, stone.cid] = stone.rev
                    del self.tombstones[uri][stone.cid]
        return purged

    def bury(self, stone: Tombstone) -> None:
        """Lay a tombstone, by the same rules as `store.tombstones.save`."""
        stones = self.tombstones.setdefault(stone.uri, {})
        old = stones.get(stone.cid)
        if old is not None:
            rev = max(old.rev, stone.rev)
            stone = replace(old if old.cause == "revoked" else stone, rev=rev)
        stones[stone.cid] = stone
        if stone.cause == "revoked" and (old is None or old.cause != "revoked"):
            self.fell.append(stone)
        self._dirty_tombstones.add((stone.uri, stone.cid))
        if stone.cause == "revoked" and stone.space_uri and stone.token_hash:
            self.revoked_tokens.setdefault((stone.space_uri, stone.token_hash), stone)

    def advance_tombstones(self, uri: str, rev: str) -> None:
        """Let nothing of this URI live up to `rev`, at which its repo deleted it."""
        for cid, stone in self.tombstones.get(uri, {}).items():
            if stone.rev < rev:
                # That its account was deleted before is no more than how it had ended then.
                cause: Cause = "deleted" if stone.cause == "purged" else stone.cause
                self.tombstones[uri][cid] = replace(stone, rev=rev, cause=cause)
                self._dirty_tombstones.add((uri, cid))

    def revocation(self, uri: str) -> Tombstone | None:
        """Return the earliest revocation of any version of this URI."""
        stones = self.tombstones.get(uri, {}).values()
        revoked = [stone for stone in stones if stone.cause == "revoked"]
        return min(revoked, key=lambda stone: (stone.created_at, stone.cid), default=None)

    def publish(self, uri: str, rev: str) -> None:
        """Ask for the deletion of the version that was written at `rev`."""
        self._steps.append(("publish", uri, rev))
        self.deletions[uri] = ("pending", rev)

    def confirm(self, uri: str, rev: str) -> None:
        """What was to be deleted at this URI is gone from the repo since `rev`."""
        state, record_rev = self.deletions.get(uri, ("", ""))
        if state in ("pending", "sent", "blocked") and rev > record_rev:
            self._steps.append(("confirm", uri, rev))
            self.deletions[uri] = ("confirmed", record_rev)


async def load(tx: Transaction, dids: Iterable[str], uris: Iterable[str]) -> Slice:
    """Load what is known of these repos and records."""
    uris = list(uris)
    rows = [
        row
        for table in (spaces.load, invites.load, invites.load_untrusted, verifications.load)
        for row in await table(tx, uris)
    ]
    stones: dict[str, dict[str, Tombstone]] = {}
    for stone in await tombstones.load(tx, uris):
        stones.setdefault(stone.uri, {})[stone.cid] = stone
    by_uri = {row.uri: row for row in rows}
    deletions = await outbox.load(tx, uris)
    return Slice(
        repos=await repos.load(tx, dids),
        rows=by_uri,
        tombstones=stones,
        revoked_tokens={},
        deletions={row.uri: (row.state, row.record_rev) for row in deletions.values()},
        dropped={
            row.uri: row.commit_rev or "" for row in deletions.values() if row.state == "dropped"
        },
        _loaded=dict(by_uri),
    )


async def load_tokens(tx: Transaction, part: Slice, tokens: Iterable[Token]) -> None:
    """Load the revocations of these invite tokens."""
    for stone in await tombstones.revoked_tokens(tx, tokens):
        if stone.space_uri and stone.token_hash:
            part.revoked_tokens[stone.space_uri, stone.token_hash] = stone


async def save(tx: Transaction, part: Slice, now: int, *, decide: bool = False) -> None:
    """Write what has changed. `now` is Unix ms.

    `decide`: the claims to tokens come from a live stream, in its order, and decide whose they are.
    """
    await repos.save(tx, [part.repos[did] for did in part._dirty_repos])
    dirty = [part.rows[uri] for uri in part._dirty_rows if uri in part.rows]
    # A row whose table is another one now, or that is gone, leaves the one it was in.
    moved = [
        row
        for uri in part._dirty_rows
        if (row := part._loaded.get(uri)) is not None
        and (uri not in part.rows or part.rows[uri].trusted != row.trusted)
    ]
    await spaces.delete(tx, [row.uri for row in moved if row.kind == "space"])
    await verifications.delete(tx, [row.uri for row in moved if row.kind == "verification"])
    await invites.delete(tx, [r.uri for r in moved if r.kind == "invite" and r.trusted])
    await invites.delete_untrusted(
        tx, [r.uri for r in moved if r.kind == "invite" and not r.trusted]
    )
    await spaces.save(tx, [(r, r.fields) for r in dirty if isinstance(r.fields, Space)])
    await verifications.save(
        tx, [(r, r.fields) for r in dirty if isinstance(r.fields, Verification)]
    )
    of_invites = [(r, r.fields) for r in dirty if isinstance(r.fields, Invite)]
    await invites.save(tx, [pair for pair in of_invites if pair[0].trusted])
    await invite_tokens.note(tx, part._claims, decide=decide)
    await invites.save_untrusted(tx, [pair for pair in of_invites if not pair[0].trusted])
    stones = [part.tombstones[uri][cid] for uri, cid in part._dirty_tombstones]
    await tombstones.save(tx, stones)
    await members.remove_dead(tx, {stone.uri for stone in stones if stone.kind == "space"})
    for step, steps in groupby(part._steps, key=lambda step: step[0]):
        write = outbox.enqueue if step == "publish" else outbox.mark_confirmed
        await write(tx, [(uri, rev) for _, uri, rev in steps], now)
