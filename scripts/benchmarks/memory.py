"""`scripts/bench memory`: what Rescind has of memory over a long stretch of the stream.

One process reads all of it through the pipeline that `rescind run` has, into a SQLite file. The
corpus is played again and again under new seqs. What was played before is proven again, and found
to be known; the frames of ours begin anew at the 50,000th.
"""

from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks import stream_corpus
from scripts.benchmarks.base import CACHE, MB, BenchError
from scripts.benchmarks.relay import BASE, Plan
from scripts.benchmarks.stream_corpus import StreamCorpus
from scripts.benchmarks.stream_race import PYTHON, relaying, run

LOOKS = 10  # of a run; the first one is what the last is compared with

# What is aimed at: times what is resident at the first look, and MB; or less.
GROWTH, RESIDENT = 1.1, 150


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: float
    frames: int
    resident: list[float]  # MB, at each look
    peak: float  # MB

    @property
    def growth(self) -> float:
        """The last look, times the first."""
        return self.resident[-1] / self.resident[0]


async def memory(frames: int, ours: int) -> dict[str, float]:
    """Measure, print, and return the figures by name. `ours` is frames of a million."""
    corpus = stream_corpus.make(CACHE, stream_corpus.FULL)
    measured = await measure(corpus, CACHE, Plan(ours, frames))
    print(
        f"{frames / measured.seconds:,.0f} events/s. At the end {measured.growth:.1%} of what it "
        f"was after {frames // LOOKS:,} frames (aim: {GROWTH:.0%} or less), and "
        f"{measured.peak:.0f} MB at most (aim: less than {RESIDENT})"
    )
    return {
        "resident_growth": round(measured.growth, 4),
        "resident_first_mb": round(measured.resident[0], 1),
        "resident_last_mb": round(measured.resident[-1], 1),
        "resident_peak_mb": round(measured.peak, 1),
        "events_per_s": round(frames / measured.seconds),
    }


async def measure(corpus: StreamCorpus, cache: Path, plan: Plan) -> Measured:
    """Let one process read the stream. Raises `BenchError` unless it has read everything."""
    frames, last = plan.frames, BASE + plan.frames
    numbers = str(plan.ours_in(frames)), str(corpus.directory), str(cache), str(frames // LOOKS)
    async with relaying(corpus.directory) as relay:
        reader = "scripts.benchmarks.stream_memory", relay.url + plan.path, str(frames)
        took = await run((*PYTHON, *reader, *numbers))
    if (took["frames"], took["last"]) != (frames, last) or len(took["resident"]) != LOOKS:
        raise BenchError(f"{frames} frames were to be read, and {took} were")
    resident = [found / MB for found in took["resident"]]
    return Measured(took["seconds"], frames, resident, took["peak"] / MB)
