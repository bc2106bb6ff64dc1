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

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from indexer.proof.repo import Contents
from indexer.records import InvalidRecord, Invite, Row, Scope, Space, Verification
from indexer.rules import record_rules, repo_rules
from indexer.rules import slice as slices
from indexer.rules.record_rules import Parsed, tokens_of, uri_of
from indexer.rules.repo_rules import Stream
from indexer.rules.slice import Slice
from indexer.store import backfills, members, records, repos, resyncs, tombstones
from indexer.store.db import Transaction
from indexer.store.tombstones import Tombstone
from indexer.stream.events import (
    Account,
    Rejected,
    RejectReason,
    VerifiedCommit,
    VerifiedSync,
    Write,
)
from indexer.turns import turn

CHECK_PAUSE = 60_000  # ms between two checks of a repo that malformed frames ask for
MAX_CHECKS = 10_000  # of them that are remembered
RECONCILE_CHUNK = 500  # records of a repo that are held in memory at once


@dataclass(frozen=True, slots=True)
class Desynchronize:
    """Something was missed, and nobody knows what: every repo is to be checked again.

    `renumbered`: from here on the relay counts another sequence than before.
    """

    renumbered: bool = False


OnRejected = Callable[[RejectReason, str, str], None]
Change = VerifiedCommit | VerifiedSync | Account | Rejected | Desynchronize


# Where what fell under a revocation is written down besides, as in the journal.
Keep = Callable[[Sequence[Tombstone]], Awaitable[None]]


class Projection:
    """The rules, for one scope and the events of one relay host: its live stream, or a replay.

    `on_rejected` hears of each record or commit that is not taken: why, which, and what is wrong.
    """

    def __init__(
        self,
        scope: Scope,
        relay: str,
        *,
        is_replay: bool = False,
        on_rejected: OnRejected = lambda reason, subject, what: None,
    ) -> None:
        self._scope = scope
        self._on_rejected = on_rejected
        self._relay = relay
        self._stream = Stream.replay(relay) if is_replay else Stream.live(relay)
        self._checks: dict[str, int] = {}  # when a malformed frame last had a repo checked, Unix ms
        self._fell: list[Tombstone] = []

    def take_fallen(self) -> list[Tombstone]:
        """Return what fell under a revocation since this was asked last: versions born dead."""
        fell, self._fell = self._fell, []
        return fell

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
                await backfills.unsettle(tx, self._relay)
                if change.renumbered:
                    await repos.forget_hosting_seqs(tx, self._relay)
            else:
                run.append(change)
                if isinstance(change, Account) and repo_rules.is_deletion(change):
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
        is_old_news = (
            repo is not None and repo.whole_rev is not None and contents.rev <= repo.whole_rev
        )
        # As if one commit had written all of it at the revision of the copy.
        commit = VerifiedCommit(
            seq=0,
            time=None,
            did=did,
            rev=contents.rev,
            since=None,
            prev_data=None,
            data=contents.data,
            writes=(),
        )
        # What was there, or not yet, before all was known says nothing of what is there since.
        paths = () if is_old_news else contents.records
        copied = {f"at://{did}/{path}": path for path in paths}
        here = [] if is_old_news else await records.uris_of_repo(tx, did)
        # What was indexed under other settings is not ours to judge by this copy.
        since = time.monotonic()
        uris = sorted(
            copied.keys() | {uri for uri in here if uri.split("/")[3] in self._scope.collections}
        )
        for first in range(0, max(len(uris), 1), RECONCILE_CHUNK):
            chunk = uris[first : first + RECONCILE_CHUNK]
            part = await slices.load(tx, {did}, chunk)
            part.put_repo(part.repo(did))
            purged = part.forget_purge(copied, contents.rev)  # by an account that is back with this
            known: _Known = {}
            parsed = []
            for uri in chunk:
                write = _copied(contents, uri, copied.get(uri))
                row = part.rows.get(uri)
                if row is None or row.cid != write.cid or row.revoked:
                    since = await turn(since)
                    read = self._parse(commit, write, known, rejected)
                    restored = read.row
                    if restored is not None:
                        # As old as it was, if nothing was there since: what had ended with its
                        # space does not begin anew.
                        rev = purged.get((uri, restored.cid), "")
                        if rev > part.newest(uri):
                            restored = restored._replace(rev=rev)
                    parsed.append(read._replace(row=restored))
            await slices.load_tokens(tx, part, tokens_of(parsed))
            record_rules.apply_writes(part, commit, parsed, now)
            record_rules.publish_standing(part, parsed)
            if first + RECONCILE_CHUNK >= len(uris):
                state = repo_rules.made_whole(part.repo(did), contents)
                part.put_repo(state)
            await slices.save(tx, part, now)
            self._fell += part.fell
        return state.sync == "synchronized", rejected

    async def show(self, tx: Transaction, did: str, rev: str, write: Write, now: int) -> None:
        """Apply that a record stands in a repo at `rev`, as its host has proven when it was asked.

        It says nothing of the rest of the repo, whose state stays as it is. `now` is Unix ms.
        """
        # As if a commit had written it then: what wrote it comes by the stream, and is older.
        commit = VerifiedCommit(
            seq=0,
            time=None,
            did=did,
            rev=rev,
            since=None,
            prev_data=None,
            data="",
            writes=(write,),
        )
        part = await slices.load(tx, {did}, [uri_of(did, write)])
        if part.repo(did).hosting == "deleted":
            return
        part.put_repo(part.repo(did))  # to be fetched whole, if it was not known
        parsed = [self._parse(commit, write, {}, [])]
        await slices.load_tokens(tx, part, tokens_of(parsed))
        record_rules.apply_writes(part, commit, parsed, now)
        await slices.save(tx, part, now)

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
            tx, dids, {uri_of(commit.did, write) for commit in commits for write in commit.writes}
        )
        parsed: dict[int, list[Parsed]] = {}
        known: _Known = {}
        since = time.monotonic()
        for commit in commits:
            parsed[id(commit)] = []
            for write in commit.writes:
                since = await turn(since)
                parsed[id(commit)].append(self._parse(commit, write, known, rejected))
        carried = tokens_of(w for writes in parsed.values() for w in writes)
        await slices.load_tokens(tx, part, carried)
        decide = await self._hear(tx, part, carried)
        purged: list[str] = []
        in_step = {did for did in dids if part.repo(did).sync == "synchronized"}
        for change in run:
            match change:
                case VerifiedCommit():
                    if self._advance(part, change, rejected, now):
                        record_rules.apply_writes(part, change, parsed[id(change)], now)
                case VerifiedSync():
                    repo_rules.sync(part, change)
                case Account():
                    is_news = repo_rules.account(part, change, self._stream, now)
                    if is_news and repo_rules.is_deletion(change):
                        purged.append(change.did)
                case Rejected():
                    repo_rules.reject(part, change, self._stream, now)
        await slices.save(tx, part, now, decide=decide)
        self._fell += part.fell
        for did in in_step & {c.did for c in run if _is_malformed(c)}:
            await self._space_checks(tx, did, now)
        for did in purged:
            await tombstones.purge_repo(tx, did, now)
            await members.purge_repo(tx, did)

    def _advance(
        self, part: Slice, commit: VerifiedCommit, rejected: list[RejectReason], now: int
    ) -> bool:
        """Let a repo stand at a commit; return whether its writes are to be applied."""
        before = part.repo(commit.did)
        applies = repo_rules.advance(part, commit, self._stream, now)
        is_news = before.rev is None or commit.rev > before.rev
        if not applies and is_news and repo_rules.is_downgraded(before, commit):
            rejected.append("old_form")
            self._on_rejected("old_form", commit.did, "a commit without prevData")
        return applies

    async def _space_checks(self, tx: Transaction, did: str, now: int) -> None:
        """Let a repo be checked for malformed frames now, or a while after it last was.

        Anybody's host can send such a frame for any DID, and a relay passes it on unread.
        """
        due = max(now, self._checks.pop(did, 0) + CHECK_PAUSE)
        if due > now:
            await resyncs.postpone(tx, did, due)
        if len(self._checks) >= MAX_CHECKS:
            del self._checks[next(iter(self._checks))]
        self._checks[did] = due

    async def _hear(self, tx: Transaction, part: slices.Slice, carried: list[slices.Token]) -> bool:
        """Note which tokens are claimed live; return whether that decides whose they are."""
        if not carried or not self._stream.is_live:
            return False
        # Also those that are known from a copy of the repo: it may have been faster.
        part.claim(carried)
        return await backfills.is_settled(tx, self._relay)

    def _parse(
        self, commit: VerifiedCommit, write: Write, known: "_Known", rejected: list[RejectReason]
    ) -> Parsed:
        kind = self._scope.kind(write.collection)
        assert kind is not None, "verify keeps the writes of our collections only"  # noqa: S101
        uri = uri_of(commit.did, write)
        if write.cid is None:
            return Parsed(uri, kind, write, None)
        fields = self._read(write, known)
        if isinstance(fields, str):
            rejected.append("invalid_record")
            self._on_rejected("invalid_record", uri, fields)
            return Parsed(uri, kind, write, None)
        trusted = not isinstance(fields, Invite) or self._scope.is_trusted(commit.did, fields)
        row = Row(
            uri, commit.did, write.cid, commit.rev, revoked=False, fields=fields, trusted=trusted
        )
        return Parsed(uri, kind, write, row)

    def _read(self, write: Write, known: "_Known") -> "_Fields | str":
        """Return what a record says, or why it does not fit its lexicon."""
        key = (write.collection, write.cid or "")
        if key not in known:
            try:
                # A CID names one content, so what it says is found out once.
                known[key] = self._scope.read(write.collection, write.block or b"")
            except InvalidRecord as error:
                known[key] = str(error)
        return known[key]


def _is_malformed(change: Change) -> bool:
    return isinstance(change, Rejected) and change.reason == "malformed"


_Fields = Space | Invite | Verification
_Known = dict[tuple[str, str], _Fields | str]  # by collection and CID


def _copied(contents: Contents, uri: str, path: str | None) -> Write:
    """Return the write that a copy of a repo amounts to for one URI."""
    if path is None:
        _, _, _, collection, rkey = uri.split("/", 4)
        return Write(
            action="delete", collection=collection, rkey=rkey, cid=None, prev=None, block=None
        )
    cid, block = contents.records[path]
    collection, _, rkey = path.partition("/")
    return Write(action="create", collection=collection, rkey=rkey, cid=cid, prev=None, block=block)
