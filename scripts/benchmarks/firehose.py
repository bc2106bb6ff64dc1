"""`scripts/bench firehose`: how fast the stream is read, next to what else reads it.

A relay of its own sends the corpus; each reader has its turn in each round, so that a slow minute
of the machine falls on all of them. Every run is checked: all frames came, in order, and what
Rescind wrote is what the frames say.
"""

import json
import platform
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, median

from scripts.benchmarks import stream_corpus, stream_race
from scripts.benchmarks.base import CACHE, NODE, SYNC
from scripts.benchmarks.cores import CORES
from scripts.benchmarks.plot import Bar, Group, draw
from scripts.benchmarks.relay import BASE, MILLION, Plan
from scripts.benchmarks.stream_corpus import POOLS, StreamCorpus
from scripts.benchmarks.stream_race import HEADER, Reader, relaying

SYNC_SCRIPT = Path(__file__).with_name("stream_sync.mjs")
BUSY = 1.15  # times its CPU time that a run may take: beyond it, others have used the core

# What is aimed at: times the rate of each, or more; and MB, or less.
RATIO_RECEIVE, RATIO_SYNC, RATIO_SDK, RATIO_SYNC_ALL, PEAK = 0.75, 5, 8, 12, 150


@dataclass(frozen=True, slots=True)
class Amount:
    """How many frames a run is, for each reader by its pace: some seconds."""

    fast: int  # for the bare socket and for Rescind
    sdk: int
    sync: int
    every: int  # where all frames are of ours


FULL = Amount(fast=1_000_000, sdk=100_000, sync=400_000, every=10_000)
QUICK = Amount(fast=150_000, sdk=15_000, sync=80_000, every=2_000)
ROUNDS, QUICK_ROUNDS = 3, 2


@dataclass(frozen=True, slots=True)
class Race:
    """Who reads, in the order of their turns."""

    receive: Reader
    index: Reader
    sdk: Reader
    sync: Reader
    index_every: Reader  # where all frames are of ours
    sync_every: Reader

    def readers(self) -> list[Reader]:
        return [getattr(self, field.name) for field in fields(self)]


async def firehose(
    rounds: int | None, ours: int, *, quick: bool, plot: Path | None
) -> dict[str, float]:
    """Measure, print, and return the figures by name. `ours` is frames of a million."""
    amount, usual = (QUICK, QUICK_ROUNDS) if quick else (FULL, ROUNDS)
    corpus = stream_corpus.make(
        CACHE, stream_corpus.FULL, lambda: _say("Making the corpus: some minutes, once …")
    )
    for pool in POOLS:
        sizes = [len(frame) for frame in corpus.frames(pool)]
        _say(f"{len(sizes):,} frames of {pool}, {mean(sizes) / 1000:.1f} KB on average")
    _say(f"Python {platform.python_version()}, @atproto/sync {_version()}, {_cores()}")
    # Beside the corpus, not in a temporary directory that may be memory: its disk counts.
    race = await measure(corpus, CACHE, amount, rounds or usual, ours)
    figures = report(race, ours)
    if quick:
        _say("Node takes a second to get into its stride: in runs so short it looks slower.")
    if plot is not None:
        plot.write_text(_plot(race, ours))
    return figures


async def measure(
    corpus: StreamCorpus, cache: Path, amount: Amount, rounds: int, ours: int
) -> Race:
    """Give each reader its turn in each round. Raises `BenchError`."""
    async with relaying(corpus.directory) as relay:
        race = _race(corpus, cache, relay.url, amount, ours)
        for _ in range(rounds):
            for reader in race.readers():
                await reader.run()
    return race


def _race(corpus: StreamCorpus, cache: Path, relay: str, amount: Amount, ours: int) -> Race:
    def sync(plan: Plan) -> Reader:
        last = BASE + plan.frames
        numbers = map(str, (BASE, last, events_in(plan, corpus)))
        where = str(SYNC_SCRIPT), str(corpus.directory), relay + plan.path
        return Reader("@atproto/sync: proof", plan.frames, last, (NODE, *where, *numbers))

    fast, every = plan_of(corpus, ours, amount.fast), plan_of(corpus, MILLION, amount.every)
    return Race(
        receive=stream_race.receive(relay, fast),
        index=stream_race.index(relay, fast, corpus, cache),
        sdk=stream_race.python(
            "atproto SDK: models, CAR", "stream_sdk", relay, plan_of(corpus, ours, amount.sdk)
        ),
        sync=sync(plan_of(corpus, ours, amount.sync)),
        index_every=stream_race.index(relay, every, corpus, cache),
        sync_every=sync(every),
    )


def plan_of(corpus: StreamCorpus, ours: int, frames: int) -> Plan:
    """Return the stream of this share of ours, ending with one of them: all readers hear of that.

    It is shorter if the corpus has too few: played again, they would be known, and cost less.
    """
    wanted = max(1, Plan(ours, frames).ours_in(frames))
    count = min(wanted, len(corpus.events("ours")))
    return Plan(ours, -(-count * MILLION // ours))


def events_in(plan: Plan, corpus: StreamCorpus) -> int:
    """Return how many events a reader hears of that asks for our collections."""
    counts = {pool: corpus.events(pool) for pool in POOLS}
    return sum(
        counts[pool][number % len(counts[pool])]
        for pool, place, count in plan.runs(0)
        for number in range(place, place + count)
    )


def report(race: Race, ours: int) -> dict[str, float]:
    """Print the figures and return those that are aimed at."""
    mixed = (race.receive, race.index, race.sdk, race.sync)
    every = (race.index_every, race.sync_every)
    for share, readers in ((_percent(ours), mixed), (_percent(MILLION), every)):
        _say(f"\n{share} of the frames are of ours\n{HEADER}")
        for reader in readers:
            _say(f"{reader.line()}   {reader.frames:,} frames a run")
    peak = max(race.index.peak, race.index_every.peak)
    _say("\nRescind's rate, times that of")
    ratios, by_cpu = {}, {}
    for key, ours_one, other, aim in (
        ("ratio_receive", race.index, race.receive, RATIO_RECEIVE),
        ("ratio_sync", race.index, race.sync, RATIO_SYNC),
        ("ratio_sdk", race.index, race.sdk, RATIO_SDK),
        ("ratio_sync_all", race.index_every, race.sync_every, RATIO_SYNC_ALL),
    ):
        ratios[key] = round(ours_one.rate / other.rate, 3)
        by_cpu[f"{key}_by_cpu"] = round(other.load / ours_one.load, 3)
        whole = f" at {_percent(MILLION)}" if other is race.sync_every else ""
        _say(
            f"  {other.name + whole:<36}{ratios[key]:>7.2f}   (aim: {aim} or more; "
            f"by CPU time {by_cpu[f'{key}_by_cpu']:.2f})"
        )
    _say(f"and its memory: {peak:.0f} MB at most (aim: less than {PEAK})")
    if any(median(r.seconds) > BUSY * median(r.cpu) for r in race.readers()):
        _say("The machine was busy with other things: only what is by CPU time counts.")
    return {**ratios, "peak_mb": round(peak, 1), **by_cpu}


def _plot(race: Race, ours: int) -> str:
    def bar(reader: Reader) -> Bar:
        is_ours = reader in (race.index, race.index_every)
        return Bar(reader.name, reader.rate, reader.least, reader.most, is_ours)

    mixed = [bar(reader) for reader in (race.index, race.receive, race.sync, race.sdk)]
    every = [bar(reader) for reader in (race.index_every, race.sync_every)]
    return draw(
        [
            Group(f"Events per second, {_percent(ours)} of them of ours", mixed),
            Group("Events per second, every one of ours", every),
        ]
    )


def _percent(ours: int) -> str:
    return f"{ours * 100 / MILLION:g} %"


def _cores() -> str:
    if not CORES:
        return "readers not pinned to a core: this system can't"
    return f"each reader on one of {len(CORES)} cores"


def _version() -> str:
    return str(json.loads((SYNC / "package.json").read_text())["version"])


def _say(line: str) -> None:
    print(line, flush=True)
