"""The consumer shows how it fares while it runs."""

import asyncio

import pytest
from websockets.asyncio.server import ServerConnection

from indexer import consumer as module
from indexer.stream import firehose
from indexer.stream.stats import Stats
from tests.support.consuming import consuming, cursor_at, fill
from tests.support.fake_relay import Relay, refusal, relay
from tests.support.frames import BOB, NOW, identity_frame
from tests.support.index_file import Index, index
from tests.support.waiting import until
from xrpc.serving.health import Stream, examine

__all__ = ["index", "relay"]  # fixtures


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firehose, "FIRST_DELAY", 0.002)
    monkeypatch.setattr(module, "GATHER", 0.005)
    monkeypatch.setattr(module, "CURSOR_INTERVAL", 0.05)


async def test_what_the_consumer_did_is_counted(index: Index, relay: Relay) -> None:
    fill(relay, 1, 9)
    relay.add(10, identity_frame(10, BOB))
    stats = Stats()
    async with consuming(index, relay, stats=stats) as consumer:
        stream: Stream = consumer
        await cursor_at(index, 10)

        async def has_beaten() -> bool:
            return stats.beat_at > 0

        await until(has_beaten)
        assert stream.applied is not None
        assert stream.applied.seq == 10
        assert stats.events == {"commit": 5, "identity": 1}
        assert stats.batch_events.total == 6
        assert sum(stats.batch_events.counts) == sum(stats.batch_seconds.counts) >= 1
        assert stats.batch_seconds.total > 0
        assert stats.beat_at == stats.moved_at == NOW / 1000
        assert stats.left_at == 0
        assert examine(stream, NOW / 1000 + 10, 60).problem is None


async def test_an_indexer_whose_relay_is_gone_is_seen_to_be_ill(index: Index, relay: Relay) -> None:
    is_over = asyncio.Event()

    async def leave(relay: Relay, socket: ServerConnection, _: int | None) -> None:
        """Send what there is, and from a moment on take no connection any more."""
        for _seq, frame in relay.frames:
            await socket.send(frame)
        await is_over.wait()
        relay.answers = [refusal(503)] * 10_000
        await socket.close()

    fill(relay, 1, 3)
    relay.scripts = [leave]
    async with consuming(index, relay) as consumer:
        await cursor_at(index, 3)
        is_over.set()

        async def has_noticed() -> bool:
            return consumer.stats.left_at > 0 and not consumer.is_connected

        await until(has_noticed)
        health = examine(consumer, NOW / 1000 + 100, 1_000)
        assert "no connection to the relay for 100 s" in (health.problem or "")
