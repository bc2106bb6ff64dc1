"""`scripts/bench catch-up`: a daemon that was away finds its way back to the live stream.

A real daemon reads a live stream and is stopped; while it is, so much of the stream is written as
it has to make up for. It is started again, and is asked all the time how fast it is and how long it
will take: by `rescind status`, by its log, and by /metrics. The stream goes on meanwhile.

Beside it, in one run, the same frames are read by the bare socket, and by the pipeline alone.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import httpx

from indexer.lexicon.syntax import parse_datetime
from scripts.benchmarks import stream_corpus, stream_race
from scripts.benchmarks.base import CACHE, BenchError
from scripts.benchmarks.daemon import staged
from scripts.benchmarks.firehose import RATIO_RECEIVE
from scripts.benchmarks.relay import BASE, Plan
from scripts.benchmarks.stream_corpus import StreamCorpus
from scripts.benchmarks.stream_race import HEADER, Reader
from scripts.benchmarks.usage import cpu_of
from scripts.benchmarks.xrpc_client import first_failure_alone
from scripts.benchmarks.xrpc_stage import Size
from tests.e2e.daemon import Daemon, eventually
from tests.support.metrics_text import read

RATE = 1_000  # frames that are written in a second, as on the network
LIVE = 2_000  # frames that are read before it goes away
AFTER = 60  # seconds that the stream goes on once it could be caught up
NOBODY = Size(owners=0, few=0, many=0)
WITHIN = 900.0  # seconds
ASK_EVERY = 1.0  # seconds between questions to the daemon
LogEntries = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Said:
    """What a daemon said, so many seconds after it was connected; None: that it can't tell yet."""

    at: float
    where: str  # status, log or metrics
    rate: float
    left: float | None


@dataclass(frozen=True, slots=True)
class _Point:
    """How far it was at a moment (Unix seconds), and what CPU that had taken (seconds)."""

    at: float
    seq: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Measured:
    """How the way back went; seconds count from the connection to the relay."""

    frames: int  # it was behind
    caught_up: float  # seconds until all of those were applied
    load: float  # seconds of its CPU for each
    live: float  # seconds until it said that it is live
    said: list[Said]  # while it was catching up
    receive: Reader
    index: Reader

    @property
    def rate(self) -> float:
        return self.frames / self.caught_up


async def catch_up(frames: int, ours: int) -> dict[str, float]:
    """Measure, print, and return the figures by name. `ours` is frames of a million."""
    corpus = stream_corpus.make(CACHE, stream_corpus.FULL)
    return report(await measure(corpus, CACHE, Plan(ours, LIVE + frames, RATE)))


async def measure(corpus: StreamCorpus, cache: Path, plan: Plan) -> Measured:
    """Let a daemon read the first frames of a stream, and make up for the others later.

    Raises `BenchError`.
    """
    async with staged(corpus, cache, NOBODY) as stage:
        behind = replace(plan, rate=0)
        alone = (
            stream_race.receive(stage.relay.url, behind),
            stream_race.index(stage.relay.url, behind, corpus, cache),
        )
        for reader in alone:
            await reader.run()
        # All that it is to miss was written by now. One stream for both of its lives: a relay that
        # has another frame at its cursor is another relay to it.
        written = replace(plan, since=_ms(time.time() - plan.frames / plan.rate))
        await stage.relay.play(replace(written, frames=LIVE))
        async with stage.running() as daemon:
            await daemon.reaches(BASE + LIVE)
            await daemon.stop()
            await stage.relay.play(replace(written, frames=plan.frames + AFTER * plan.rate))
            before = len(daemon.logged())
            await stage.start(daemon)
            began, caught_up, said, log = await _watch(daemon, plan.frames, before)
            await daemon.stop()
            await stage.check(daemon, plan)
    connected = _at(log, "firehose.connected")
    return Measured(
        frames=plan.frames - LIVE,
        caught_up=caught_up.at - connected,
        load=(caught_up.cpu - began.cpu) / (caught_up.seq - began.seq),
        live=_at(log, "catch_up.ended") - connected,
        said=sorted(
            (replace(each, at=each.at - connected) for each in (*said, *_said_by_log(log))),
            key=attrgetter("at"),
        ),
        receive=alone[0],
        index=alone[1],
    )


async def _watch(
    daemon: Daemon, last: int, before: int
) -> tuple[_Point, _Point, list[Said], LogEntries]:
    """Ask a daemon until it says that it is live.

    Returns when it was behind the live frames and behind the `last`, what it said, and its log
    but for what there was `before`. All times are Unix seconds.
    """

    def log() -> LogEntries:
        return daemon.logged()[before:]

    async def is_live() -> bool:
        return any(entry["event"] == "catch_up.ended" for entry in log())

    said: list[Said] = []
    async with first_failure_alone() as tasks:
        asking = tasks.create_task(_ask(daemon, said))
        began = await _reach(daemon, BASE + LIVE + 1)
        caught_up = await _reach(daemon, BASE + last)
        await eventually(is_live, AFTER, "the word that it is live")
        asking.cancel()
    return began, caught_up, said, log()


async def _reach(daemon: Daemon, seq: int) -> _Point:
    assert daemon.process
    row = await daemon.sees("select seq from cursors where seq >= ?", seq, within=WITHIN)
    return _Point(time.time(), row["seq"], cpu_of(daemon.process.pid))


async def _ask(daemon: Daemon, said: list[Said]) -> None:
    """Ask for ever, and note what is said of catching up."""
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            pace = (await daemon.status())["pace"]
            if pace is not None and pace["catching_up"]:
                said.append(
                    Said(time.time(), "status", pace["events_per_second"], pace["seconds_left"])
                )
            found = read((await client.get(f"{daemon.url}/metrics")).text)
            left = found.get("rescind_catch_up_seconds_left", {}).get((), None)
            if left != 0:
                rate = found["rescind_events_per_second"][()]
                said.append(Said(time.time(), "metrics", rate, left))
            await asyncio.sleep(ASK_EVERY)


def _said_by_log(log: LogEntries) -> list[Said]:
    return [
        Said(_time(entry), "log", entry["events_per_second"], entry["seconds_left"])
        for entry in log
        if entry["event"] in ("catch_up.began", "catch_up.advanced")
    ]


def _at(log: LogEntries, event: str) -> float:
    """Return when it was first told of this, in Unix seconds."""
    return next(_time(entry) for entry in log if entry["event"] == event)


def _time(entry: dict[str, Any]) -> float:
    return parse_datetime(entry["timestamp"]) / 1000


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def report(measured: Measured) -> dict[str, float]:
    """Print the figures and return those that are aimed at.

    Raises `BenchError` if it was silent anywhere about its rate or the time left.
    """
    print(f"  {'s':>8}  {'':<10}{'events/s':>10}{'s left':>10}{'really':>10}")
    for said in measured.said:
        left = "?" if said.left is None else f"{said.left:.1f}"
        print(
            f"  {said.at:>8.1f}  {said.where:<10}{said.rate:>10,.0f}{left:>10}"
            f"{measured.caught_up - said.at:>10.1f}"
        )
    told = {said.where for said in measured.said if said.left is not None and said.rate > 0}
    if silent := {"status", "log", "metrics"} - told:
        raise BenchError(f"nothing of its rate and the time left in: {', '.join(sorted(silent))}")
    print(f"\n{HEADER}")
    for reader in (measured.receive, measured.index):
        print(reader.line())
    receive, index = measured.receive, measured.index
    ratios = {
        "ratio_receive": round(measured.rate / receive.rate, 3),
        "ratio_pipeline": round(measured.rate / index.rate, 3),
        "ratio_receive_by_cpu": round(receive.load / measured.load, 3),
        "ratio_pipeline_by_cpu": round(index.load / measured.load, 3),
    }
    print(
        f"\n  The daemon made up for {measured.frames:,} frames in {measured.caught_up:.1f} s, "
        f"{measured.rate:,.0f} a second:\n  {ratios['ratio_receive']} times the bare socket "
        f"(aim: {RATIO_RECEIVE} or more; by CPU time {ratios['ratio_receive_by_cpu']}),\n"
        f"  {ratios['ratio_pipeline']} times the pipeline alone (by CPU time "
        f"{ratios['ratio_pipeline_by_cpu']}).\n"
        f"  It said that it is live after {measured.live:.1f} s"
    )
    return {
        **ratios,
        "events_per_s": round(measured.rate),
        "caught_up_s": round(measured.caught_up, 1),
        "live_s": round(measured.live, 1),
    }
