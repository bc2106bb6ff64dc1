"""Answers about identities, remembered for a while; asked for once, however many wait."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from indexer.identity.model import IdentityError, Reason

FAILURE = 30.0  # seconds that a failure is remembered
REFRESH_PAUSE = 30.0  # seconds between two forced refreshes of one answer
MAX_ASKING = 1_000  # questions at once; beyond that nobody is asked

V = TypeVar("V")
Ask = Callable[[str], Awaitable[V]]


class NotAsked(IdentityError):
    """Nobody had a free hand to ask: that says nothing of the host, and is not remembered."""

    def __init__(self) -> None:
        super().__init__("unreachable")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V | None  # None: a failure
    failure: Reason | None
    asked_at: float  # seconds of the clock; when the value was got
    due_at: float  # from then on it is asked for again
    forced_at: float  # the last forced refresh; -inf if none
    was_asked: bool = True

    def open(self) -> V:
        if not self.was_asked:
            raise NotAsked
        if self.value is None:
            raise IdentityError(self.failure or "unreachable")
        return self.value


class Cache(Generic[V]):
    """The last answers to questions of one kind, and one request for however many ask it at once.

    A failure is remembered for `FAILURE` seconds. Another answer is fresh for `fresh` seconds;
    where only "unreachable" follows, it serves for up to `stale`. `size` is how many are kept.
    `clock` gives seconds, never back.
    """

    def __init__(self, size: int, fresh: float, stale: float, clock: Callable[[], float]) -> None:
        self._size = size
        self._fresh = fresh
        self._stale = stale
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()  # the least used first
        self._flights: dict[str, asyncio.Task[_Entry[V]]] = {}  # whose answers will be kept
        self._tasks: set[asyncio.Task[_Entry[V]]] = set()  # these, and the forgotten ones

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def known(self, key: str) -> V | None:
        """Return the answer if it is at hand and fresh, else None."""
        entry = self._entries.get(key)
        if entry is None or self._clock() >= entry.due_at:
            return None
        self._entries.move_to_end(key)
        return entry.value

    async def get(self, key: str, ask: Ask[V], *, refresh: bool = False) -> V:
        """Return the answer, or raise it; `refresh` asks anew, but for `REFRESH_PAUSE`.

        `ask` gets it if nobody is getting it already, and may raise IdentityError.
        """
        entry = self._entries.get(key)
        is_forced = False
        if entry is not None:
            self._entries.move_to_end(key)
            now = self._clock()
            is_forced = refresh and now - entry.forced_at >= REFRESH_PAUSE
            if now < entry.due_at and not is_forced:
                return entry.open()
        flight = self._flights.get(key)
        if flight is None:
            # Callers may leave while their question is still under way.
            if len(self._tasks) >= MAX_ASKING:
                raise NotAsked
            flight = asyncio.create_task(self._fly(key, ask, is_forced))
            self._flights[key] = flight
            self._tasks.add(flight)
            flight.add_done_callback(self._tasks.discard)
        # Shielded: who leaves must not take the answer from those who stay.
        return (await asyncio.shield(flight)).open()

    async def _fly(self, key: str, ask: Ask[V], is_forced: bool) -> _Entry[V]:
        """Ask, remember unless the key was forgotten meanwhile, and return; failures too."""
        failure: Reason | None = None
        value: V | None = None
        was_asked = True
        try:
            try:
                value = await ask(key)
            except IdentityError as error:
                failure = error.reason
                was_asked = not isinstance(error, NotAsked)
            entry = self._entry(value, failure, self._entries.get(key))
            if not was_asked:
                return entry if entry.value is not None else replace(entry, was_asked=False)
            if is_forced:
                entry = replace(entry, forced_at=self._clock())
            if self._flights.get(key) is asyncio.current_task():
                self._entries[key] = entry
                self._entries.move_to_end(key)
                if len(self._entries) > self._size:
                    self._entries.popitem(last=False)
            return entry
        finally:
            if self._flights.get(key) is asyncio.current_task():
                del self._flights[key]

    def _entry(self, value: V | None, failure: Reason | None, old: _Entry[V] | None) -> _Entry[V]:
        now = self._clock()
        if (
            failure == "unreachable"
            and old is not None
            and old.value is not None
            and now - old.asked_at < self._stale
        ):
            return replace(old, due_at=now + FAILURE)
        due_at = now + (self._fresh if failure is None else FAILURE)
        return _Entry(value, failure, now, due_at, old.forced_at if old else float("-inf"))

    def forget(self, key: str) -> None:
        """Drop the answer; one that is under way will not be remembered."""
        self._entries.pop(key, None)
        self._flights.pop(key, None)

    async def aclose(self) -> None:
        """End the questions under way; those who wait for them are cancelled."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
