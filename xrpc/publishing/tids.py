"""TIDs: keys for new records that sort by the time they were made.

Source: atproto.com/specs/tid.
"""

import secrets

_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"


class TidClock:
    """Gives TIDs, each greater than the one before, whatever the clock does."""

    def __init__(self) -> None:
        self._last = 0  # microseconds since 1970
        # Two that run at once, for one repo, must not give the same.
        self._id = secrets.randbelow(1024)

    def next(self, now: int) -> str:
        """Return the next TID. `now` is Unix ms."""
        self._last = max(self._last + 1, now * 1000)
        value = self._last << 10 | self._id
        return "".join(_DIGITS[value >> shift & 31] for shift in range(60, -1, -5))
