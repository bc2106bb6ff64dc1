"""`scripts/bench hostile`: how long strangers' frames hold up the others, and what they take.

Each kind is read by a process of its own, through the pipeline that `rescind run` has, into a
SQLite file. Meanwhile a task that wants a turn each millisecond notes how long it waited: that is
what a caller would wait. Behind the frames comes a good commit, which has to be in the index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.base import CACHE, BenchError
from scripts.benchmarks.hostile_frames import KINDS
from scripts.benchmarks.stream_race import PYTHON, run

# What is aimed at: ms that the loop stands, and MB beyond what the process had before; or less.
STALL, GROWTH = 100, 50

HEADER = f"{'frames':<40}{'n':>7}{'s':>8}{'stall, ms':>11}{'of CPU':>8}{'growth, MB':>12}"


@dataclass(frozen=True, slots=True)
class Held:
    """What one kind did."""

    kind: str
    frames: int
    seconds: float  # until the good commit behind them is in the index
    stall: float  # ms that the loop stood at most
    stall_cpu: float  # ms of CPU that it used meanwhile: hardly more on a busy machine
    growth: float  # MB

    def line(self) -> str:
        return (
            f"{self.kind:<40}{self.frames:>7,}{self.seconds:>8.2f}{self.stall:>11.0f}"
            f"{self.stall_cpu:>8.0f}{self.growth:>12.1f}"
        )


async def hostile(kinds: Sequence[str] = tuple(KINDS)) -> dict[str, float]:
    """Measure, print, and return the figures by name."""
    CACHE.mkdir(exist_ok=True)
    print(HEADER, flush=True)
    held = []
    for kind in kinds:
        held.append(await measure(kind, CACHE))
        print(held[-1].line(), flush=True)
    stall, growth = max(one.stall_cpu for one in held), max(one.growth for one in held)
    print(
        f"At worst the loop stood {stall:.0f} ms of CPU (aim: {STALL} or less), and "
        f"{growth:.0f} MB were taken (aim: {GROWTH} or less)."
    )
    return {
        "stall_ms": round(max(one.stall for one in held), 1),
        "stall_cpu_ms": round(stall, 1),
        "growth_mb": round(growth, 1),
        **{f"{one.kind}: s": round(one.seconds, 2) for one in held},
    }


async def measure(kind: str, cache: Path) -> Held:
    """Let one process read frames of a kind. Raises `BenchError` if the good commit is lost."""
    took = await run((*PYTHON, "scripts.benchmarks.hostile_reader", kind, str(cache)))
    if took["good"] != 1:
        raise BenchError(f"behind {kind} a good commit was lost")
    return Held(
        kind, took["frames"], took["seconds"], took["stall"], took["stall_cpu"], took["growth"]
    )
