"""Where decoded events wait to be applied, together with the position that they reach."""

import asyncio
from dataclasses import dataclass

from indexer.store.cursors import Cursor
from indexer.stream.events import Commit, Event, Info, StreamError, Sync

# What the inbox holds; beyond it the socket is left unread. As much again is being applied.
MAX_WAITING = 2_000  # events
MAX_WAITING_BYTES = 64_000_000  # bytes of CARs and operations
MAX_BATCH = 1_000  # events
MAX_BATCH_BYTES = 8_000_000  # bytes of CARs and operations
OP_BYTES = 300  # that an operation takes besides its path


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction applies, and the position that holds once it is."""

    events: list[Event]
    position: Cursor | None


class Inbox:
    """Filled by one task and emptied by another of the same event loop. Bounded."""

    def __init__(self) -> None:
        self._events: list[tuple[Event, int]] = []  # and about how many bytes each takes
        self._bytes = 0
        self._taken: Cursor | None = None  # up to here
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, event: Event) -> None:
        """Add an event; await `room` before."""
        size = _size(event)
        self._events.append((event, size))
        self._bytes += size
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
        total = 0
        for event, size in events:
            if len(batch) >= MAX_BATCH or total >= MAX_BATCH_BYTES:
                # There are more frames: it reaches to its own last one, if that is to be stored.
                reached = _reached(batch)
                if reached and position and reached.seq <= position.seq:
                    self._taken = reached
                batches.append(Batch(batch, self._taken))
                batch, total = [], 0
            batch.append(event)
            total += size
        self._taken = position
        batches.append(Batch(batch, self._taken))
        return batches


def _reached(batch: list[Event]) -> Cursor | None:
    """Return the position of the last event that has one."""
    for event in reversed(batch):
        if not isinstance(event, Info | StreamError) and event.seq is not None:
            return Cursor(event.seq, event.time)
    return None


def _size(event: Event) -> int:
    """Return about how many bytes an event takes, as far as a stranger can make it large."""
    match event:
        case Commit():
            return len(event.blocks) + sum(OP_BYTES + len(op.path) for op in event.ops)
        case Sync():
            return len(event.blocks)
    return 0
