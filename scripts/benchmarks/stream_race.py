"""Readers of a stream against each other: each in a fresh process on one core, in turn."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from scripts.benchmarks.base import MB, ROOT, BenchError
from scripts.benchmarks.cores import BESIDE, MEASURED, on
from scripts.benchmarks.relay import BASE, Plan
from scripts.benchmarks.stream_corpus import StreamCorpus

PYTHON = (sys.executable, "-P", "-m")
DEADLINE = 900.0  # seconds for one run: who waits longer has lost a frame
STOP_TIMEOUT = 10.0  # seconds for the relay to end


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
        took = await run(self.command)
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


def python(name: str, program: str, relay: str, plan: Plan, *more: str) -> Reader:
    """Return the reader that a program of ours is."""
    command = (*PYTHON, f"scripts.benchmarks.{program}", relay + plan.path, str(plan.frames), *more)
    return Reader(name, plan.frames, BASE + plan.frames, command)


def receive(relay: str, plan: Plan) -> Reader:
    return python("websockets: receive only", "stream_receive", relay, plan)


def index(relay: str, plan: Plan, corpus: StreamCorpus, cache: Path) -> Reader:
    more = str(plan.ours_in(plan.frames)), str(corpus.directory), str(cache)
    return python("Rescind: proof, SQLite", "stream_index", relay, plan, *more)


HEADER = f"  {'':<30}{'median/s':>10}{'least':>10}{'most':>10}{'CPU s/10k':>12}{'peak MB':>10}"


async def run(command: Sequence[str]) -> dict[str, Any]:
    """Run a reader on its core; return what it says on its last line."""
    with on(MEASURED):
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=environment())
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
    took: dict[str, Any] = json.loads(out.splitlines()[-1])
    return took


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay that runs, a process of its own."""

    url: str
    process: Process

    async def play(self, plan: Plan) -> None:
        """Let it serve this stream to whoever asks without a plan in the path."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(plan.path.encode() + b"\n")
        if not await self.process.stdout.readline():
            raise BenchError("the relay has ended")


@asynccontextmanager
async def relaying(directory: Path) -> AsyncIterator[Relay]:
    """Run the relay on the other cores."""
    with on(BESIDE):
        process = await asyncio.create_subprocess_exec(
            *PYTHON,
            "scripts.benchmarks.relay",
            str(directory),
            stdin=PIPE,
            stdout=PIPE,
            env=environment(),
        )
    assert process.stdin
    assert process.stdout
    try:
        url = (await process.stdout.readline()).decode().strip()
        if not url:
            raise BenchError("the relay did not start")
        yield Relay(url, process)
    finally:
        process.stdin.close()  # which ends it
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NODE_ENV": "production"}
