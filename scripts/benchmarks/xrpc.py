"""`scripts/bench xrpc`: how fast methods are answered, next to a handler that does nothing.

Each server is a fresh process with a core of its own; this one calls it over loopback, from
another core if there is one. Every call has a service-auth token of its own, signed beforehand.
What is compared takes turns, so that a slow minute of the machine falls on all of it.

The bare handler is a route of the same framework, with the same middleware, that answers what an
`invite.list` answered; the bare ASGI app answers the same bytes without a framework.

A revocation counts from when it was due: a fixed number falls due in each second, whether those
before are answered or not. It is answered when its tombstone is on the disk; meanwhile the
publisher deletes what was revoked, through a PDS that answers at once.
"""

import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from indexer.store.db import Database
from scripts.benchmarks import xrpc_stage as stage
from scripts.benchmarks.base import CACHE, BenchError
from scripts.benchmarks.cores import CORES
from scripts.benchmarks.xrpc_server import CONNECTIONS, Run, Served, serving
from scripts.benchmarks.xrpc_stage import FEW, MANY, Owner, Size

PACE = 200  # revocations that fall due in a second
BUSY = 1.15  # times its CPU time that a server may take: beyond it, others have used the core
AT_WORK = 0.9  # of the time, that the client may be: beyond it, it is the client that is measured

# What is aimed at: at least; and ms, at most.
RATIO_BARE, REVOKE_P99 = 0.4, 25


@dataclass(frozen=True, slots=True)
class Amount:
    """How many calls a run is."""

    bare: int
    few: int  # lists of few invites, and of many
    many: int
    paced: int  # revocations at a pace
    fast: int  # and as fast as they are answered


FULL = Amount(bare=10_000, few=4_000, many=1_000, paced=10 * PACE, fast=2_000)


@dataclass(frozen=True, slots=True)
class Calls:
    """The runs of one kind of call."""

    name: str
    runs: list[Run] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        return [len(run.took.latencies) / run.took.seconds for run in self.runs]

    @property
    def rate(self) -> float:
        """Calls per second of the median run."""
        return median(self.rates)

    @property
    def load(self) -> float:
        """Seconds of the server's CPU for a call, of the median run; hardly more if it is busy."""
        return median(run.server_cpu / len(run.took.latencies) for run in self.runs)

    @property
    def is_crowded(self) -> bool:
        """Whether others have used the server's core, or its disk has kept it waiting."""
        return median(run.took.seconds / run.server_cpu for run in self.runs) > BUSY

    @property
    def is_held_up(self) -> bool:
        """Whether the client was at work all the time."""
        return median(run.took.cpu / run.took.seconds for run in self.runs) > AT_WORK

    def within(self, percent: int) -> float:
        """Return in how many ms this part of the calls was answered, in the median run."""
        return median(run.took.quantile(percent) * 1000 for run in self.runs)

    def line(self) -> str:
        return (
            f"  {self.name:<32}{self.rate:>9,.0f}{min(self.rates):>9,.0f}{max(self.rates):>9,.0f}"
            f"{self.within(50):>9.2f}{self.within(99):>9.2f}{self.load * 1e6:>9.0f}"
        )


HEADER = f"  {'':<32}{'median/s':>9}{'least':>9}{'most':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}"


@dataclass(frozen=True, slots=True)
class Measured:
    asgi: Calls
    bare: Calls
    few: Calls
    many: Calls
    paced: Calls
    fast: Calls


async def xrpc(rounds: int) -> dict[str, float]:
    """Measure, print, and return the figures by name."""
    size = stage.FULL
    _say(
        f"{size.invites:,} invites to {2 * size.owners:,} spaces of {size.owners:,} owners; "
        f"{CONNECTIONS} connections, {rounds} rounds"
    )
    _say(f"Python {platform.python_version()}, {_cores()}\n")
    CACHE.mkdir(parents=True, exist_ok=True)
    return report(await measure(CACHE, size, FULL, rounds))


async def measure(cache: Path, size: Size, amount: Amount, rounds: int) -> Measured:
    """Run each kind of call in each round. Raises `BenchError`."""
    measured = Measured(
        asgi=Calls("bare ASGI app"),
        bare=Calls("bare handler"),
        few=Calls(f"invite.list, {size.few} invites"),
        many=Calls(f"invite.list, {size.many} invites"),
        paced=Calls(f"invite.revoke, {PACE} due a second"),
        fast=Calls("invite.revoke"),
    )
    # Not a temporary directory that may be memory: its disk counts.
    with TemporaryDirectory(prefix="run-", dir=cache) as folder:
        index, copy = Path(folder) / "index.db", Path(folder) / "copy.db"
        await stage.fill(index, size)
        for _ in range(rounds):
            await _list(measured, index, size, amount)
            shutil.copy(index, copy)
            await _revoke(measured, copy, size, amount)
    return measured


async def _list(measured: Measured, index: Path, size: Size, amount: Amount) -> None:
    owners = size.everybody()
    answer = index.with_name("answer.json")
    async with serving("rescind", index) as server:
        answer.write_bytes(await _warm_up(server, owners))
        few = stage.listing(islice(cycle(owners), amount.few), FEW)
        measured.few.runs.append(await server.fast(few))
        many = stage.listing(islice(cycle(owners), amount.many), MANY)
        measured.many.runs.append(await server.fast(many))
    calls = stage.listing(owners[:1], FEW) * amount.bare
    for bare, what in ((measured.bare, "bare"), (measured.asgi, "asgi")):
        async with serving(what, answer) as server:
            await _warm_up(server, owners)
            bare.runs.append(await server.fast(calls))


async def _revoke(measured: Measured, index: Path, size: Size, amount: Amount) -> None:
    owners = size.everybody()
    calls = stage.revoking(owners, MANY, amount.paced + amount.fast)
    async with serving("rescind", index) as server:
        await _warm_up(server, owners)
        measured.paced.runs.append(await server.paced(calls[: amount.paced], PACE))
        measured.fast.runs.append(await server.fast(calls[amount.paced :]))
    async with await Database.open(index) as db:
        row = await db.one("select count(*) as count from tombstones where cause = 'revoked'")
    if row is None or row["count"] != len(calls):
        raise BenchError(f"not each of {len(calls)} revocations has its tombstone")


async def _warm_up(server: Served, owners: Sequence[Owner]) -> bytes:
    """Call once as everybody, so that all keys are at hand; return an answer."""
    return (await server.fast(stage.listing(owners, FEW))).took.answer


def report(measured: Measured) -> dict[str, float]:
    """Print the figures and return those that are aimed at."""
    few, bare, asgi = measured.few, measured.bare, measured.asgi
    paced, fast = measured.paced, measured.fast
    closed = (bare, asgi, few, measured.many, fast)
    _say(HEADER)
    for calls in (*closed, paced):
        _say(calls.line())
    figures = {
        "ratio_bare": round(few.rate / bare.rate, 3),
        "revoke_p99_ms": round(paced.within(99), 2),
        "revoke_per_s": round(fast.rate),
        "ratio_bare_by_cpu": round(bare.load / few.load, 3),
        "ratio_asgi": round(few.rate / asgi.rate, 3),
        "ratio_asgi_by_cpu": round(asgi.load / few.load, 3),
    }
    ratio, by_cpu = figures["ratio_bare"], figures["ratio_bare_by_cpu"]
    _say(
        f"\n  {few.name}: {ratio:.0%} of the bare handler (aim: {RATIO_BARE:.0%} or more; by CPU "
        f"time {by_cpu:.0%})\n  and {figures['ratio_asgi']:.0%} of the bare ASGI app (by CPU time "
        f"{figures['ratio_asgi_by_cpu']:.0%})"
    )
    _say(
        f"  {paced.name}: 99 % within {figures['revoke_p99_ms']:.1f} ms of when they were due "
        f"(aim: {REVOKE_P99} or less)"
    )
    if any(calls.is_held_up for calls in (*closed, paced)):
        _say("  The client was the slowest part: the servers can do more than this.")
    if any(calls.is_crowded for calls in (bare, asgi, few)):
        _say("  The machine was busy with other things: only what is by CPU time counts.")
    return figures


def _cores() -> str:
    if not CORES:
        return "servers not pinned to a core: this system can't"
    return f"each server on one of {len(CORES)} cores"


def _say(line: str) -> None:
    print(line, flush=True)
