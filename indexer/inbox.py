"""Where decoded events wait to be applied, together with the position that they reach."""

import asyncio
from dataclasses import dataclass

from indexer.events import Commit, Event, Info, StreamError, Sync
from indexer.store.cursors import Cursor

MAX_WAITING = 4_000  # events in the inbox; beyond it the socket is left unread
MAX_WAITING_BYTES = 64_000_000  # bytes of CARs and operations in the inbox, likewise
MAX_BATCH = 1_000  # events
MAX_BATCH_BYTES = 8_000_000  # likewise
OP_BYTES = 300  # that an operation takes besides its path


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction applies, and the position that holds once it is."""

    events: list[Event]
    position: Cursor | None


class Inbox:
    """Filled by one task and emptied by another of the same event loop. Bounded."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._bytes = 0
        self._taken: Cursor | None = None  # up to here
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, event: Event) -> None:
        """Add an event; await `room` before."""
        self._events.append(event)
        self._bytes += _size(event)
        self._filled.set()
        if len(self._events) >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES:
            self._room.clear()

    @property
    def is_full(self) -> bool:
        return not self._room.is_set()

    async def room(self) -> None:
        """Wait until there is room: the back-pressure that a fast relay feels."""
        if self.is_full:
            await self._room.wait()

    async def filled(self, within: float) -> None:
        """Wait until there is an event, or `within` seconds have gone by."""
        try:
            async with asyncio.timeout(within):
                await self._filled.wait()
        except TimeoutError:
            return

    def take(self, position: Cursor | None) -> list[Batch]:
        """Take everything, in at least one batch, which may be empty.

        `position` is what the events up to now reach, with those that concern nobody.
        """
        events, self._events = self._events, []
        self._bytes = 0
        self._filled.clear()
        self._room.set()
        batches: list[Batch] = []
        batch: list[Event] = []
        size = 0
        for event in events:
            if len(batch) >= MAX_BATCH or size >= MAX_BATCH_BYTES:
                # There are more frames: it reaches to its own last one.
                batches.append(Batch(batch, self._taken))
                batch, size = [], 0
            batch.append(event)
            size += _size(event)
            if not isinstance(event, Info | StreamError) and event.seq is not None:
                self._taken = Cursor(event.seq, event.time)
        self._taken = position
        batches.append(Batch(batch, self._taken))
        return batches


def _size(event: Event) -> int:
    """Return about how many bytes an event takes, as far as a stranger can make it large."""
    match event:
        case Commit():
            return len(event.blocks) + sum(OP_BYTES + len(op.path) for op in event.ops)
        case Sync():
            return len(event.blocks)
    return 0
