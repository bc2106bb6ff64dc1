"""A daemon that was away for hours says how far it is: in the status, the log and the metrics."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.command import rescind
from tests.support.fake_relay import Relay, relay
from tests.support.frames import BOB, frame
from tests.support.metrics_text import read
from tests.support.running_daemon import running
from tests.support.xrpc_world import World, eventually, make_world

__all__ = ["relay"]  # fixtures

AWAY = timedelta(hours=3)
SPEED = 1_000  # seconds of the stream in a second


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


async def catching_up(_: Relay, socket: Any, __: int | None) -> None:
    """Send what was written while the daemon was away, and then what is new."""
    began = datetime.now(UTC)
    for seq in range(1, 100_000):
        now = datetime.now(UTC)
        sent = min(now, began - AWAY + SPEED * (now - began))
        time = sent.isoformat().replace("+00:00", "Z")
        await socket.send(
            frame("#identity", {"seq": seq, "time": time, "did": BOB, "handle": "bob.test"})
        )
        await asyncio.sleep(0.005)


async def test_one_that_was_away_tells_how_far_it_is(world: World, relay: Relay) -> None:
    relay.scripts = [catching_up]
    async with (
        running(world, RELAY=relay.url) as daemon,
        httpx.AsyncClient(trust_env=False) as client,
    ):

        async def status() -> dict[str, Any]:
            _, out, _ = await rescind(world, "status", "--json")
            found: dict[str, Any] = json.loads(out)
            return found

        async def is_measured() -> bool:
            pace = (await status())["pace"]
            return pace is not None and pace["seconds_left"] is not None and pace["catching_up"]

        await eventually(is_measured, 15)
        found = await status()
        assert 20 < found["pace"]["events_per_second"] < 400
        assert 0 < found["pace"]["seconds_left"] < 30
        _, out, _ = await rescind(world, "status")
        assert "events/s, catching up, 0:00:" in out
        metrics = read((await client.get(f"{daemon.url}/metrics")).text)
        assert 20 < metrics["rescind_events_per_second"][()] < 400
        assert 0 < metrics["rescind_catch_up_seconds_left"][()] < 30

        async def is_live() -> bool:
            pace = (await status())["pace"]
            return pace is not None and not pace["catching_up"]

        await eventually(is_live, 40)
        _, out, _ = await rescind(world, "status")
        assert "events/s, live" in out
        metrics = read((await client.get(f"{daemon.url}/metrics")).text)
        assert metrics["rescind_catch_up_seconds_left"] == {(): 0}
        assert await daemon.end(signal.SIGTERM) == 0
    told = [entry for entry in daemon.logged() if entry["event"].startswith("catch_up.")]
    assert [entry["event"] for entry in told if entry["event"] != "catch_up.advanced"] == [
        "catch_up.began", "catch_up.ended",
    ]  # fmt: skip
    assert told[0]["lag_seconds"] > 3_600
