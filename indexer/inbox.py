"""Where decoded events wait to be applied, together with the position that they reach."""

import asyncio

from indexer.events import Commit, Event, Sync
from indexer.store.cursors import Cursor

MAX_WAITING = 4_000  # events in the inbox; beyond it the socket is left unread
MAX_WAITING_BYTES = 64_000_000  # bytes of CARs in the inbox, likewise


class Inbox:
    """Filled by one task and emptied by another of the same event loop. Bounded."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._bytes = 0
        self._position: Cursor | None = None
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, event: Event) -> None:
        """Add an event; await `room` before. The same one right after itself says nothing new."""
        if self._events and self._events[-1] is event:
            return
        self._events.append(event)
        if isinstance(event, Commit | Sync):
            self._bytes += len(event.blocks)
        self._filled.set()
        if len(self._events) >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES:
            self._room.clear()

    def reach(self, position: Cursor | None) -> None:
        """All events up to this position have been put in, or concern nobody."""
        self._position = position

    async def room(self) -> None:
        """Wait until there is room: the back-pressure that a fast relay feels."""
        if not self._room.is_set():
            await self._room.wait()

    async def filled(self, within: float) -> None:
        """Wait until there is an event, or `within` seconds have gone by."""
        try:
            async with asyncio.timeout(within):
                await self._filled.wait()
        except TimeoutError:
            return

    def take(self) -> tuple[list[Event], Cursor | None]:
        """Take everything, and the position that holds once it is applied."""
        events, self._events = self._events, []
        self._bytes = 0
        self._filled.clear()
        self._room.set()
        return events, self._position
