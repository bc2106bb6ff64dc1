"""How each PDS fares: one that fails is left alone for a while, the others are not held up."""

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

FIRST_DELAY = 2.0  # seconds
MAX_DELAY = 3_600.0  # seconds
MAX_CALLS = 2  # turns at one host at once
SET_BACK = 60.0  # seconds by which a clock was set back, if it was not just adjusted
MAX_HOSTS = 10_000  # remembered; the longest unused is forgotten first


@dataclass(slots=True)
class _Host:
    failures: int = 0
    failed_at: float = 0.0  # Unix seconds, as all times here
    until: float = 0.0  # not before; unless the clock was set back to before it failed
    named: bool = False  # the host named that time itself
    error: str = ""
    slots: asyncio.Semaphore = field(kw_only=True)


class HostHealth:
    """`clock` gives Unix seconds, `rng` a number from 0 to 1; `at_once` is of turns at a host."""

    def __init__(
        self,
        clock: Callable[[], float],
        rng: Callable[[], float] = random.random,
        at_once: int = MAX_CALLS,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._at_once = at_once
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    @asynccontextmanager
    async def turn(
        self, host: str, *, insist: bool = False, asked_at: float = -math.inf
    ) -> AsyncIterator[bool]:
        """Wait for a turn at a host; the value says whether it is well enough to be asked.

        With `insist` (a person waits for it) it may be, unless it named the time itself. What an
        operator asked for at `asked_at` (Unix seconds) may, unless it has failed since then.
        """
        state = self._host(host)
        async with state.slots:
            is_well = not state.failed_at <= self._clock() < state.until
            is_ordered = state.failed_at <= asked_at
            yield is_well or is_ordered or (insist and not state.named)

    def until(self, host: str) -> float:
        """Return when the host may be asked again, in Unix seconds; in the past if it is well."""
        return self._host(host).until

    def error(self, host: str) -> str:
        """Return why it is left alone."""
        return self._host(host).error

    def succeeded(self, host: str) -> None:
        state = self._host(host)
        state.failures, state.until, state.named, state.error = 0, 0.0, False, ""

    def failed(self, host: str, error: str, retry_after: float | None) -> None:
        """Leave it alone: for `retry_after` seconds if it said so, else longer each time."""
        state = self._host(host)
        state.failures += 1
        pause = self.delay(state.failures) if retry_after is None else retry_after
        state.failed_at, state.error = self._clock(), error
        state.until = state.failed_at + pause
        state.named = retry_after is not None

    def delay(self, attempts: int) -> float:
        """Return seconds to wait after that many attempts: doubling up to an hour, with jitter."""
        # Bounded before the power: the attempts at a dead host have no end.
        doublings = min(max(attempts, 1) - 1, 12)
        ceiling = min(FIRST_DELAY * float(1 << doublings), MAX_DELAY)
        return ceiling * (0.5 + 0.5 * self._rng())

    def _host(self, host: str) -> _Host:
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = _Host(slots=asyncio.Semaphore(self._at_once))
        self._hosts.move_to_end(host)
        while len(self._hosts) > MAX_HOSTS:
            self._hosts.popitem(last=False)
        return state


class ClockWatch:
    """Tells when what waits for a time is not to wait for it. `clock` gives Unix seconds.

    That is at the start, when nobody works any more at what was claimed, and when the clock was
    set back: the times were taken from it while it was ahead, and are far away now.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._latest = math.inf

    def begins_anew(self) -> bool:
        before, self._latest = self._latest, self._clock()
        return self._latest < before - SET_BACK
