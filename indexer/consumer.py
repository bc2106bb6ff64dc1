"""The loop: frames in, one transaction a batch, the cursor inside.

Two tasks share an inbox. `_receive` decodes frames as they come; `_apply` takes what has
gathered, checks it and writes it together with the position up to which it reaches.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from indexer import log
from indexer.decode import MAX_SEQ, UndecodableFrame, decode
from indexer.events import (
    Account,
    Commit,
    Event,
    Identity,
    Info,
    Rejected,
    Skipped,
    StreamError,
    Sync,
)
from indexer.firehose import Connection, Source
from indexer.inbox import Inbox
from indexer.projection import Change, Desynchronize, Projection
from indexer.prove import Prover
from indexer.records import Scope
from indexer.stats import Stats
from indexer.store import cursors, repos
from indexer.store.cursors import Cursor
from indexer.store.db import Database, Transaction
from indexer.verify import is_old_form

GATHER = 0.05  # seconds that a batch waits for more: a busy stream is written in few commits
FAR_AHEAD = 10_000  # seqs that a relay may leave out; beyond it a stretch is lost, or renumbered
VERIFY_RUN = 64  # events that are checked before others get their turn
CURSOR_INTERVAL = 0.9  # seconds; with GATHER, the cursor moves at least once a second
POISON_TRIES = 3  # connections that break at one place before that frame is stepped over
OUTDATED_CURSOR = "OutdatedCursor"  # an #info: the relay has no longer all behind our cursor
# Said by nobody: the stream was joined at its live end, and what went before is not known.
_JOINED_LIVE = Info("JoinedLive", None)

_log = log.get("consumer")

Checkpoint = Callable[[Transaction, Cursor | None], Awaitable[None]]


class Consumer:
    """Reads one relay's stream into the index, until the source ends, if it does.

    `start` is the seq to begin behind, or None for the live end. `checkpoint` is awaited inside
    each batch's transaction with the position that the batch reaches: the daemon stores its
    cursor there, a replay does not. A replay may have a `last` seq, and since the live stream
    is not its business, what it misses marks no repo, and a FutureCursor ends it.
    """

    def __init__(
        self,
        db: Database,
        scope: Scope,
        prover: Prover,
        *,
        source: Source,
        relay: str,
        start: int | None,
        checkpoint: Checkpoint,
        is_replay: bool = False,
        last: int = MAX_SEQ,
        stats: Stats | None = None,
        forget_identity: Callable[[str], None] = lambda did: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.stats = stats or Stats()
        self.is_connected = False
        self.error: StreamError | None = None  # of a replay, which ended by it
        self._seq = start
        self._sent: str | None = None  # when, as the relay says
        self._db = db
        self._scope = scope
        self._prover = prover
        self._projection = Projection(scope, relay)
        self._checkpoint = checkpoint
        self._is_replay = is_replay
        self._last = last
        self._finished = False
        self._forget_identity = forget_identity
        self._clock = clock
        self._source = source
        self._inbox = Inbox()
        self._tracked: set[str] = set()
        self._last_repo = 0
        self._poison = 0  # connections in a row that broke at an undecodable frame
        self._saved: Cursor | None = self.position
        self._receiving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Read to the end or the `last` seq. Raises what is our own fault, the cursor unmoved."""
        await self._track_newcomers()
        async with asyncio.TaskGroup() as tasks:
            self._receiving = tasks.create_task(self._receive(), name="receive")
            tasks.create_task(self._apply_batches(), name="apply")

    def finish(self) -> None:
        """Read no more; `run` returns once what has come is applied."""
        if self._receiving is not None and not self._finished:
            self._receiving.cancel()  # once: a second time would break off its goodbye to the relay
        self._finished = True

    @property
    def position(self) -> Cursor | None:
        """The last frame that was read; None before the first, if it began at the live end."""
        return None if self._seq is None else Cursor(self._seq, self._sent)

    @property
    def is_settled(self) -> bool:
        """Whether everything that has come is applied."""
        return self._saved == self.position

    @property
    def applied(self) -> Cursor | None:
        """The position up to which everything is in the index."""
        return self._saved

    async def _receive(self) -> None:
        if self._finished:
            return  # before it began
        async with aclosing(self._source.connections(lambda: self._seq)) as connections:
            async for connection in connections:
                self.is_connected = True
                if self._seq is None and not self._is_replay:
                    # A repo that was checked before we listened may have changed since.
                    self._inbox.put(_JOINED_LIVE)
                await self._read(connection)
                self.is_connected = False
                self.stats.left_at = self._clock()
                if self._finished:
                    return
        self._finished = True

    async def _read(self, connection: Connection) -> None:
        """Read one connection's frames until it ends, or until it makes no sense any more."""
        async with aclosing(connection.frames()) as arriving:
            async for frames in arriving:
                if not await self._take(connection, frames):
                    return

    async def _take(self, connection: Connection, frames: list[bytes]) -> bool:
        """Decode frames, and put what concerns us into the inbox; False to leave the connection."""
        stats, inbox = self.stats, self._inbox
        collections, tracked = self._scope.collections, self._tracked
        for frame in frames:
            stats.frames += 1
            try:
                event = decode(frame, collections, tracked)
            except UndecodableFrame as error:
                if not self._steps_over(error):
                    return False
                continue
            if isinstance(event, Skipped):
                stats.skipped[event.reason] += 1
                if event.seq is not None and not self._reach(connection, event.seq, event.time):
                    return False
                continue
            if isinstance(event, StreamError):
                self._fail(event)
                return False
            if isinstance(event, Commit):
                # From here on, not from when it is applied: what follows at once about this
                # repo concerns us too.
                tracked.add(event.repo)
            await inbox.room()
            if isinstance(event, Info):
                connection.told_of_gap |= event.name == OUTDATED_CURSOR
            elif event.seq is not None and not self._reach(connection, event.seq, event.time):
                return False
            inbox.put(event)  # no await since the position moved: both, or neither
        return True

    def _reach(self, connection: Connection, seq: int, sent: str | None) -> bool:
        """Move the position; False if that is beyond the last frame that is wanted."""
        if seq > self._last:
            self._finished = True
            return False
        before = self._seq
        if before is not None and not before <= seq <= before + FAR_AHEAD:
            if connection.jumped:
                return False  # it makes no sense: another connection may
            self._follow(connection, before, seq)
        self._seq, self._sent = seq, sent
        self._poison = 0
        connection.useful = True
        return True

    def _follow(self, connection: Connection, cursor: int, seq: int) -> None:
        """Go on at a seq that does not continue the stream, and have every repo checked."""
        if seq > cursor and (cursor == 0 or (connection.told_of_gap and not connection.useful)):
            return  # the oldest that the relay has was asked for, or it spoke of this very gap
        connection.jumped = not connection.may_jump
        if self._is_replay:
            _log.warning("stream.jumped", seq=seq, cursor=cursor)
        elif seq < cursor:
            self._inbox.put(StreamError("WentBack", f"the relay goes on at {seq}, behind {cursor}"))
        else:
            self._inbox.put(Info(OUTDATED_CURSOR, f"the relay goes on at {seq}, far from {cursor}"))

    def _steps_over(self, error: UndecodableFrame) -> bool:
        """Whether to go on behind an undecodable frame; if not, a new connection may cure it."""
        self._poison += 1
        if self._poison < POISON_TRIES:
            _log.warning("frame.undecodable", error=str(error), cursor=self._seq)
            return False
        if self._poison == POISON_TRIES:
            _log.error("frame.stepped_over", error=str(error), cursor=self._seq)
        self.stats.rejected["undecodable"] += 1
        return True

    def _fail(self, error: StreamError) -> None:
        if error.name == "FutureCursor" and not self._is_replay:
            # Our cursor belongs to another sequence than the one that this relay counts now.
            self._inbox.put(error)
            self._seq = self._sent = None
            return
        _log.warning("stream.failed", error=error.name, message=error.message, cursor=self._seq)
        if error.name == "FutureCursor":
            self.error = error
            self._finished = True

    async def _apply_batches(self) -> None:
        while True:
            await self._inbox.filled(CURSOR_INTERVAL)
            if not self._inbox.is_full:
                await asyncio.sleep(GATHER)
            is_last_take = self._finished
            for batch in self._inbox.take(self.position):
                await self._apply(batch.events, batch.position)
            await self._track_newcomers()
            self.stats.beat_at = self._clock()
            if is_last_take:
                return

    async def _apply(self, events: list[Event], position: Cursor | None) -> None:
        """Write a batch of events and the position that it reaches, in one transaction."""
        if not events and position == self._saved:
            return
        now = int(self._clock() * 1000)
        await self._prover.learn(
            event.repo if isinstance(event, Commit) else event.did
            for event in events
            if isinstance(event, Commit | Sync)
        )
        changes = []
        for count, event in enumerate(events, 1):
            if (change := await self._proven(event, now)) is not None:
                changes.append(change)
            if count % VERIFY_RUN == 0:
                await asyncio.sleep(0)
        began = time.perf_counter()
        async with self._db.transaction() as tx:
            self.stats.rejected.update(await self._projection.apply(tx, changes, now))
            if position != self._saved:
                # The last statement of the same transaction, so that a crash leaves both or
                # neither: no frame is lost, and one that comes again changes nothing.
                await self._checkpoint(tx, position and replace(position, applied_at=now))
        self._saved = position
        self.stats.moved_at = now / 1000
        self.stats.batch_events.add(len(events))
        self.stats.batch_seconds.add(time.perf_counter() - began)

    async def _proven(self, event: Event, now: int) -> Change | None:
        change: Change | None = None
        self.stats.events[type(event).__name__.lower()] += 1
        match event:
            case Commit() | Sync():
                change = await self._prover.prove(event, now)
            case Account() | Rejected():
                change = event
            case Identity(did=did):
                self._forget_identity(did)
            case Info() if event is _JOINED_LIVE:
                change = Desynchronize()
            case Info(name, message) if name != OUTDATED_CURSOR or self._is_replay:
                _log.warning("stream.informed", name=name, message=message)
            case Info(name, message) | StreamError(name, message):
                _log.warning(
                    "stream.broken",
                    reason=name,
                    message=message,
                    action="every tracked repo is checked again",
                )
                change = Desynchronize(renumbered=isinstance(event, StreamError))
            case Skipped():
                pass
        if isinstance(change, Rejected):
            self.stats.rejected[change.reason] += 1
        elif isinstance(event, Commit) and is_old_form(event):
            self.stats.noted["old_form"] += 1
        return change

    async def _track_newcomers(self) -> None:
        """Learn which repos are tracked since the last look, also by a replay beside us."""
        self._last_repo, dids = await repos.newcomers(self._db, self._last_repo)
        self._tracked.update(dids)


def cursor_checkpoint(relay: str) -> Checkpoint:
    """Return the daemon's checkpoint: the cursor of this relay host."""

    async def save(tx: Transaction, position: Cursor | None) -> None:
        if position is None:
            await cursors.forget(tx, relay)
        else:
            await cursors.save(tx, relay, position)

    return save
