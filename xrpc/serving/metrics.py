"""`/metrics`: what Prometheus reads. Counts only: no DID, no URI and no handle is ever in it."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from indexer.records import KINDS
from indexer.store import daemon, disk, outbox, repos, resyncs, tombstones
from indexer.store.db import Database
from indexer.stream.stats import Distribution
from xrpc.serving import health
from xrpc.serving.counts import Counts
from xrpc.serving.health import Stream

FRESH = 15.0  # seconds that what was counted in the database is taken as it is


@dataclass(frozen=True, slots=True)
class Tables:
    """What is counted in the database; `oldest` are Unix ms, by state."""

    repos: Mapping[str, int]
    resync: Mapping[str, int]
    resynced: Mapping[str, Mapping[str, int]]  # by way
    tombstones: Mapping[str, int]
    outbox: Mapping[str, int]
    oldest: Mapping[str, int]


class Metrics:
    """The metrics of one daemon. `clock` gives Unix seconds."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        auth_failures: Mapping[Any, int],
        counts: Counts,
        clock: Callable[[], float] = time.time,
        written: Sequence[Path] = (),
    ) -> None:
        self._db = db
        self._written = written
        self._stream = stream
        self._auth_failures = auth_failures
        self._counts = counts
        self._clock = clock
        self._tables: tuple[float, Tables] | None = None  # with when they were counted
        self._turn = asyncio.Lock()

    async def render(self) -> bytes:
        """Return all in Prometheus' text format, 0.0.4."""
        tables = await self._counted()
        # One of its own each time: it holds nothing, and nothing is shared with other apps.
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once(self._families(tables)))
        ProcessCollector(registry=registry)
        return generate_latest(registry)

    async def _counted(self) -> Tables:
        """Count, or take what was counted a moment ago: a scan of large tables is not free."""
        async with self._turn:
            now = self._clock()
            if self._tables is None or not 0 <= now - self._tables[0] < FRESH:
                self._tables = (now, await _count(self._db, int(now * 1000)))
            return self._tables[1]

    def _families(self, tables: Tables) -> Iterator[Metric]:
        now = self._clock()
        yield from self._stream_families(now)
        yield from _table_families(tables, now)
        yield from self._call_families()
        yield from self._disk_families()

    def _disk_families(self) -> Iterator[Metric]:
        free = GaugeMetricFamily(
            "rescind_disk_free_bytes", "Room on the disk of what is written", labels=("file",)
        )
        for path in self._written:
            if (room := disk.free_bytes(path)) is not None:
                free.add_metric((path.name,), room)
        yield free
        held = self._db.unfolded
        yield _gauge("wal_held_pages", "Pages of the WAL that a reader keeps from folding", held)

    def _stream_families(self, now: float) -> Iterator[Metric]:
        stream, stats = self._stream, self._stream.stats
        received, applied = stream.position, stream.applied
        yield _counter("frames", "Frames received from the relay", stats.frames)
        yield _counters("events", "Events that were handled", "type", stats.events)
        yield _counters("skipped", "Frames that concern nobody here", "reason", stats.skipped)
        yield _counters("rejected", "Frames that did not check out", "reason", stats.rejected)
        yield _counters(
            "noted", "Frames that were taken, but tell something", "reason", stats.noted
        )
        yield _gauge("connected", "Whether the relay is connected", float(stream.is_connected))
        behind = health.lag(stream, now)
        yield _gauge("lag_seconds", "Seconds that the index is behind the relay", behind)
        waiting = received.seq - applied.seq if received and applied else None
        yield _gauge("lag_seq", "Seqs received and not applied yet", waiting)
        yield _gauge(
            "cursor_seq", "Seq of the newest applied frame", applied.seq if applied else None
        )
        yield _gauge("events_per_second", "Frames received in a second", stats.pace.rate)
        yield _gauge(
            "catch_up_seconds_left", "Seconds until the index is live again", stats.pace.left
        )
        yield _histogram("batch_events", "Events of a transaction", {(): stats.batch_events})
        yield _histogram("batch_seconds", "Seconds of a transaction", {(): stats.batch_seconds})

    def _call_families(self) -> Iterator[Metric]:
        counts = self._counts
        calls = CounterMetricFamily(
            "rescind_requests", "Calls that were answered", labels=("method", "status")
        )
        for (method, status), count in sorted(counts.calls.items()):
            calls.add_metric((method, str(status)), count)
        yield calls
        seconds = {(method,): found for method, found in sorted(counts.seconds.items())}
        yield _histogram("request_seconds", "Seconds to an answer", seconds, ("method",))
        yield _counters(
            "auth_failures", "Calls without a proven caller", "reason", self._auth_failures
        )
        yield _counters("connections_dropped", "Connections of clients", "reason", counts.dropped)


def metrics_routes(metrics: Metrics) -> list[Route]:
    async def answer(_: Request) -> Response:
        return Response(await metrics.render(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    return [Route("/metrics", answer, methods=["GET"])]


def create_metrics_app(metrics: Metrics) -> Starlette:
    """Return the app for an address where nothing else is served."""
    return Starlette(routes=list(metrics_routes(metrics)))


async def _count(db: Database, now: int) -> Tables:
    # Not through the reader that the calls use: they would wait for the end of each scan.
    async with db.aside() as reader:
        return Tables(
            repos=await repos.count_by_state(reader),
            resync=await resyncs.queue(reader, now),
            resynced=await daemon.resyncs_by_way(reader),
            tombstones=await tombstones.count_by_kind(reader),
            outbox=await outbox.count_by_state(reader),
            oldest=await outbox.oldest_by_state(reader),
        )


def _table_families(tables: Tables, now: float) -> Iterator[Metric]:
    yield _gauges("repos", "Tracked repos", "state", tables.repos)
    yield _gauges("resync_queue", "Repos that wait to be fetched", "state", tables.resync)
    ways = tables.resynced.items()
    proven = {way: done["repos"] for way, done in ways}
    yield _counters("resynced", "Repos that were proven", "way", proven)
    size = {way: done["bytes"] for way, done in ways}
    yield _counters("resync_bytes", "Bytes of bodies that it took", "way", size)
    asked = {way: done["requests"] for way, done in ways}
    yield _counters("resync_requests", "Requests that it took", "way", asked)
    buried = {kind: tables.tombstones.get(kind, 0) for kind in KINDS}
    yield _gauges("tombstones", "Records that are gone", "kind", buried)
    waiting = {state: tables.outbox.get(state, 0) for state in outbox.STATES}
    yield _gauges("outbox", "Deletions to publish, or published", "state", waiting)
    ages = {
        state: max(0.0, now - tables.oldest[state] / 1000) if state in tables.oldest else 0.0
        for state in outbox.UNDONE
    }
    yield _gauges(
        "outbox_oldest_seconds", "Age of the oldest deletion that is not done", "state", ages
    )


@dataclass(frozen=True, slots=True)
class _Once(Collector):
    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(f"rescind_{name}", words, value)


def _gauge(name: str, words: str, value: float | None) -> Metric:
    """Return a gauge, without a sample while its value is not known."""
    family = GaugeMetricFamily(f"rescind_{name}", words, labels=())
    if value is not None:
        family.add_metric((), value)
    return family


def _counters(name: str, words: str, label: str, values: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(f"rescind_{name}", words, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric((key,), value)
    return family


def _gauges(name: str, words: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"rescind_{name}", words, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric((key,), value)
    return family


def _histogram(
    name: str,
    words: str,
    found: Mapping[Any, Distribution],
    labels: tuple[str, ...] = (),
) -> Metric:
    family = HistogramMetricFamily(f"rescind_{name}", words, labels=labels)
    for key, distribution in found.items():
        buckets, total = [], 0
        bounds = [*map(str, map(float, distribution.bounds)), "+Inf"]
        for bound, count in zip(bounds, distribution.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(key, buckets, distribution.total)
    return family
