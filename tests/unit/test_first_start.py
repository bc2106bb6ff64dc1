"""The first start searches once; a clock that is off is said loudly."""

import asyncio
import json
from datetime import UTC, datetime
from typing import cast

import pytest
from structlog.testing import capture_logs

from indexer import catch_up
from indexer.consumer import Consumer
from indexer.net.guard import guarded_client
from indexer.repos import backfill
from indexer.repos.backfill import Backfiller
from indexer.store import backfills
from indexer.store.cursors import Cursor
from indexer.stream.clocks import LOOKS
from tests.support.consuming import consuming, cursor_at, impatient
from tests.support.fake_relay import Relay, refusal, relay
from tests.support.frames import ALICE, COLLECTIONS, foreign_commit
from tests.support.http_host import hosting, http
from tests.support.index_file import RELAY, Index, index
from tests.support.waiting import until
from tests.support.xrpc_world import FakeStream

__all__ = ["impatient", "index", "relay"]  # fixtures


@pytest.fixture(autouse=True)
def _busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "POLL", 0.01)


async def test_the_first_start_searches_once(index: Index, relay: Relay) -> None:
    async def is_searched() -> bool:
        return all(search.done for search in await backfills.load(index.db, RELAY))

    async def directory(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(http(json.dumps({"repos": [{"did": ALICE}]}).encode()))

    async with index.db.transaction() as tx:
        await backfill.begin(tx, RELAY, COLLECTIONS)
    relay.answers = [refusal(503)] * 3  # the stream is joined after a while
    async with (
        hosting(directory) as host,
        guarded_client(allow_private=True) as client,
        consuming(index, relay, None) as consumer,
    ):
        searching = Backfiller(
            index.db,
            client,
            relay_url=host.url.replace("http", "ws"),
            relay=RELAY,
            joined=consumer.joined,
        )
        task = asyncio.create_task(searching.run())
        await until(is_searched)
        relay.add(1, foreign_commit(1))
        await cursor_at(index, 1)
        assert await is_searched()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(host.paths) == len(COLLECTIONS)


async def test_a_stream_that_goes_on_where_it_was_left_is_joined_from_the_beginning(
    index: Index, relay: Relay
) -> None:
    relay.answers = [refusal(503)] * 100
    async with consuming(index, relay, 7) as consumer:
        assert consumer.joined.is_set()


@pytest.mark.parametrize("ahead", [90.0, -90.0])
async def test_a_clock_that_is_off_is_said_once_and_loudly(
    monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    monkeypatch.setattr(catch_up, "LOOK_EVERY", 0)
    stream = FakeStream()
    now = 1_800_000_000.0
    looks = 0

    def clock() -> float:
        nonlocal now, looks
        now += 0.5
        looks += 1
        stream.stats.frames += 1
        sent = datetime.fromtimestamp(now + ahead, UTC).isoformat().replace("+00:00", "Z")
        stream.position = Cursor(looks, sent)
        stream.is_connected = stream.is_settled = True
        return now

    with capture_logs() as entries:
        task = asyncio.create_task(catch_up.watch(cast(Consumer, stream), clock))
        async with asyncio.timeout(20):
            while looks < 4 * LOOKS:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    [entry] = [entry for entry in entries if entry["event"] == "clock.differs"]
    assert (entry["log_level"], entry["relay_ahead_s"]) == ("error", round(ahead))
