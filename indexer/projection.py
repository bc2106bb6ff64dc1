"""Verified events to changes of the index: the single door for every source.

Every rule here holds by revision, so that any event can come again, late, or from another
source, and the index ends the same:

- Of each URI, the version with the newest `rev` counts, be it a record or its deletion.
- A revoked version (same URI, same CID) stays revoked however it comes back, and so does
  whatever carries a revoked invite token. Its deletion is asked for again.
- While a revoked verification's deletion is not acknowledged by its PDS, no version of that
  URI lives: one that arrives now may have been written before the revocation. (An invite is
  its token: a record that carries another one now has nothing to do with what was revoked.)
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import libipld

from indexer import slice as slices
from indexer.events import Account, Rejected, RejectReason, VerifiedCommit, VerifiedSync, Write
from indexer.mst_node import EMPTY_ROOT
from indexer.records import InvalidRecord, Invite, Kind, Row, Scope, Space, Verification
from indexer.repo import Contents
from indexer.slice import Slice
from indexer.store import backfills, members, records, repos, tombstones
from indexer.store.db import Transaction
from indexer.store.repos import Repo, hosting_of
from indexer.store.tombstones import Tombstone, is_revoked
from indexer.syntax import format_datetime, parse_datetime

TURN = 0.005  # seconds that records are read before others get their turn; one may take 0.01
RECONCILE_CHUNK = 500  # records of a repo that are held in memory at once

_NOTHING = (None, libipld.encode_cid(EMPTY_ROOT))  # what `prev_data` is of a repo's first commit


@dataclass(frozen=True, slots=True)
class Desynchronize:
    """Something was missed, and nobody knows what: every repo is to be checked again.

    `renumbered`: from here on the relay counts another sequence than before.
    """

    renumbered: bool = False


Change = VerifiedCommit | VerifiedSync | Account | Rejected | Desynchronize


class Projection:
    """The rules, for one scope and the events of one relay host."""

    def __init__(self, scope: Scope, relay: str) -> None:
        self._scope = scope
        self._relay = relay

    async def apply(
        self, tx: Transaction, changes: Iterable[Change], now: int
    ) -> list[RejectReason]:
        """Apply changes in order; return why records in them were rejected. `now` is Unix ms."""
        rejected: list[RejectReason] = []
        run: list[VerifiedCommit | VerifiedSync | Account | Rejected] = []
        for change in changes:
            if isinstance(change, Desynchronize):
                await self._apply_run(tx, run, rejected, now)
                run = []
                await repos.desynchronize_all(tx)
                await backfills.reset(tx, self._relay)  # repos that were never seen, too
                if change.renumbered:
                    await repos.forget_hosting_seqs(tx, self._relay)
            else:
                run.append(change)
                if isinstance(change, Account) and _is_deletion(change):
                    # It concerns every record of the repo, also those that no event here names.
                    await self._apply_run(tx, run, rejected, now)
                    run = []
        await self._apply_run(tx, run, rejected, now)
        return rejected

    async def reconcile(
        self, tx: Transaction, contents: Contents, now: int
    ) -> tuple[bool, list[RejectReason]]:
        """Make the index of a repo what a proven copy of it says, but for what is newer here.

        What the copy lacks is deleted. Returns whether the repo is whole by that, and why records
        were rejected. It is not if commits are missing between the copy and what was seen since.
        """
        rejected: list[RejectReason] = []
        did = contents.did
        repo = (await repos.load(tx, [did])).get(did)
        if repo is not None and repo.hosting == "deleted":
            return True, rejected  # it was purged while the copy was on its way
        # As if one commit had written all of it at the revision of the copy.
        commit = VerifiedCommit(0, None, did, contents.rev, None, None, contents.data, ())
        copied = {f"at://{did}/{path}": path for path in contents.records}
        here = await records.uris_of_repo(tx, did)
        # What was indexed under other settings is not ours to judge by this copy.
        since = time.monotonic()
        uris = sorted(
            copied.keys() | {uri for uri in here if uri.split("/")[3] in self._scope.collections}
        )
        for first in range(0, max(len(uris), 1), RECONCILE_CHUNK):
            chunk = uris[first : first + RECONCILE_CHUNK]
            part = await slices.load(tx, {did}, chunk)
            part.put_repo(part.repo(did))
            purged = part.forget_purge(copied)  # by an account that is back with this
            known: _Known = {}
            parsed = []
            for uri in chunk:
                write = _copied(contents, uri, copied.get(uri))
                row = part.rows.get(uri)
                if row is None or row.cid != write.cid or row.revoked:
                    since = await _turn(since)
                    read = self._parse(commit, write, known, rejected)
                    restored = read.row
                    if restored is not None and (rev := purged.get((uri, restored.cid))):
                        # As old as it was: what had ended with its space does not begin anew.
                        restored = replace(restored, rev=rev)
                    parsed.append(replace(read, row=restored))
            await slices.load_tokens(tx, part, _tokens(parsed))
            _apply_writes(part, commit, parsed, now)
            if first + RECONCILE_CHUNK >= len(uris):
                state = _made_whole(part.repo(did), contents)
                part.put_repo(state)
            await slices.save(tx, part, now)
        return state.sync == "synchronized", rejected

    async def _apply_run(
        self,
        tx: Transaction,
        run: list[VerifiedCommit | VerifiedSync | Account | Rejected],
        rejected: list[RejectReason],
        now: int,
    ) -> None:
        if not run:
            return
        dids = {change.did for change in run if change.did is not None}
        commits = [change for change in run if isinstance(change, VerifiedCommit)]
        part = await slices.load(
            tx, dids, {_uri(commit.did, write) for commit in commits for write in commit.writes}
        )
        parsed: dict[int, list[_Parsed]] = {}
        known: _Known = {}
        since = time.monotonic()
        for commit in commits:
            parsed[id(commit)] = []
            for write in commit.writes:
                since = await _turn(since)
                parsed[id(commit)].append(self._parse(commit, write, known, rejected))
        await slices.load_tokens(tx, part, _tokens(w for writes in parsed.values() for w in writes))
        purged: list[str] = []
        for change in run:
            match change:
                case VerifiedCommit():
                    _commit(part, change, parsed[id(change)], self._relay, now)
                case VerifiedSync():
                    _sync(part, change)
                case Account():
                    if _account(part, change, self._relay, now) and _is_deletion(change):
                        purged.append(change.did)
                case Rejected():
                    _rejected(part, change, self._relay)
        await slices.save(tx, part, now)
        for did in purged:
            await tombstones.purge_repo(tx, did, now)
            await members.purge_repo(tx, did)

    def _parse(
        self, commit: VerifiedCommit, write: Write, known: "_Known", rejected: list[RejectReason]
    ) -> "_Parsed":
        kind = self._scope.kind(write.collection)
        assert kind is not None, "verify keeps the writes of our collections only"  # noqa: S101
        uri = _uri(commit.did, write)
        if write.cid is None:
            return _Parsed(uri, kind, write, None)
        fields = self._read(write, known)
        if fields is None:
            rejected.append("invalid_record")
            return _Parsed(uri, kind, write, None)
        trusted = not isinstance(fields, Invite) or self._scope.is_trusted(commit.did, fields)
        row = Row(
            uri, commit.did, write.cid, commit.rev, revoked=False, fields=fields, trusted=trusted
        )
        return _Parsed(uri, kind, write, row)

    def _read(self, write: Write, known: "_Known") -> "_Fields | None":
        """Return what a record says; None if it does not fit its lexicon."""
        key = (write.collection, write.cid or "")
        if key not in known:
            try:
                # A CID names one content, so what it says is found out once.
                known[key] = self._scope.read(write.collection, write.block or b"")
            except InvalidRecord:
                known[key] = None
        return known[key]


async def _turn(since: float) -> float:
    """Let others go on if they have waited for `TURN`; return since when they wait now."""
    if time.monotonic() - since < TURN:
        return since
    await asyncio.sleep(0)
    return time.monotonic()


_Fields = Space | Invite | Verification
_Known = dict[tuple[str, str], _Fields | None]  # by collection and CID


@dataclass(frozen=True, slots=True)
class _Parsed:
    uri: str
    kind: Kind
    write: Write
    row: Row | None  # None: deleted, or it does not fit its lexicon


def _uri(did: str, write: Write) -> str:
    return f"at://{did}/{write.collection}/{write.rkey}"


def _repo(part: Slice, did: str, change: VerifiedCommit | Rejected, relay: str) -> Repo:
    """Return what is known of a repo, or, if that is nothing, what its first frame tells."""
    repo = part.repo(did)
    if repo.rev is not None or repo.hosting_relay is not None:
        return repo
    # A host that sends commits of an account serves it: whatever it said of it before is old.
    return replace(repo, hosting_relay=relay, hosting_seq=change.seq, hosting_time=change.time)


def _commit(
    part: Slice, commit: VerifiedCommit, writes: list[_Parsed], relay: str, now: int
) -> None:
    repo = _repo(part, commit.did, commit, relay)
    is_newer = repo.rev is None or commit.rev > repo.rev
    if not is_newer and repo.sync == "synchronized":
        return  # played again: a repo that is complete up to its rev has nothing to learn
    if repo.whole_rev is not None and commit.rev <= repo.whole_rev:
        return  # nor from the time before it came into doubt
    part.put_repo(_advanced(repo, commit) if is_newer else repo)
    _apply_writes(part, commit, writes, now)


def _apply_writes(part: Slice, commit: VerifiedCommit, writes: list[_Parsed], now: int) -> None:
    for parsed in writes:
        if parsed.write.action == "delete":
            _delete(part, commit, parsed, now)
        elif parsed.row is None:
            _replace_by_invalid(part, commit, parsed, now)
        else:
            _put(part, parsed.row, now)


def _advanced(repo: Repo, commit: VerifiedCommit) -> Repo:
    """Return the repo's state after a commit that is newer than it."""
    sync, whole_rev, stretch = repo.sync, repo.whole_rev, repo.stretch
    is_first = commit.since is None and commit.prev_data in _NOTHING
    if repo.rev is None and repo.sync == "pending" and is_first:
        # The repo's first commit: there is nothing older.
        sync, whole_rev, stretch = "synchronized", commit.rev, commit.rev
    elif repo.rev is None:
        stretch = commit.since
    elif commit.since != repo.rev or commit.prev_data not in (None, repo.data):
        sync, stretch = "desynchronized", commit.since
    elif repo.whole_rev == repo.rev:
        whole_rev = commit.rev
    return replace(
        repo, rev=commit.rev, data=commit.data, sync=sync, whole_rev=whole_rev, stretch=stretch
    )


def _made_whole(repo: Repo, contents: Contents) -> Repo:
    """Return the repo's state after a copy of it was applied."""
    rev = contents.rev
    if repo.rev is None or rev >= repo.rev:
        return replace(
            repo, rev=rev, data=contents.data, sync="synchronized", whole_rev=rev, stretch=rev
        )
    if repo.stretch is not None and rev >= repo.stretch:
        # From the copy on, every commit was seen and applied.
        return replace(repo, sync="synchronized", whole_rev=repo.rev)
    return repo  # the copy is older than the gap


def _copied(contents: Contents, uri: str, path: str | None) -> Write:
    """Return the write that a copy of a repo amounts to for one URI."""
    if path is None:
        _, _, _, collection, rkey = uri.split("/", 4)
        return Write("delete", collection, rkey, None, None, None)
    cid, block = contents.records[path]
    collection, _, rkey = path.partition("/")
    return Write("create", collection, rkey, cid, None, block)


def _tokens(writes: Iterable[_Parsed]) -> set[tuple[str, str]]:
    """Return the invite tokens, with their spaces, that trusted writes carry."""
    return {
        (row.fields.space_uri, row.fields.token_hash)
        for write in writes
        if (row := write.row) and row.trusted and isinstance(row.fields, Invite)
    }


def _put(part: Slice, row: Row, now: int) -> None:
    """A record was created or updated."""
    old = part.rows.get(row.uri)
    if (old is not None and old.rev >= row.rev) or part.buried_up_to(row.uri) >= row.rev:
        return
    revocation = _revocation_of(part, row)
    if revocation is None:
        part.put_row(row)
        part.confirm(row.uri, row.rev)  # the version that was to be deleted is overwritten
        return
    part.put_row(replace(row, revoked=True))
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
    return part.revocation(row.uri) if state in ("pending", "blocked") else None


def _is_outdated(
    part: Slice, commit: VerifiedCommit, parsed: _Parsed, cause: tombstones.Cause, now: int
) -> bool:
    """Whether something newer is known of a URI than that its record is gone by this commit.

    Of a space that was made again since, it is noted all the same: its invites and memberships
    from before ended here.
    """
    uri, rev = parsed.uri, commit.rev
    old = part.rows.get(uri)
    if part.buried_up_to(uri) >= rev:
        return True
    if old is None or old.rev < rev:
        return False
    if parsed.kind == "space" and old.rev > rev:
        cid = parsed.write.cid or parsed.write.prev or ""
        part.bury(Tombstone(uri, cid, "space", commit.did, rev, cause, None, None, now))
    return True


def _delete(part: Slice, commit: VerifiedCommit, parsed: _Parsed, now: int) -> None:
    """A record was deleted by its repo, perhaps because we asked."""
    uri, rev = parsed.uri, commit.rev
    part.confirm(uri, rev)
    if _is_outdated(part, commit, parsed, "deleted", now):
        return
    old = part.rows.get(uri)
    if old is not None and old.trusted:
        part.bury(replace(_stone(old, "deleted", now), rev=rev))
    elif uri not in part.tombstones:
        cid = parsed.write.prev or ""
        part.bury(Tombstone(uri, cid, parsed.kind, commit.did, rev, "deleted", None, None, now))
    part.advance_tombstones(uri, rev)
    if old is not None and not old.revoked:
        part.drop_row(uri)


def _replace_by_invalid(part: Slice, commit: VerifiedCommit, parsed: _Parsed, now: int) -> None:
    """What stands there now can't be read, and what stood there before is gone."""
    uri, rev = parsed.uri, commit.rev
    if parsed.kind == "invite":
        part.confirm(uri, rev)  # its token is not in the repo any more
    if _is_outdated(part, commit, parsed, "replaced", now):
        return
    old = part.rows.get(uri)
    if old is not None and old.trusted:
        part.bury(replace(_stone(old, "replaced", now), rev=rev))
    cid = parsed.write.cid or ""
    part.bury(Tombstone(uri, cid, parsed.kind, commit.did, rev, "replaced", None, None, now))
    if old is not None and not old.revoked:
        part.drop_row(uri)


def _sync(part: Slice, sync: VerifiedSync) -> None:
    repo = part.repo(sync.did)
    known = repo.data == sync.data
    if repo.rev is not None and (sync.rev < repo.rev or (sync.rev == repo.rev and known)):
        return
    state = replace(repo, rev=sync.rev, data=sync.data)
    if known:
        whole_rev = sync.rev if repo.whole_rev == repo.rev else repo.whole_rev
        part.put_repo(replace(state, whole_rev=whole_rev))
    else:
        part.put_repo(replace(state, sync="desynchronized", stretch=sync.rev))


def _account(part: Slice, account: Account, relay: str, now: int) -> bool:
    """Note what the host says of an account; return whether that was news."""
    repo = part.repo(account.did)
    if repo.hosting_relay == relay:
        if repo.hosting_seq is not None and account.seq <= repo.hosting_seq:
            return False
    elif repo.hosting_time is not None and _ms(account.time) <= _ms(repo.hosting_time):
        # Two relays' sequences can't be compared, and an account event has no rev: the time is
        # all that is left. It decides what is shown, never what is revoked.
        return False
    hosting = hosting_of(account.active, account.status)
    if hosting == "active" != repo.hosting:
        # Back from wherever it was, it may have changed unseen.
        repo = _doubted(repo)
    elif hosting == "deleted":
        repo = replace(repo, whole_rev=None)  # all of it is purged: if it comes back, it is new
    part.put_repo(
        replace(
            repo,
            hosting=hosting,
            hosting_relay=relay,
            hosting_seq=account.seq,
            # Not in the future, or no other relay would be heard until then.
            hosting_time=account.time if _ms(account.time) <= now else format_datetime(now),
        )
    )
    return True


def _ms(time: str | None) -> int:
    """Return the moment that a relay names, in Unix ms; one that it can't mean is long ago."""
    try:
        return parse_datetime(time or "")
    except ValueError:
        return 0


def _is_deletion(account: Account) -> bool:
    return not account.active and account.status == "deleted"


def _rejected(part: Slice, rejected: Rejected, relay: str) -> None:
    """A repo said something that can't be so: it is to be rebuilt."""
    if rejected.did is None:
        return
    repo = _repo(part, rejected.did, rejected, relay)
    if repo.hosting != "active" and _is_before_hosting(repo, rejected, relay):
        return  # it was put away after that, and is fetched anew if it comes back
    if rejected.rev is None or repo.rev is None or rejected.rev > repo.rev:
        part.put_repo(_doubted(repo))


def _is_before_hosting(repo: Repo, rejected: Rejected, relay: str) -> bool:
    """Whether a frame is older than the last word of the same relay on the account."""
    return (
        repo.hosting_relay == relay
        and repo.hosting_seq is not None
        and rejected.seq is not None
        and rejected.seq <= repo.hosting_seq
    )


def _doubted(repo: Repo) -> Repo:
    """Return the repo's state when commits behind its `rev` may have been missed."""
    return replace(repo, sync="desynchronized", stretch=repo.rev)


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
