"""How much a host lets us ask, as it says with each answer: left alone before it has to refuse.

Source: the headers `ratelimit-limit`, `-remaining` and `-reset` of a PDS, and `retry-after`.
"""

from collections.abc import Callable, Mapping

MAX_PAUSE = 3_600.0  # seconds; no host decides that it is never asked again
RESERVE = 10  # one of so many requests is left to all else that we ask this host for
_MOMENT = 1_000_000_000  # a reset above this is a moment in Unix seconds, else seconds from now


class Bucket:
    """The requests of one kind to one host. `clock` gives Unix seconds."""

    __slots__ = ("_clock", "_closed_at", "_until")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._closed_at = self._until = 0.0

    @property
    def until(self) -> float:
        """When it is open again, in Unix seconds; in the past if it is."""
        return self._until

    def is_open(self) -> bool:
        # Not closed either if the clock was set back since.
        return not self._closed_at <= self._clock() < self._until

    def heard(self, status: int, headers: Mapping[str, str]) -> None:
        """Note what an answer says of the limit; a refusal without a time says nothing of it."""
        reset = _number(headers.get("ratelimit-reset"))
        if status == 429:
            wait = _number(headers.get("retry-after"))
            self._close(self._seconds_to(reset) if wait is None else wait)
            return
        limit, left = (_number(headers.get(f"ratelimit-{n}")) for n in ("limit", "remaining"))
        if limit is not None and left is not None and left <= limit // RESERVE:
            self._close(self._seconds_to(reset))

    def _seconds_to(self, reset: float | None) -> float:
        if reset is None:
            return 0.0
        return reset - self._clock() if reset > _MOMENT else reset

    def _close(self, seconds: float) -> None:
        now = self._clock()
        until = now + min(max(seconds, 0.0), MAX_PAUSE)
        if self.is_open() or until > self._until:
            self._closed_at, self._until = now, until


def _number(text: str | None) -> float | None:
    """Return a header's whole number; None if it is none, or not there."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 12:
        return None
    return float(text)
