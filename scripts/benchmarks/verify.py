"""`scripts/bench verify`: how fast commits are proven and indexed, and a whole repo is fetched.

Each figure comes from fresh processes that share one core; this one sends the stream, from
another core if there is one. What is compared takes turns, so that a slow minute of the machine
falls on all of it.
"""

import asyncio
import json
import os
import platform
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from scripts.benchmarks import repo_corpus
from scripts.benchmarks.base import CACHE, MB, NODE, ROOT, SYNC, BenchError
from scripts.benchmarks.cores import BESIDE, CORES, MEASURED, on
from scripts.benchmarks.repo_corpus import Corpus

WORKER = (sys.executable, "-P", "-m", "scripts.benchmarks.worker")
SYNC_SCRIPT = Path(__file__).with_name("sync.mjs")
LOOK_EVERY = 0.01  # seconds between looks at a process's private memory
BUSY = 1.15  # times its CPU time that a proof may take: beyond it, others have used the core

# What is aimed at: least, or for the memory, less.
SYNC_RATIO, PROOF_RATIO, CAR_RATE, CAR_PEAK = 12, 0.6, 20, 200


@dataclass(frozen=True, slots=True)
class Series:
    """The runs of one contestant."""

    name: str
    count: int  # of what is done in a run
    seconds: list[float]
    cpu: list[float]  # seconds, of all threads

    @property
    def rate(self) -> float:
        """Of the median run, per second."""
        return self.count / median(self.seconds)

    @property
    def load(self) -> float:
        """Seconds of CPU of the median run: hardly longer while others use the machine too."""
        return median(self.cpu)

    def line(self) -> str:
        low, high = self.count / max(self.seconds), self.count / min(self.seconds)
        return (
            f"  {self.name:<36}{self.rate:>8,.0f}{low:>9,.0f}{high:>9,.0f}"
            f"{median(self.seconds):>10.2f}{self.load:>9.2f}"
        )


async def verify(rounds: int) -> dict[str, float]:
    """Measure, print, and return the figures by name."""
    corpus = repo_corpus.make(CACHE, repo_corpus.FULL, lambda: _say("Making the corpus …"))
    frames = corpus.frames()
    size = mean(map(len, frames))
    _say(
        f"{len(frames):,} commits of {len(corpus.repos)} repos, one create each, in frames of "
        f"{size / 1000:.1f} KB on average; {rounds} rounds"
    )
    _say(f"Python {platform.python_version()}, @atproto/sync {_version()}, {_cores()}\n")
    # Beside the corpus, not in a temporary directory that may be memory: its disk counts.
    with on(BESIDE), TemporaryDirectory(prefix="run-", dir=CACHE) as directory:
        figures = await _commits(corpus, frames, Path(directory), rounds)
        return figures | await _car(corpus, Path(directory), rounds)


async def _commits(
    corpus: Corpus, frames: Sequence[bytes], directory: Path, rounds: int
) -> dict[str, float]:
    at = str(corpus.directory)
    proof, index, sync = (
        Series(name, len(frames), [], [])
        for name in (
            "proof alone",
            "socket, proof, projection, SQLite",
            "@atproto/sync, proof only",
        )
    )
    async with _relay(frames) as url:
        for number in range(rounds):
            db = str(directory / f"{number}.db")
            for series, command in (
                (proof, (*WORKER, "prove", at)),
                (index, (*WORKER, "index", at, url, db)),
                (sync, (NODE, str(SYNC_SCRIPT), at, url)),
            ):
                took, _ = await _run(command)
                series.seconds.append(took["seconds"])
                series.cpu.append(took["cpu"])
    _say(f"  {'':<36}{'median/s':>8}{'least':>9}{'most':>9}{'seconds':>10}{'CPU s':>9}")
    for series in (proof, index, sync):
        _say(series.line())
    ratio_sync, ratio_proof = index.rate / sync.rate, index.rate / proof.rate
    by_cpu = index.load
    _say(
        f"\n  {ratio_sync:.1f} times @atproto/sync (aim: {SYNC_RATIO} or more; by CPU time "
        f"{sync.load / by_cpu:.1f})\n  {ratio_proof:.0%} of proof alone (aim: {PROOF_RATIO:.0%} "
        f"or more; by CPU time {proof.load / by_cpu:.0%})\n"
    )
    if median(proof.seconds) > BUSY * proof.load or median(sync.seconds) > BUSY * sync.load:
        _say("  The machine was busy with other things: only what is by CPU time counts.\n")
    return {
        "commits_per_s": round(index.rate),
        "ratio_sync": round(ratio_sync, 2),
        "ratio_proof": round(ratio_proof, 3),
    }


async def _car(corpus: Corpus, directory: Path, rounds: int) -> dict[str, float]:
    size = corpus.car.stat().st_size
    runs = []
    for number in range(rounds):
        db = str(directory / f"car-{number}.db")
        runs.append(await _run((*WORKER, "resync", str(corpus.directory), db)))
    rates = [size / MB / took["seconds"] for took, _ in runs]
    peak = max(took["peak"] for took, _ in runs) / MB
    private = max(private for _, private in runs) / MB
    _say(f"A CAR of {size / MB:.0f} MB, its blocks in no order, proven and written to SQLite")
    _say(
        f"  {median(rates):.1f} MB/s ({min(rates):.1f} to {max(rates):.1f}; aim: {CAR_RATE} or "
        f"more), {median(took['cpu'] for took, _ in runs):.2f} s of CPU"
    )
    _say(
        f"  {peak:.0f} MB of memory at most (aim: less than {CAR_PEAK}), of which "
        f"{private:.0f} MB are its own; the rest is the file, mapped"
    )
    return {"car_mb_per_s": round(median(rates), 1), "car_peak_mb": round(peak, 1)}


@asynccontextmanager
async def _relay(frames: Sequence[bytes]) -> AsyncIterator[str]:
    """Serve the frames as a relay would: all of them at once, and then nothing."""

    async def stream(socket: ServerConnection) -> None:
        try:
            for frame in frames:
                await socket.send(frame)
            await socket.wait_closed()
        except ConnectionClosed:
            pass

    async with serve(stream, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _run(command: Sequence[str]) -> tuple[dict[str, float], int]:
    """Run a worker on its core; return what it says, and the most private memory it had (bytes)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NODE_ENV": "production"}
    with on(MEASURED):
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=environment)
    watching = asyncio.create_task(_watch(process.pid))
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BenchError(f"{' '.join(command)} ended with status {process.returncode}")
    took: dict[str, float] = json.loads(out.splitlines()[-1])
    return took, await watching


async def _watch(pid: int) -> int:
    most = 0
    status = Path(f"/proc/{pid}/status")
    while status.exists():
        try:
            lines = status.read_text().splitlines()
        except OSError:
            break
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
        if not found:
            break
        most = max(most, *found)
        await asyncio.sleep(LOOK_EVERY)
    return most


def _cores() -> str:
    if not CORES:
        return f"not pinned to one of {os.cpu_count()} cores: this system can't"
    return f"each on one of {os.cpu_count()} cores"


def _version() -> str:
    return str(json.loads((SYNC / "package.json").read_text())["version"])


def _say(line: str) -> None:
    print(line, flush=True)
