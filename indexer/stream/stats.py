"""What went by since the start of the process, counted where it happens and read elsewhere."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from indexer.stream.pace import Pace

BATCH_EVENTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)  # 0: only the cursor moved
BATCH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Distribution:
    """How often values came out up to each of some bounds, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: beyond all bounds
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Stats:
    """The indexer's counts. Times are Unix seconds, 0 before the first."""

    frames: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)  # taken, but an operator wants to know
    events: Counter[str] = field(default_factory=Counter)  # that were not skipped, by type
    batch_events: Distribution = field(default_factory=lambda: Distribution(BATCH_EVENTS))
    batch_seconds: Distribution = field(default_factory=lambda: Distribution(BATCH_SECONDS))
    moved_at: float = 0.0  # when the position that is applied last moved
    beat_at: float = 0.0  # when all that had come was applied, be it nothing
    left_at: float = 0.0  # when the last connection to the relay ended
    pace: Pace = field(default_factory=Pace)  # as it was last looked at
