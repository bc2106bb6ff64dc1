"""How fast the stream is read, and when the index will have caught up with it; pure.

A relay does not say where its stream ends. So the `time` of the frames tells how far behind they
are, and how much of the stream goes by in a second. One frame's time is a stranger's word: what
is concluded rests on several.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

WINDOW = 10.0  # seconds over which the pace is taken
LOOKS = 3  # at new frames, one after the other, that have to agree before a state changes
BEHIND = 30.0  # seconds; less is a hiccup of the network
LIVE = 10.0  # seconds
QUIET = 60.0  # seconds without a frame: by then a dead relay is noticed, so there are no more
LEAST_SPEED = 1.01  # seconds of the stream a second; with less there is no end in sight


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of the stream at a moment. Times are Unix seconds."""

    at: float
    frames: int  # that have come since the start
    sent: float | None  # when the relay sent the newest, if it said so
    is_waiting: bool  # for the relay: it is there, and all that has come from it is applied

    @property
    def lag(self) -> float | None:
        return None if self.sent is None else self.at - self.sent


@dataclass(frozen=True, slots=True)
class Pace:
    """What the looks of the last seconds tell."""

    looks: tuple[Look, ...] = ()
    is_behind: bool = False  # so far that it has to catch up
    quiet_since: float | None = None  # when it began to wait for a frame, in Unix seconds

    def seen(self, look: Look) -> "Pace":
        """Return the pace after one more look."""
        quiet_since = None
        if look.frames == (self.looks[-1].frames if self.looks else 0):
            # Nothing came: that its newest frame gets older does not mean that it falls behind.
            look = replace(look, sent=None)
            if look.is_waiting:
                quiet_since = min(look.at, self.quiet_since or look.at)
        # None of them if the clock was set back.
        kept = [old for old in self.looks if look.at - WINDOW <= old.at < look.at]
        looks = (*kept, look)
        has_all = quiet_since is not None and look.at - quiet_since >= QUIET
        return Pace(looks, not has_all and _is_behind(looks, self.is_behind), quiet_since)

    @property
    def rate(self) -> float:
        """Frames a second."""
        if len(self.looks) < 2:
            return 0.0
        first, last = self.looks[0], self.looks[-1]
        return (last.frames - first.frames) / (last.at - first.at)

    @property
    def lag(self) -> float | None:
        """Seconds that the newest frames are behind; None if they don't say."""
        _, late = _ends(self.looks)
        return None if late is None else max(0.0, late[0] - late[1])

    @property
    def left(self) -> float | None:
        """Seconds until it is live, 0 if it is; None if that can't be told: it is too slow, say."""
        if not self.is_behind:
            return 0.0
        early, late = _ends(self.looks)
        if early is None or late is None or late[0] <= early[0]:
            return None
        speed = (late[1] - early[1]) / (late[0] - early[0])
        return max(0.0, late[0] - late[1]) / (speed - 1) if speed >= LEAST_SPEED else None


_Point = tuple[float, float]  # a moment, and when what came then was sent


def _ends(looks: Sequence[Look]) -> tuple[_Point | None, _Point | None]:
    """Return the middle of the first third of the looks and that of the last."""
    timed = [(look.at, look.sent) for look in looks if look.sent is not None]
    third = max(1, len(timed) // 3)
    return _middle(timed[:third]), _middle(timed[-third:])


def _middle(points: Sequence[_Point]) -> _Point | None:
    if not points:
        return None
    return median(at for at, _ in points), median(sent for _, sent in points)


def _is_behind(looks: Sequence[Look], was_behind: bool) -> bool:
    # Not of the last looks: while a slow machine applies a batch, nothing comes.
    lags = [look.lag for look in looks if look.lag is not None][-LOOKS:]
    if len(lags) == LOOKS and (min(lags) > BEHIND or max(lags) < LIVE):
        return min(lags) > BEHIND
    return was_behind
