"""`scripts/bench fresh`: how soon the index shows what has come, and what a revocation notices.

A real daemon reads a stream that is written at a steady pace, while invites are revoked over XRPC,
each on the disk when it is answered, and their deletions are published. The same is asked of a
daemon whose stream is silent; the two take turns, each time from the same index.

A frame's delay counts from when it is due at the relay until a reader with a connection of its own
finds it; a revocation's from when it is due until it is answered.
"""

import asyncio
import json
import time
from asyncio.subprocess import PIPE
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from scripts.benchmarks import stream_corpus, xrpc_stage
from scripts.benchmarks.base import CACHE, BenchError
from scripts.benchmarks.cores import BESIDE, on
from scripts.benchmarks.daemon import Stage, staged
from scripts.benchmarks.relay import BASE, MILLION, Plan
from scripts.benchmarks.stream_corpus import StreamCorpus
from scripts.benchmarks.stream_race import PYTHON, environment
from scripts.benchmarks.xrpc_client import as_fast_as_possible, at_a_pace
from scripts.benchmarks.xrpc_server import CONNECTIONS
from scripts.benchmarks.xrpc_stage import FEW, MANY, Size
from tests.e2e.daemon import Daemon

OURS = MILLION // 100
OWNERS = Size(owners=100, few=5, many=95)
FEW_CONNECTIONS = 4  # while all keys are asked for: a key that does not come in time is none
WARM_UP = 10  # seconds of the stream before it counts: the daemon starts, and asks for all keys

# What is aimed at: ms, at most.
FRESH_P99, SLOWED_P99 = 250, 20


@dataclass(frozen=True, slots=True)
class Amount:
    """What goes on in a turn."""

    ours: int  # frames of a million
    rate: int  # frames a second
    revokes: int  # a second
    seconds: int

    def plan(self, since: float) -> Plan:
        """Return a stream that begins then (Unix seconds)."""
        return Plan(self.ours, (WARM_UP + self.seconds) * self.rate, self.rate, round(since * 1000))


FULL = Amount(ours=OURS, rate=2_000, revokes=20, seconds=20)


Turns = list[list[float]]  # delays in seconds


@dataclass(frozen=True, slots=True)
class Measured:
    fresh: Turns = field(default_factory=list)
    busy: Turns = field(default_factory=list)  # revocations beside the stream
    quiet: Turns = field(default_factory=list)  # and without it


async def fresh(rounds: int) -> dict[str, float]:
    """Measure, print, and return the figures by name."""
    corpus = stream_corpus.make(CACHE, stream_corpus.FULL)
    print(
        f"{FULL.rate:,} frames a second, {FULL.ours / MILLION:.0%} of ours; {FULL.revokes} "
        f"revocations a second; {rounds} rounds of {FULL.seconds} s each with and without"
    )
    return report(await measure(corpus, CACHE, OWNERS, FULL, rounds))


async def measure(
    corpus: StreamCorpus, cache: Path, owners: Size, amount: Amount, rounds: int
) -> Measured:
    """Give both their turn in each round. Raises `BenchError`."""
    measured = Measured()
    async with staged(corpus, cache, owners) as stage:
        calls = xrpc_stage.revoking(owners.everybody(), MANY, amount.revokes * amount.seconds)
        warm_up = xrpc_stage.listing(owners.everybody(), FEW)
        for _ in range(rounds):
            await stage.relay.play(Plan(0, 0))
            async with stage.running() as daemon:
                await as_fast_as_possible(daemon.port, warm_up, FEW_CONNECTIONS)
                measured.quiet.append(await _revoke(daemon, calls, amount))
            plan = amount.plan(time.time())
            await stage.relay.play(plan)
            async with stage.running() as daemon:
                await as_fast_as_possible(daemon.port, warm_up, FEW_CONNECTIONS)
                await _both(stage, daemon, plan, calls, amount, measured)
    return measured


async def _both(
    stage: Stage,
    daemon: Daemon,
    plan: Plan,
    calls: list[bytes],
    amount: Amount,
    measured: Measured,
) -> None:
    """Revoke beside the stream, and watch both."""
    first = WARM_UP * amount.rate + 1
    reader = (
        "scripts.benchmarks.fresh_reader",
        str(daemon.db),
        str(stage.corpus.directory),
        plan.path,
    )
    with on(BESIDE):
        process = await asyncio.create_subprocess_exec(
            *PYTHON, *reader, str(first), str(plan.frames), stdout=PIPE, env=environment()
        )
    try:
        if (wait := plan.written_at(first) - time.time()) < 0:
            raise BenchError(f"the daemon was not ready within {WARM_UP} s")
        await asyncio.sleep(wait)
        measured.busy.append(await _revoke(daemon, calls, amount))
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BenchError("what the stream says is not in the index")
    measured.fresh.append(json.loads(out))
    await daemon.reaches(BASE + plan.frames)
    await stage.check(daemon, plan)


async def _revoke(daemon: Daemon, calls: list[bytes], amount: Amount) -> list[float]:
    took = await at_a_pace(daemon.port, calls, CONNECTIONS, amount.revokes)
    (row,) = daemon.rows("select count(*) as count from tombstones where cause = 'revoked'")
    if row["count"] != len(calls):
        raise BenchError(f"not each of {len(calls)} revocations has its tombstone")
    return took.latencies


def report(measured: Measured) -> dict[str, float]:
    """Print the figures and return those that are aimed at: those of the median turn.

    What the stream costs is taken within each round, since both had the same minute of the machine.
    """
    print(f"\n  {'ms':<36}{'p50':>9}{'p99':>9}{'most':>9}{'p99 of each turn':>30}")
    named = (
        ("a frame's way into the index", measured.fresh),
        ("invite.revoke beside the stream", measured.busy),
        ("invite.revoke, the stream silent", measured.quiet),
    )
    for name, turns in named:
        each = "  ".join(f"{_within(turn, 99):.1f}" for turn in turns)
        print(
            f"  {name:<36}{_median(turns, 50):>9.1f}{_median(turns, 99):>9.1f}"
            f"{max(map(max, turns)) * 1000:>9.1f}{each:>30}"
        )
    slowed = median(
        _within(busy, 99) - _within(quiet, 99)
        for busy, quiet in zip(measured.busy, measured.quiet, strict=True)
    )
    figures = {
        "fresh_p99_ms": round(_median(measured.fresh, 99), 1),
        "revoke_slowed_p99_ms": round(slowed, 1),
        "fresh_p50_ms": round(_median(measured.fresh, 50), 1),
        "revoke_p99_ms": round(_median(measured.busy, 99), 1),
        "revoke_quiet_p99_ms": round(_median(measured.quiet, 99), 1),
    }
    print(
        f"\n  99 % of the frames of ours could be read within {figures['fresh_p99_ms']} ms (aim: "
        f"{FRESH_P99} or less);\n  the stream slows revocations by "
        f"{figures['revoke_slowed_p99_ms']} ms at the 99th percentile (aim: {SLOWED_P99} or less)"
    )
    return figures


def _median(turns: Turns, percent: int) -> float:
    return median(_within(turn, percent) for turn in turns)


def _within(delays: list[float], percent: int) -> float:
    """Return within how many ms this part of them was over."""
    return quantiles(delays, n=100, method="inclusive")[percent - 1] * 1000
