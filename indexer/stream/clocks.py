"""Whether the relay's frames are dated by about the same clock as ours; pure.

A frame's `time` is the word of the host that it comes from, so no single one counts. Frames from
the future can only come of a clock; frames from the past come of a stream that is behind, too, but
that catches up, and a clock does not.
"""

from collections import deque
from statistics import median, quantiles

from indexer.stream.pace import Look

APART = 60.0  # seconds between two clocks that are to be said
LOOKS = 60  # at new frames that have to agree; half a minute
STEADY = 2.0  # seconds that the middle half of them may differ


class Clocks:
    """Compares the two, look after look."""

    def __init__(self) -> None:
        self._apart: deque[float] = deque(maxlen=LOOKS)
        self._frames = 0
        self._is_told = False

    def seen(self, look: Look) -> float | None:
        """Return by how many seconds the relay is ahead, if that is to be said: once."""
        is_new, self._frames = look.frames != self._frames, look.frames
        if self._is_told or not is_new or look.sent is None or not look.is_waiting:
            return None
        self._apart.append(look.sent - look.at)
        if len(self._apart) < LOOKS:
            return None
        apart = median(self._apart)
        low, _, high = quantiles(self._apart, n=4)
        if abs(apart) < APART or (apart < 0 and high - low > STEADY):
            return None
        self._is_told = True
        return apart
