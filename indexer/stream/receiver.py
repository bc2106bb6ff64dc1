"""Frames to events in the inbox, and the position up to which the stream is read.

The position moves together with what is put into the inbox: both, or neither.
Where the stream does not go on as it should, this says so in the inbox.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import aclosing
from hashlib import sha256

from indexer import log
from indexer.store.cursors import Cursor
from indexer.stream.decode import MAX_SEQ, decode
from indexer.stream.events import Commit, Event, Info, Skipped, StreamError
from indexer.stream.firehose import Connection, Source
from indexer.stream.inbox import Inbox
from indexer.stream.sequence import FAR_AHEAD, Sequence, Verdict
from indexer.stream.stats import Stats
from indexer.turns import turn

SMALL_AT_ONCE = 16  # frames that are decoded before others get their turn, if they have waited
SMALL = 8_192  # bytes; a larger frame has a look at the clock for itself
OUTDATED_CURSOR = "OutdatedCursor"  # an #info: the relay has no longer all behind our cursor
# Said by nobody: the stream was joined at its live end, and what went before is not known.
JOINED_LIVE = Info("JoinedLive", None)

_log = log.get("receiver")


class Receiver:
    """Reads one relay's stream from behind `start`, or from its live end if that is None.

    Events of `collections` and of the `tracked` repos go into the inbox; a repo of which a commit
    comes is added to `tracked`. `known` is the frame at `start`, if it was read. What a replay (up
    to `last`) misses is not its business.
    """

    def __init__(
        self,
        source: Source,
        inbox: Inbox,
        *,
        collections: Collection[str],
        tracked: set[str],
        start: int | None,
        known: Cursor | None,
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
        self._sequence = Sequence()
        # The frame at the position: when it was sent, as the relay says; a mark that tells it from
        # others; and all of it while its mark is not made yet.
        self._seq = start
        self._sent = known.time if known else None
        self._mark = known.mark if known else None
        self._frame: bytes | None = None
        self._is_read = known is not None  # this frame was seen, here or by a process before
        self._held: Cursor | None = None  # what is stored until it is clear if a gap is a hole
        self._leaves = False  # the connection that is read
        self._is_replay = is_replay
        self._last = last
        self._stats = stats
        self._clock = clock
        self._dropped = log.OnceAMinute(_log, "frame.dropped")
        self._task: asyncio.Task[None] | None = None

    @property
    def position(self) -> Cursor | None:
        """The last frame that was read; None before the first, if it began at the live end.

        While it is not clear yet whether something before it was missed, it is the one before.
        """
        if self._held is not None or self._seq is None:
            return self._held
        if self._frame is not None:
            self._mark, self._frame = _mark_of(self._frame), None
        return Cursor(self._seq, self._sent, mark=self._mark)

    async def run(self) -> None:
        """Read until the source ends, the `last` seq, or `finish`."""
        if self.is_finished:
            return  # before it began
        self._task = asyncio.current_task()
        async with aclosing(self._source.connections(self._ask)) as connections:
            async for connection in connections:
                self.is_connected = True
                self._leaves = False
                self._sequence.connect(again=self._asks_again, may_lack=connection.stepped_over)
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

    @property
    def _asks_again(self) -> bool:
        """Whether the frame at the position is asked for once more, to see that it is the same."""
        return self._is_read and bool(self._seq) and not self._is_replay

    def _ask(self) -> int | None:
        """Return the seq to go on behind."""
        if self._held is not None:
            self._stand_at(self._held)
        return None if self._seq is None else self._seq - self._asks_again

    def _stand_at(self, position: Cursor | None) -> None:
        self._held = self._frame = None
        if position is None:
            self._seq = self._sent = self._mark = None
            self._is_read = False
        else:
            self._seq, self._sent, self._mark = position.seq, position.time, position.mark

    async def _read(self, connection: Connection) -> None:
        """Read one connection's frames until it ends, or until it makes no sense any more."""
        since = time.monotonic()
        async with aclosing(connection.frames()) as arriving:
            async for frames in arriving:
                for start in range(0, len(frames), SMALL_AT_ONCE):
                    since = await turn(since)
                    await self._take(connection, frames[start : start + SMALL_AT_ONCE])
                    if self._leaves:
                        return

    async def _take(self, connection: Connection, frames: list[bytes]) -> None:
        """Decode frames, and put what concerns us into the inbox."""
        stats = self._stats
        collections, tracked = self._collections, self._tracked
        skipped, sequence = stats.skipped, self._sequence
        near = FAR_AHEAD if self._last == MAX_SEQ else 0  # a replay looks where it is to end
        since = time.monotonic()
        for frame in frames:
            stats.frames += 1
            if len(frame) > SMALL:
                since = await turn(since)
            event = decode(frame, collections, tracked)
            if isinstance(event, Skipped):
                seq, sent, reason = event
                skipped[reason] += 1
                before = self._seq
                if seq is None:
                    continue  # it has no place in the stream
                if sequence.is_smooth and before is not None and before < seq <= before + near:
                    # What `_reach` does first, without the call: most frames end here.
                    self._seq, self._sent, self._frame = seq, sent, frame
                    continue
                self._reach(connection, seq, sent, frame)
            else:
                await self._take_event(connection, event, frame)
            if self._leaves:
                return

    async def _take_event(self, connection: Connection, event: Event, frame: bytes) -> None:
        """Put what concerns us into the inbox, and note where the stream stands."""
        if isinstance(event, StreamError):
            self._fail(event)
            return
        if isinstance(event, Commit):
            # From here on, not from when it is applied: what follows at once about this repo
            # concerns us too.
            self._tracked.add(event.repo)
        await self._inbox.room()
        if isinstance(event, Info):
            if event.name == OUTDATED_CURSOR:
                self._sequence.told_of_gap()
        elif event.seq is not None and not self._reach(connection, event.seq, event.time, frame):
            return
        self._inbox.put(event)  # no await since the position moved: both, or neither

    def _reach(self, connection: Connection, seq: int, sent: str | None, frame: bytes) -> bool:
        """Move the position; return whether the frame counts. The connection may have to end."""
        before = self._seq
        if (
            self._sequence.is_smooth
            and before is not None
            and before < seq <= before + FAR_AHEAD
            and seq <= self._last
        ):
            self._seq, self._sent, self._frame = seq, sent, frame
            return True
        if seq > self._last:
            self.is_finished = self._leaves = True
            return False
        is_same = seq == before and self._is_here(sent, frame)
        verdict = self._sequence.step(before, seq, self._stats.frames, is_same=is_same)
        if verdict is Verdict.REPEATED:
            if before is not None and seq < before:
                self._stats.rejected["out_of_order"] += 1
                self._dropped.tell(reason="out_of_order", seq=seq, cursor=before)
            return False
        self._held = self.position if verdict is Verdict.UNDECIDED else None
        self._tell(verdict, seq, before)
        if verdict is Verdict.REPLACED:
            self._stand_at(None)
            self._leaves = True
            return False
        self._seq, self._sent, self._frame, self._is_read = seq, sent, frame, True
        connection.useful = True
        return True

    def _is_here(self, sent: str | None, frame: bytes) -> bool:
        """Whether this is the frame at the position, as far as that is known."""
        here = self.position
        assert here is not None  # noqa: S101 (it was asked for again)
        return here.mark == _mark_of(frame) if here.mark else here.time == sent

    def _tell(self, verdict: Verdict, seq: int, cursor: int | None) -> None:
        """Have every repo checked, if that is what a frame's seq leads to."""
        if verdict in (Verdict.GOES_ON, Verdict.UNDECIDED):
            return
        if self._is_replay:
            _log.warning("stream.jumped", seq=seq, cursor=cursor)
        elif verdict is Verdict.MISSED:
            self._inbox.put(Info(OUTDATED_CURSOR, f"the relay goes on at {seq}, behind {cursor}"))
        elif verdict is Verdict.RENUMBERED:
            self._inbox.put(StreamError("WentBack", f"the relay goes on at {seq}, not at {cursor}"))
        else:
            self._inbox.put(StreamError("Renumbered", f"the relay has another frame at {seq} now"))

    def _fail(self, error: StreamError) -> None:
        self._leaves = True
        if error.name == "FutureCursor" and not self._is_replay:
            # Our cursor belongs to another sequence than the one that this relay counts now.
            self._inbox.put(error)
            self._stand_at(None)
            return
        _log.warning("stream.failed", error=error.name, message=error.message, cursor=self._seq)
        if error.name == "FutureCursor":
            self.error = error
            self.is_finished = True


def _mark_of(frame: bytes) -> bytes:
    """Return what tells a frame from others."""
    return sha256(frame).digest()[:16]
