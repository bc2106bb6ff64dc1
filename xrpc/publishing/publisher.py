"""The outbox loop: what was revoked here is deleted from its repo, however long that takes.

A row is claimed, its deletion is asked for, and what the PDS says is written down. A crash at
any point repeats a step that does no harm: a deletion of what is gone is no change.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from weakref import WeakValueDictionary

from indexer import log
from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.net.health import ClockWatch, HostHealth
from indexer.store import outbox, pause, tombstones
from indexer.store.db import Database, Reader, Transaction
from indexer.store.outbox import Deletion
from indexer.store.tombstones import is_revoked
from xrpc.publishing.pds import (
    MAX_WRITES,
    AccountInactiveError,
    PdsClient,
    PdsError,
    PdsRefusedError,
    PdsUnavailableError,
    Target,
    TokenRefusedError,
)
from xrpc.publishing.sessions import NoSessionError, Session, Sessions
from xrpc.publishing.writing import has_moved, is_about_records, with_session

REST = 0.1  # seconds between the starts of what is nudged, so that one repo's come together
POLL = 2.0  # seconds between looks at the outbox; `rescind login` and `retry` write to it too
LEASE = 120.0  # seconds; a claim falls due again after this, even if we crash
CONFIRM_WITHIN = 60.0  # seconds for the firehose to show a deletion, before the PDS is asked
MAX_REPOS = 16  # repos that are published at once
SPREAD = 200  # repos that one look takes up
RESOLVE_AGAIN = 30.0  # seconds until a DID that can't be resolved is tried again
MAX_ERROR = 300  # characters of what went wrong

_ANOTHER = "another"  # no rev: what a deletion comes to where it is not to be done

_log = log.get("publisher")


class Publisher:
    """Publishes the deletions of the outbox. One of these runs in a daemon."""

    def __init__(
        self,
        db: Database,
        sessions_: Sessions,
        resolver: IdentityResolver,
        pds: PdsClient,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._sessions = sessions_
        self._resolver = resolver
        self._pds = pds
        self._clock = clock
        self._health = HostHealth(clock)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._slots = asyncio.Semaphore(MAX_REPOS)
        self._wake = asyncio.Event()
        self._nudged: dict[str, None] = {}  # repos, in their order
        self._look_at = -math.inf  # the event loop's time, in seconds
        self._watch = ClockWatch(clock)
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Publish for ever. Raises what is our own fault."""
        async with asyncio.TaskGroup() as self._group:  # first: calls come in meanwhile
            self._group.create_task(self._sessions.keep_alive(self._resolver))
            running: dict[str, asyncio.Task[None]] = {}
            while True:
                self._wake.clear()
                if self._watch.begins_anew():
                    async with self._db.transaction() as tx:
                        await outbox.release(tx, self._now())
                running = {did: task for did, task in running.items() if not task.done()}
                nudged, self._nudged = self._nudged, {}
                for did in (*await self._due(len(running)), *nudged):
                    if did not in running:
                        running[did] = self._group.create_task(self.publish_repo(did))
                try:
                    async with asyncio.timeout(POLL):
                        await self._wake.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(REST)

    async def _due(self, running: int) -> list[str]:
        """Look, but not too often, which repos have something to do."""
        now = asyncio.get_running_loop().time()
        if now < self._look_at or await pause.load(self._db) is not None:
            return []
        self._look_at = now + POLL
        # Those under way may wait for a slow host: they must not hide the others.
        return await outbox.due_repos(self._db, self._now(), SPREAD + running)

    def nudge(self, did: str) -> None:
        """Publish soon, within `REST` if nothing else is under way, what is due of this repo."""
        self._nudged[did] = None
        self._wake.set()

    async def publish(self, dids: Iterable[str], within: float) -> None:
        """Publish what is due of these repos, and wait for that at most `within` seconds.

        What is not done by then goes on; the outbox says how far it is.
        """
        if self._group is None:
            raise RuntimeError("the publisher does not run")
        tasks = [self._group.create_task(self.publish_repo(did, insist=True)) for did in dids]
        if tasks:
            await asyncio.wait(tasks, timeout=max(within, 0.0))

    async def publish_repo(self, did: str, *, insist: bool = False) -> None:
        """Do what is due for one repo, once; a call meanwhile waits for its turn.

        With `insist` a PDS that has failed is asked all the same: it may be back.
        """
        turn = self._turns.setdefault(did, asyncio.Lock())
        async with turn:
            while await self._publish_some(did, insist):
                pass

    async def _publish_some(self, did: str, insist: bool) -> bool:
        """Take one step; return whether there may be more to do."""
        if await pause.load(self._db) is not None:
            return False
        if not (await self._is_due(did, "sent") or await self._is_due(did, "pending")):
            return False
        again = self._clock() + RESOLVE_AGAIN
        try:
            identity = await self._resolver.resolve(did)
        except IdentityError as error:
            return await self._postpone(did, f"the DID can't be resolved: {error}", again)
        pds = identity.pds
        if pds is None:
            return await self._postpone(did, identity.without_pds, again)
        # The host's turn first: repos that wait for a slow host take no slot from the others.
        ordered = await outbox.ordered_at(self._db, did)
        asked_at = -math.inf if ordered is None else ordered / 1000
        turn = self._health.turn(pds, insist=insist, asked_at=asked_at)
        async with turn as is_well, self._slots:
            if not is_well:
                await self._postpone(did, self._health.error(pds), self._health.until(pds))
                return False
            if checks := await self._claim(did, "sent"):
                return await self._check(pds, checks)
            if not await self._is_due(did, "pending"):
                return False
            try:
                session = await self._sessions.get(did)
            except NoSessionError as reason:
                return await self._block(did, str(reason))
            claimed = await self._claim(did, "pending")
            return await self._delete(pds, session, claimed) if claimed else False

    async def _is_due(self, did: str, state: str) -> bool:
        return await outbox.is_due(self._db, did, state, self._now())

    async def _claim(self, did: str, state: str) -> list[Deletion]:
        if not await self._is_due(did, state):
            return []
        now = self._now()
        until = now + int(LEASE * 1000)
        return await self._db.write(
            lambda tx: outbox.claim(tx, did, state, now=now, until=until, limit=MAX_WRITES)
        )

    async def _delete(self, pds: str, session: Session, rows: list[Deletion]) -> bool:
        """Delete what was claimed, after a refresh of the session if it has run out.

        What is done leaves `rows`.
        """
        try:
            await with_session(
                self._sessions,
                self._resolver,
                session,
                pds,
                lambda current: self._delete_with(pds, current, rows),
            )
        except NoSessionError as reason:
            return await self._block(session.did, str(reason))
        except PdsError as error:
            moved = await has_moved(self._resolver, session.did, pds)
            await self._fail(rows, pds, error, self._now() if moved else None)
            return moved
        self._health.succeeded(pds)
        return True

    async def _delete_with(self, pds: str, session: Session, rows: list[Deletion]) -> None:
        versions = await self._versions(rows)
        together = [row for row in rows if row.uri not in versions]
        if len(together) > 1:
            try:
                rev = await self._pds.delete_records(pds, session.access, _targets(together))
            except PdsError as error:
                if not is_about_records(error):
                    raise
                count = len(together)
                _log.info("publish.split", repo=session.did, count=count, error=str(error))
            else:
                if rev is None:
                    gone = await self._look(pds, together)
                else:
                    await self._sent([row.uri for row in together], rev)
                    gone = together
                for row in gone:
                    rows.remove(row)
                if len(gone) < len(together):
                    raise _kept()
        await self._delete_each(pds, session, rows, versions)

    async def _versions(self, rows: list[Deletion]) -> dict[str, str]:
        """Return the CIDs of the invites among these that were seen.

        An invite is its token: what stands at its URI by now may carry another one, which nobody
        revoked. (Of a verification no version lives until its deletion is acknowledged.)
        """
        stones = await tombstones.load(self._db, [row.uri for row in rows])
        return {s.uri: s.cid for s in stones if s.kind == "invite" and s.cid and is_revoked(s)}

    async def _delete_each(
        self, pds: str, session: Session, rows: list[Deletion], versions: Mapping[str, str]
    ) -> None:
        """Delete one by one. A refusal of one, perhaps for good, does not hold up the others."""
        refusal: PdsRefusedError | None = None
        for row, target in zip(tuple(rows), _targets(rows), strict=True):
            try:
                rev = await self._delete_version(pds, session, target, versions.get(row.uri))
                if rev == _ANOTHER:
                    await self._db.write(
                        lambda tx, row=row: outbox.mark_gone(  # type: ignore[misc]
                            tx, row.uri, row.record_rev, self._now()
                        )
                    )
                    _log.info("publish.replaced", uri=row.uri)
                elif rev is None:
                    if not await self._is_gone(pds, row, await self._newest(pds, row.did)):
                        raise _kept()
                else:
                    await self._sent([row.uri], rev)
            except (TokenRefusedError, AccountInactiveError):
                raise
            except PdsRefusedError as error:
                refusal = error
            else:
                rows.remove(row)
        if refusal is not None:
            raise refusal

    async def _delete_version(
        self, pds: str, session: Session, target: Target, cid: str | None
    ) -> str | None:
        """Delete a record, or only this version of it; `_ANOTHER` if one stands that may stay."""
        try:
            return await self._pds.delete_record(pds, session.access, target, cid)
        except PdsRefusedError as refused:
            if refused.error != "InvalidSwap":
                raise
        now_there = await self._pds.record_cid(pds, target)
        if now_there is not None and not await self._is_revoked(self._db, target.uri, now_there):
            return _ANOTHER
        return await self._pds.delete_record(pds, session.access, target, now_there)

    async def _sent(self, uris: list[str], rev: str) -> None:
        now = self._now()
        check_at = now + int(CONFIRM_WITHIN * 1000)

        async def note(tx: Transaction) -> None:
            await outbox.mark_sent(tx, uris, rev, now=now, check_at=check_at)
            # What was written before this deletion is gone with it, also what is still to come
            # on the firehose; what is written later is a new grant.
            await tombstones.advance(tx, uris, rev)

        await self._db.write(note)
        _log.info("publish.sent", count=len(uris), rev=rev, uri=uris[0])

    async def _look(self, pds: str, rows: list[Deletion]) -> list[Deletion]:
        """The PDS took a commit without naming it: return those that are gone, as it says."""
        newest = await self._newest(pds, rows[0].did)
        return [row for row in rows if await self._is_gone(pds, row, newest)]

    async def _newest(self, pds: str, did: str) -> str:
        """Return the rev of the repo's newest commit, or '' if its PDS does not say."""
        try:
            return await self._pds.latest_rev(pds, did)
        except PdsError:
            return ""  # the firehose will tell

    async def _is_gone(self, pds: str, row: Deletion, newest: str) -> bool:
        """The PDS took the deletion and named no commit: ask whether the record is there.

        If not, nothing up to `newest`, the rev of a commit from before we ask, lives.
        """
        [target] = _targets([row])
        cid = await self._pds.record_cid(pds, target)
        if cid is not None:
            if await self._is_revoked(self._db, target.uri, cid):
                return False
            newest = ""  # written again meanwhile: that is a new grant
        now = self._now()
        async with self._db.transaction() as tx:
            is_gone = await outbox.mark_gone(tx, row.uri, row.record_rev, now)
            await tombstones.advance(tx, [target.uri], newest)
        if is_gone:
            _log.info("publish.confirmed", uri=target.uri, by="pds")
        return True

    async def _check(self, pds: str, rows: list[Deletion]) -> bool:
        """The firehose has not shown these deletions: ask the PDS whether they happened."""
        for row in rows:
            try:
                [target] = _targets([row])
                cid = await self._pds.record_cid(pds, target)
            except PdsError as error:
                return await self._fail(rows, pds, error)
            now = self._now()
            async with self._db.transaction() as tx:
                if cid is not None and await self._is_revoked(tx, row.uri, cid):
                    await outbox.enqueue(tx, [(row.uri, row.record_rev)], now)
                else:  # gone, or another version stands there: a new grant
                    await outbox.mark_gone(tx, row.uri, row.record_rev, now)
            _log.info("publish.checked", uri=row.uri, found=cid is not None)
        return True

    @staticmethod
    async def _is_revoked(db: Reader, uri: str, cid: str) -> bool:
        stones = await tombstones.load(db, [uri])
        return any(stone.cid == cid and is_revoked(stone) for stone in stones)

    async def _fail(
        self, rows: list[Deletion], pds: str, error: PdsError, retry_at: int | None = None
    ) -> bool:
        """Put rows off: with their whole host if it is not well, else each by its own count."""
        if isinstance(error, PdsUnavailableError):
            self._health.failed(pds, str(error), error.retry_after)
        if retry_at is None:
            attempts = max(row.attempts for row in rows)
            own = self._clock() + self._health.delay(attempts)
            retry_at = math.ceil(max(own, self._health.until(pds)) * 1000)
        now = self._now()
        async with self._db.transaction() as tx:
            uris = [row.uri for row in rows]
            await outbox.mark_failed(
                tx, uris, str(error)[:MAX_ERROR], now=now, retry_at=retry_at, until=rows[0].due_at
            )
        _log.warning(
            "publish.failed",
            repo=rows[0].did,
            pds=pds,
            count=len(rows),
            attempts=rows[0].attempts,
            retry_in_s=round((retry_at - now) / 1000, 1),
            error=str(error)[:MAX_ERROR],
        )
        return False

    async def _postpone(self, did: str, error: str, until: float) -> bool:
        """Put off all that is due for a repo whose PDS can't be asked now. Unix seconds."""
        now, error = self._now(), error[:MAX_ERROR]
        async with self._db.transaction() as tx:
            count = await outbox.postpone(tx, did, error, now=now, retry_at=math.ceil(until * 1000))
        if count:
            _log.info("publish.postponed", repo=did, count=count, error=error)
        return False

    async def _block(self, did: str, reason: str) -> bool:
        async with self._db.transaction() as tx:
            if await self._sessions.is_usable(tx, did):
                return True  # `rescind login` was quicker, and found nothing to unblock
            count = await outbox.block_repo(tx, did, reason[:MAX_ERROR], self._now())
        if count:
            _log.warning("publish.blocked", repo=did, count=count, reason=reason)
        return False

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _kept() -> PdsRefusedError:
    return PdsRefusedError("NotDeleted", "the PDS took the deletion, and still has it")


def _targets(rows: list[Deletion]) -> list[Target]:
    return [Target(row.uri, row.did, row.collection, row.rkey) for row in rows]
