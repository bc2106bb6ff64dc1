"""The log tells of a catch-up from its beginning to its end, and of nothing else."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from indexer import catch_up as module
from indexer.catch_up import watch
from indexer.consumer import Consumer
from indexer.store.cursors import Cursor
from indexer.stream.pace import QUIET
from tests.support.xrpc_world import FakeStream

NOW = 1_800_000_000.0  # Unix seconds
Entries = list[MutableMapping[str, Any]]


class Stream(FakeStream):
    """A stream and a clock: each time that the clock is asked, half a second has gone by."""

    speed, rate, sent, now, looks = 0.0, 0, NOW, NOW, 0
    is_settled = True

    def clock(self) -> float:
        self.looks += 1
        self.now += 0.5
        self.sent += self.speed / 2
        self.stats.frames += self.rate // 2
        time = datetime.fromtimestamp(self.sent, UTC).isoformat().replace("+00:00", "Z")
        self.position = Cursor(self.stats.frames, time)
        return self.now


@asynccontextmanager
async def watching(stream: Stream) -> AsyncIterator[Entries]:
    with capture_logs() as entries:
        task = asyncio.create_task(watch(cast(Consumer, stream), stream.clock))
        yield entries
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def goes_on(stream: Stream, seconds: float, speed: float, rate: int = 2_000) -> None:
    stream.speed, stream.rate = speed, rate
    until = stream.looks + seconds * 2
    async with asyncio.timeout(20):
        while stream.looks < until:
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0)


async def test_a_catch_up_is_told_from_beginning_to_end() -> None:
    stream = Stream()
    stream.sent -= 4_000
    async with watching(stream) as entries:
        await goes_on(stream, 36, 101, 100_000)
        assert [entry["event"] for entry in entries] == [
            "catch_up.began", *["catch_up.advanced"] * 3
        ]  # fmt: skip
        assert stream.stats.pace.is_behind
        await goes_on(stream, 4, 101, 100_000)
        await goes_on(stream, 60, 1)
    began, *advanced, ended = entries
    assert began["seq"] == 150_000  # after 1.5 s: one frame's time is not enough
    assert began["lag_seconds"] == pytest.approx(3_900, abs=100)
    assert [entry["events_per_second"] for entry in advanced] == [100_000] * 3
    for entry, left in zip(advanced, (28, 18, 8), strict=True):
        assert entry["seconds_left"] == pytest.approx(left, abs=3)
        assert entry["lag_seconds"] == pytest.approx(100 * left, abs=300)
    assert ended["event"] == "catch_up.ended"
    assert ended["events"] == pytest.approx(3_850_000, rel=0.02)
    assert ended["seconds"] == pytest.approx(40, abs=2)
    assert stream.stats.pace.left == 0


async def test_a_daemon_that_is_live_tells_nothing() -> None:
    stream = Stream()
    async with watching(stream) as entries:
        await goes_on(stream, 60, 1)
        await goes_on(stream, 60, 0, 0)  # nothing happens
        stream.sent = stream.now - 2
        await goes_on(stream, 60, 1)
    assert entries == []
    assert stream.stats.pace.rate == 2_000


async def test_while_what_has_come_is_not_applied_it_has_not_ended() -> None:
    """The inbox is full: the relay has more, which is left unread."""
    stream = Stream()
    stream.sent -= 100_000
    async with watching(stream) as entries:
        await goes_on(stream, 8, 50)
        stream.is_settled = False
        await goes_on(stream, 600, 0, 0)
        assert stream.stats.pace.is_behind
        assert {entry["event"] for entry in entries} == {"catch_up.began", "catch_up.advanced"}
        stream.is_settled = True
        await goes_on(stream, QUIET + 1, 0, 0)
    assert entries[-1]["event"] == "catch_up.ended"
    assert not stream.stats.pace.is_behind


async def test_while_there_is_no_relay_it_repeats_nothing() -> None:
    stream = Stream()
    stream.sent -= 100_000
    async with watching(stream) as entries:
        await goes_on(stream, 8, 50)
        stream.is_connected = False
        await goes_on(stream, 600, 0, 0)
    assert [entry["event"] for entry in entries] == ["catch_up.began"]
