"""How repos were proven is told by way: repos, bytes and requests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from indexer import status
from indexer.store import daemon
from tests.support.xrpc_world import World, make_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        async with made.db.transaction() as tx:
            await daemon.count_resync(tx, "proof", 4_000, 3)
            await daemon.count_resync(tx, "proof", 4_500, 4)
            await daemon.count_resync(tx, "whole", 6_470_000, 1)
            await daemon.count_resync(tx, "unchanged", 100, 1)
        yield made


async def test_the_status_says_it(world: World) -> None:
    found = await status.gather(world.db, "relay.test", world.now)
    assert found["resynced"] == {
        "proof": {"repos": 2, "bytes": 8_500, "requests": 7},
        "unchanged": {"repos": 1, "bytes": 100, "requests": 1},
        "whole": {"repos": 1, "bytes": 6_470_000, "requests": 1},
    }
    text = status.render(found)
    assert "resynced    by proof: 2 repos, 8.5 kB, 7 requests" in text
    assert "resynced    by whole: 1 repos, 6,470.0 kB, 1 requests" in text


async def test_the_metrics_say_it(world: World) -> None:
    async with world.serving():
        answer = await world.request("GET", "/metrics")
    found = {
        (sample.name, sample.labels.get("way")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["rescind_resynced_total", "proof"] == 2
    assert found["rescind_resync_bytes_total", "whole"] == 6_470_000
    assert found["rescind_resync_requests_total", "proof"] == 7


async def test_a_new_daemon_begins_to_count_anew(world: World) -> None:
    async with world.db.transaction() as tx:
        await daemon.start(tx, pid=1, version="1", relay="relay.test", now=1)
    assert (await status.gather(world.db, "relay.test", world.now))["resynced"] == {}
