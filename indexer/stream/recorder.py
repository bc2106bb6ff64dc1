"""A relay's stream into a file; of what it says no more is looked at than its order."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from indexer import log
from indexer.stream.decode import MAX_SEQ, decode
from indexer.stream.events import Info, Rejected, StreamError
from indexer.stream.firehose import Source
from indexer.stream.recording import RecordingError, Writer
from indexer.stream.sequence import BACK_IN_A_ROW, FAR_AHEAD

FLUSH_EVERY = 1.0  # seconds; what a kill may cost

_log = log.get("recorder")


@dataclass(frozen=True, slots=True)
class Recorded:
    """How far a recording is."""

    frames: int
    rate: float  # frames a second, over the whole recording
    first: int | None  # seq; None before the first frame
    last: int | None
    size: int  # bytes of the file


class Recorder:
    """Records what a source sends behind `start`, or from its live end if that is None.

    It ends with the seq `last` or after `most` frames, if not before.
    """

    def __init__(
        self,
        source: Source,
        writer: Writer,
        *,
        start: int | None,
        last: int | None = None,
        most: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._writer = writer
        self._seq = start
        self._last = MAX_SEQ if last is None else last
        self._most = most
        self._clock = clock
        self._began = clock()
        self._first: int | None = None
        self._frames = 0
        self._is_over = False
        self._back = 0  # frames in a row that went back
        self._left_out = log.OnceAMinute(_log, "frame.left_out")

    @property
    def recorded(self) -> Recorded:
        rate = self._frames / max(self._clock() - self._began, 0.001)
        last = None if self._first is None else self._seq
        return Recorded(self._frames, rate, self._first, last, self._writer.size)

    async def run(self, stop: asyncio.Event, report: Callable[[Recorded], None]) -> None:
        """Record to the end, or until `stop` is set; `report` is called about once a second.

        Raises `RecordingError` if the file can't be written or the stream does not go on. In any
        case all that came is in the file.
        """
        receiving = asyncio.create_task(self._receive())
        stopping = asyncio.create_task(stop.wait())
        tasks = {receiving, stopping}
        try:
            while not receiving.done() and not stopping.done():
                await asyncio.wait(tasks, timeout=FLUSH_EVERY, return_when=asyncio.FIRST_COMPLETED)
                self._writer.flush()
                report(self.recorded)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.flush()
        if not receiving.cancelled():
            receiving.result()

    async def _receive(self) -> None:
        async with aclosing(self._source.connections(lambda: self._seq)) as connections:
            async for connection in connections:
                async with aclosing(connection.frames()) as arriving:
                    async for frames in arriving:
                        before = self._frames
                        goes_on = all(map(self._take, frames))
                        connection.useful |= self._frames > before
                        if not goes_on:
                            break
                if self._is_over:
                    return

    def _take(self, frame: bytes) -> bool:
        """Record a frame; False to leave the connection."""
        event = decode(frame, (), ())
        if isinstance(event, StreamError):
            if event.name == "FutureCursor":
                reason = event.message or "no reason given"
                raise RecordingError(f"the relay refuses: {event.name} ({reason})")
            _log.warning("stream.failed", error=event.name, message=event.message, cursor=self._seq)
            return False
        if isinstance(event, Rejected) and event.seq is None:
            self._left_out.tell(event.what, what=event.what, cursor=self._seq)
            return True  # what has no place in the stream could not be played again from there
        if isinstance(event, Info):
            _log.warning("stream.informed", name=event.name, message=event.message)
        elif event.seq is not None and not self._reach(event.seq):
            return not self._is_over
        self._writer.add(frame)
        self._frames += 1
        self._is_over |= self._frames == self._most
        return not self._is_over

    def _reach(self, seq: int) -> bool:
        """Move on to a frame's seq; False if it goes back, or beyond the last that is wanted."""
        self._back = self._back + 1 if self._seq is not None and seq < self._seq else 0
        if 0 < self._back < BACK_IN_A_ROW:
            self._left_out.tell("out_of_order", what="a seq that goes back", cursor=self._seq)
            return False
        if self._back:
            # In one file there is one sequence.
            raise RecordingError(
                f"the relay goes on at {seq}, behind {self._seq}: it counts anew. "
                "What came before is in the file"
            )
        if seq > self._last:
            self._is_over = True
            return False
        if self._seq and seq > self._seq + FAR_AHEAD:
            _log.warning("stream.jumped", seq=seq, cursor=self._seq)
        self._seq = seq
        self._first = seq if self._first is None else self._first
        self._is_over = seq == self._last
        return True
