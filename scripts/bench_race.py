"""Readers of a stream against each other: each in a fresh process on one core, in turn."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from scripts.bench_verify import CORES, ROOT, BenchError

PYTHON = (sys.executable, "-P", "-m")
DEADLINE = 900.0  # seconds for one run: who waits longer has lost a frame
STOP_TIMEOUT = 10.0  # seconds for the relay to end
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader of a stretch of the stream, and what each of its runs took."""

    name: str
    frames: int
    last: int  # the seq of the last frame
    command: Sequence[str]
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # seconds, of all threads
    peaks: list[float] = field(default_factory=list)  # bytes of memory

    async def run(self) -> None:
        """Run it once more; `BenchError` if it has not read everything."""
        took = await _run(self.command)
        # One that is told of its own frames only can't count the others.
        if took.get("frames", self.frames) != self.frames or took["last"] != self.last:
            raise BenchError(f"{self.name} was to read {self.frames} frames, and says: {took}")
        self.seconds.append(took["seconds"])
        self.cpu.append(took["cpu"])
        self.peaks.append(took["peak"])

    @property
    def rate(self) -> float:
        """Events per second of the median run."""
        return self.frames / median(self.seconds)

    @property
    def least(self) -> float:
        return self.frames / max(self.seconds)

    @property
    def most(self) -> float:
        return self.frames / min(self.seconds)

    @property
    def load(self) -> float:
        """Seconds of CPU for an event, of the median run: hardly more on a busy machine."""
        return median(self.cpu) / self.frames

    @property
    def peak(self) -> float:
        """The most memory that a run has had, in MB."""
        return max(self.peaks) / MB

    def line(self) -> str:
        return (
            f"  {self.name:<30}{self.rate:>10,.0f}{self.least:>10,.0f}{self.most:>10,.0f}"
            f"{self.load * 10_000:>12.3f}{self.peak:>10.0f}"
        )


HEADER = f"  {'':<30}{'median/s':>10}{'least':>10}{'most':>10}{'CPU s/10k':>12}{'peak MB':>10}"


async def _run(command: Sequence[str]) -> dict[str, float]:
    """Run a reader on its core; return what it says on its last line."""
    with _on(CORES[:1]):
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=_environment())
    try:
        async with asyncio.timeout(DEADLINE):
            out, _ = await process.communicate()
    except TimeoutError:
        raise BenchError(f"{' '.join(command)} has not ended in {DEADLINE:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BenchError(f"{' '.join(command)} ended with status {process.returncode}")
    took: dict[str, float] = json.loads(out.splitlines()[-1])
    return took


@asynccontextmanager
async def relaying(directory: Path) -> AsyncIterator[str]:
    """Run the relay on the other cores; yield its URL."""
    with _on(CORES[1:] or CORES):
        process = await asyncio.create_subprocess_exec(
            *PYTHON,
            "scripts.bench_relay",
            str(directory),
            stdin=PIPE,
            stdout=PIPE,
            env=_environment(),
        )
    assert process.stdin
    assert process.stdout
    try:
        url = (await process.stdout.readline()).decode().strip()
        if not url:
            raise BenchError("the relay did not start")
        yield url
    finally:
        process.stdin.close()  # which ends it
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NODE_ENV": "production"}


@contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """Let what is started here, with all of its threads, run on these cores alone, if any."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
