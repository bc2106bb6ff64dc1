"""What a proven write does to the records of an index, its tombstones and its deletions to publish.

Every function changes a `Slice`; the rules are those that `projection` names.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from indexer.records import Invite, Kind, Row
from indexer.rules.slice import Slice
from indexer.store import tombstones
from indexer.store.tombstones import Tombstone, is_revoked
from indexer.stream.events import VerifiedCommit, Write


class Parsed(NamedTuple):
    """A write, and the row that its record amounts to."""

    uri: str
    kind: Kind
    write: Write
    row: Row | None  # None: deleted, or it does not fit its lexicon


def uri_of(did: str, write: Write) -> str:
    """Return the AT-URI of what is written."""
    return f"at://{did}/{write.collection}/{write.rkey}"


def tokens_of(writes: Iterable[Parsed]) -> list[tuple[str, str]]:
    """Return the invite tokens, with their spaces, that trusted writes carry, in their order."""
    carried = {
        (row.fields.space_uri, row.fields.token_hash): None
        for write in writes
        if (row := write.row) and row.trusted and isinstance(row.fields, Invite)
    }
    return list(carried)


def apply_writes(part: Slice, commit: VerifiedCommit, writes: list[Parsed], now: int) -> None:
    """Apply a commit's writes in order. `now` is Unix ms."""
    for parsed in writes:
        if parsed.write.action == "delete":
            _delete(part, commit, parsed, now)
        elif parsed.row is None:
            _replace_by_invalid(part, commit, parsed, now)
        else:
            _put(part, parsed.row, now)


def publish_standing(part: Slice, writes: list[Parsed]) -> None:
    """Ask for the deletion of what is revoked and stands in a copy of its repo all the same.

    In an index that was restored nobody may have asked yet: it does not know whether that was done.
    """
    for parsed in writes:
        row = parsed.row
        if row is None or row.uri in part.deletions:
            continue
        if is_revoked(part.tombstones.get(row.uri, {}).get(row.cid)):
            if row.uri not in part.rows:
                part.put_row(row._replace(revoked=True))
            part.publish(row.uri, row.rev)


def _put(part: Slice, row: Row, now: int) -> None:
    """A record was created or updated."""
    if part.newest(row.uri) >= row.rev:
        return
    revocation = _revocation_of(part, row)
    if revocation is None:
        part.put_row(row)
        part.confirm(row.uri, row.rev)  # the version that was to be deleted is overwritten
        return
    part.put_row(row._replace(revoked=True))
    # Who, why and when are those of the first revocation: this version only fell under it.
    part.bury(
        replace(
            _stone(row, "revoked", now),
            actor=revocation.actor,
            reason=revocation.reason,
            created_at=revocation.created_at,
        )
    )
    state, _ = part.deletions.get(row.uri, ("", ""))
    if state != "dropped":
        part.publish(row.uri, row.rev)


def _revocation_of(part: Slice, row: Row) -> Tombstone | None:
    """Return the revocation that this version is born under, if there is one."""
    if isinstance(row.fields, Invite):
        token = (row.fields.space_uri, row.fields.token_hash)
        return part.revoked_tokens.get(token) if row.trusted else None
    same = part.tombstones.get(row.uri, {}).get(row.cid)
    if is_revoked(same):
        return same
    state, _ = part.deletions.get(row.uri, ("", ""))
    # One that a person gave up covers what had been written until then.
    was_in_flight = state == "dropped" and row.rev <= part.dropped.get(row.uri, "")
    is_under_way = state in ("pending", "blocked") or was_in_flight
    return part.revocation(row.uri) if is_under_way else None


def _delete(part: Slice, commit: VerifiedCommit, parsed: Parsed, now: int) -> None:
    """A record was deleted by its repo, perhaps because we asked."""
    uri, rev = parsed.uri, commit.rev
    part.confirm(uri, rev)
    if _is_outdated(part, commit, parsed, "deleted", now):
        return
    old = part.rows.get(uri)
    if old is not None and old.trusted:
        part.bury(replace(_stone(old, "deleted", now), rev=rev))
    elif uri not in part.tombstones:
        part.bury(_stone_of_unknown(commit, parsed, parsed.write.prev or "", "deleted", now))
    part.advance_tombstones(uri, rev)
    if old is not None and not old.revoked:
        part.drop_row(uri)


def _replace_by_invalid(part: Slice, commit: VerifiedCommit, parsed: Parsed, now: int) -> None:
    """What stands there now can't be read, and what stood there before is gone."""
    uri, rev = parsed.uri, commit.rev
    if parsed.kind == "invite":
        part.confirm(uri, rev)  # its token is not in the repo any more
    if _is_outdated(part, commit, parsed, "replaced", now):
        return
    old = part.rows.get(uri)
    if old is not None and old.trusted:
        part.bury(replace(_stone(old, "replaced", now), rev=rev))
    part.bury(_stone_of_unknown(commit, parsed, parsed.write.cid or "", "replaced", now))
    if old is not None and not old.revoked:
        part.drop_row(uri)


def _is_outdated(
    part: Slice, commit: VerifiedCommit, parsed: Parsed, cause: tombstones.Cause, now: int
) -> bool:
    """Whether something newer is known of a URI than that its record is gone by this commit.

    Of a space that was made again since, it is noted all the same: its invites and memberships
    from before ended here.
    """
    uri, rev = parsed.uri, commit.rev
    newest = part.newest(uri)
    if newest < rev:
        return False
    if parsed.kind == "space" and newest > rev > part.ended_up_to(uri):
        # Of no version: the one that was there then may be the one that is there since.
        part.bury(_stone_of_unknown(commit, parsed, "", cause, now))
    return True


def _stone(row: Row, cause: tombstones.Cause, now: int) -> Tombstone:
    invite = row.fields if isinstance(row.fields, Invite) and row.trusted else None
    return Tombstone(
        uri=row.uri,
        cid=row.cid,
        kind=row.kind,
        did=row.did,
        rev=row.rev,
        cause=cause,
        actor=None,
        reason=None,
        created_at=now,
        space_uri=invite.space_uri if invite else None,
        token_hash=invite.token_hash if invite else None,
    )


def _stone_of_unknown(
    commit: VerifiedCommit, parsed: Parsed, cid: str, cause: tombstones.Cause, now: int
) -> Tombstone:
    """Return the tombstone of a version that the index never had, or can't read."""
    return Tombstone(
        uri=parsed.uri,
        cid=cid,
        kind=parsed.kind,
        did=commit.did,
        rev=commit.rev,
        cause=cause,
        actor=None,
        reason=None,
        created_at=now,
    )
