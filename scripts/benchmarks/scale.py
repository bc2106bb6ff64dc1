"""`scripts/bench scale`: whether calls take longer the more there is in the index.

The same kinds of calls are asked of a small index and of a large one, on the server that
`scripts/bench xrpc` measures, one call after the other. The two take turns of some tens of calls,
so that a slow moment of the machine falls on both, and in either order. A turn begins when the one
before has left nothing behind: deletions are published after their revocations are answered.
Every answer lists as much here as there, and each call is about something else, all over the
index. Owners revoke in turn, so that as much is published here as there. Both files are read
through before each round, since a machine may take the memory of what it has read back: it is not
the disk that is compared, but for what is written.

What counts is the ratio of the two: of the calls in the middle, and of the slowest of a hundred.
"""

import json
import os
import platform
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from statistics import quantiles
from tempfile import TemporaryDirectory

from scripts.benchmarks import scale_calls, scale_stage
from scripts.benchmarks.base import CACHE, MB, BenchError
from scripts.benchmarks.scale_calls import Call, Kind, greeting
from scripts.benchmarks.scale_stage import Size
from scripts.benchmarks.xrpc_server import Served, serving
from scripts.benchmarks.xrpc_stage import Owner

SMALL = Size(invites=4_000, verifications=4_000, subjects=100)
LARGE = Size(invites=1_000_000, verifications=1_000_000, subjects=2_000)
TURN = 40  # lists of one kind that are asked of one server in a round
# Of each kind in all rounds. The small index has not many more invites of which none comes so soon
# after another of its owner's that one deletion does for both.
REVOCATIONS = 1_300
WORST = 1.5  # times what the small index takes: the aim, at most


@dataclass(frozen=True, slots=True)
class Race:
    """One kind of call, those to the small index and those to the large one."""

    kind: Kind
    calls: tuple[list[Call], list[Call]]
    took: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))  # seconds

    async def turn(self, servers: Sequence[Served], number: int, *, large_first: bool) -> None:
        """Ask so many calls of each server, those that come next."""
        sides = list(zip(servers, self.calls, self.took, strict=True))
        for server, calls, took in reversed(sides) if large_first else sides:
            first = len(took)
            made = [call.request() for call in calls[first : first + number]]
            if not made:
                continue  # many rounds, and nothing left to revoke
            run = await server.fast(made, connections=1)
            await server.rest()
            if not self.kind.is_good(json.loads(run.took.answer)):
                raise BenchError(f"{self.kind.name}: {run.took.answer[:300]!r}")
            took.extend(run.took.latencies)

    def ms(self, percent: int) -> tuple[float, float]:
        """Return in how many ms this part of the calls was answered, by each."""
        small, large = (
            quantiles(took, n=100, method="inclusive")[percent - 1] * 1000 for took in self.took
        )
        return small, large

    def ratio(self, percent: int) -> float:
        small, large = self.ms(percent)
        return large / small

    def line(self) -> str:
        figures = [(*self.ms(percent), self.ratio(percent)) for percent in (50, 99)]
        columns = "".join(f"{s:>9.2f}{large:>9.2f}{ratio:>7.2f}" for s, large, ratio in figures)
        return f"  {self.kind.name:<44}{columns}"


HEADER = f"  {'':<44}{'p50 ms':>9}{'large':>9}{'ratio':>7}{'p99 ms':>9}{'large':>9}{'ratio':>7}"


async def scale(rounds: int) -> dict[str, float]:
    """Measure, print, and return the figures by name."""
    for name, size in (("small", SMALL), ("large", LARGE)):
        _say(f"{name}: {size.invites:,} invites, {size.verifications:,} verifications")
    _say(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {rounds} rounds\n")
    CACHE.mkdir(parents=True, exist_ok=True)
    races = await measure(CACHE, (SMALL, LARGE), rounds, lists=TURN, revocations=REVOCATIONS)
    return report(races)


async def measure(
    cache: Path, sizes: tuple[Size, Size], rounds: int, *, lists: int, revocations: int
) -> list[Race]:
    """Let both servers have their turn with each kind of call in each round.

    There are so many `lists` of each kind in a round, and so many `revocations` in all.
    """
    # Fewer turns, but longer: most revocations have the publisher beside them.
    turns = -(-rounds // 3)
    # They come last: whether their deletions were seen is looked after a minute later.
    parts = (
        (
            [_race(kind, sizes, lists * rounds) for kind in scale_calls.lists()],
            rounds,
            lists,
        ),
        (
            [_race(kind, sizes, revocations) for kind in scale_calls.revocations()],
            turns,
            -(-revocations // turns),
        ),
    )
    races = [race for those, _, _ in parts for race in those]
    async with AsyncExitStack() as stack:
        # Copies, since they are written to; not where there may be memory: the disk counts.
        folder = stack.enter_context(TemporaryDirectory(prefix="run-", dir=cache))
        servers: list[Served] = []
        copies = []
        for size in sizes:
            original = scale_stage.make(cache, size, partial(_tell, size))
            copy = Path(folder) / str(len(servers)) / "index.db"
            copy.parent.mkdir()
            _copy(original, copy)
            copies.append(copy)
            servers.append(await stack.enter_async_context(serving("rescind", copy)))
        await _greet(servers, races, max(size.subjects for size in sizes))
        for those, turns, number in parts:
            for turn in range(turns):
                for copy in copies:
                    _read_through(copy)
                for race in those:
                    await race.turn(servers, number, large_first=turn % 2 == 1)
    return races


def _copy(original: Path, copy: Path) -> None:
    shutil.copy(original, copy)
    with copy.open("rb+") as file:
        os.fsync(file.fileno())  # now, and not while something is measured


def _read_through(file: Path) -> None:
    with file.open("rb", buffering=0) as source:
        while source.read(MB):
            pass


def _race(kind: Kind, sizes: tuple[Size, Size], number: int) -> Race:
    def some(size: Size) -> list[Call]:
        return list(islice(kind.calls(size, Random(kind.name)), number))

    small, large = sizes
    return Race(kind, (some(small), some(large)))


async def _greet(servers: Sequence[Served], races: Iterable[Race], subjects: int) -> None:
    """Let both servers know the documents of all accounts: it is not those that are measured."""
    callers = {call.caller for race in races for calls in race.calls for call in calls}
    everybody = callers | {Owner(number) for number in range(subjects)}
    for server in servers:
        await server.fast([greeting(account).request() for account in everybody])


def report(races: Sequence[Race]) -> dict[str, float]:
    """Print the figures and return those that are aimed at."""
    _say(HEADER)
    for race in races:
        _say(race.line())
    worst = {percent: max(race.ratio(percent) for race in races) for percent in (50, 99)}
    figures = {
        "worst_ratio": round(max(worst.values()), 2),
        "worst_ratio_p50": round(worst[50], 2),
        "worst_ratio_p99": round(worst[99], 2),
    }
    _say(
        f"\n  The large index takes {figures['worst_ratio']} times as long as the small one, or "
        f"less (aim: {WORST})"
    )
    return figures


def _tell(size: Size) -> None:
    _say(f"Making the index of {size.invites:,} invites and {size.verifications:,} verifications …")


def _say(line: str) -> None:
    print(line, flush=True)
