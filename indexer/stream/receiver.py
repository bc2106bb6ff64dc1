"""Frames to events in the inbox, and the position up to which the stream is read.

The position moves together with what is put into the inbox: both, or neither.
Where the stream does not go on as it should, this says so in the inbox, or leaves the connection.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import aclosing

from indexer import log
from indexer.store.cursors import Cursor
from indexer.stream.decode import decode
from indexer.stream.events import Commit, Info, Skipped, StreamError
from indexer.stream.firehose import Connection, Source
from indexer.stream.inbox import Inbox
from indexer.stream.stats import Stats

FAR_AHEAD = 10_000  # seqs that a relay may leave out; beyond it a stretch is lost, or renumbered
OUTDATED_CURSOR = "OutdatedCursor"  # an #info: the relay has no longer all behind our cursor
# Said by nobody: the stream was joined at its live end, and what went before is not known.
JOINED_LIVE = Info("JoinedLive", None)

_log = log.get("receiver")


class Receiver:
    """Reads one relay's stream from behind `start`, or from its live end if that is None.

    Events of `collections` and of the `tracked` repos go into the inbox; a repo of which a commit
    comes is added to `tracked`. What a replay (up to `last`) misses is not its business.
    """

    def __init__(
        self,
        source: Source,
        inbox: Inbox,
        *,
        collections: Collection[str],
        tracked: set[str],
        start: int | None,
        is_replay: bool,
        last: int,
        stats: Stats,
        clock: Callable[[], float],
    ) -> None:
        self.is_connected = False
        self.is_finished = False  # it will read no more
        self.error: StreamError | None = None  # of a replay, which ended by it
        self._source = source
        self._inbox = inbox
        self._collections = collections
        self._tracked = tracked
        self._seq = start
        self._sent: str | None = None  # when, as the relay says
        self._is_replay = is_replay
        self._last = last
        self._stats = stats
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    @property
    def position(self) -> Cursor | None:
        """The last frame that was read; None before the first, if it began at the live end."""
        return None if self._seq is None else Cursor(self._seq, self._sent)

    async def run(self) -> None:
        """Read until the source ends, the `last` seq, or `finish`."""
        if self.is_finished:
            return  # before it began
        self._task = asyncio.current_task()
        async with aclosing(self._source.connections(lambda: self._seq)) as connections:
            async for connection in connections:
                self.is_connected = True
                if self._seq is None and not self._is_replay:
                    # A repo that was checked before we listened may have changed since.
                    self._inbox.put(JOINED_LIVE)
                await self._read(connection)
                self.is_connected = False
                self._stats.left_at = self._clock()
                if self.is_finished:
                    return
        self.is_finished = True

    def finish(self) -> None:
        """Read no more; `run` returns once the relay has its goodbye."""
        if self._task is not None and not self.is_finished:
            self._task.cancel()  # once: a second time would break off its goodbye to the relay
        self.is_finished = True

    async def _read(self, connection: Connection) -> None:
        """Read one connection's frames until it ends, or until it makes no sense any more."""
        async with aclosing(connection.frames()) as arriving:
            async for frames in arriving:
                if not await self._take(connection, frames):
                    return

    async def _take(self, connection: Connection, frames: list[bytes]) -> bool:
        """Decode frames, and put what concerns us into the inbox; False to leave the connection."""
        stats, inbox = self._stats, self._inbox
        collections, tracked = self._collections, self._tracked
        for frame in frames:
            stats.frames += 1
            event = decode(frame, collections, tracked)
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
            self.is_finished = True
            return False
        before = self._seq
        if before is not None and not before <= seq <= before + FAR_AHEAD:
            if connection.jumped:
                return False  # it makes no sense: another connection may
            self._follow(connection, before, seq)
        self._seq, self._sent = seq, sent
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

    def _fail(self, error: StreamError) -> None:
        if error.name == "FutureCursor" and not self._is_replay:
            # Our cursor belongs to another sequence than the one that this relay counts now.
            self._inbox.put(error)
            self._seq = self._sent = None
            return
        _log.warning("stream.failed", error=error.name, message=error.message, cursor=self._seq)
        if error.name == "FutureCursor":
            self.error = error
            self.is_finished = True
