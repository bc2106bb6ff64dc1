"""A consumer that reads a relay on loopback into a real index, and what tests wait for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from indexer import consumer as module
from indexer.consumer import Consumer, cursor_checkpoint
from indexer.store import cursors
from indexer.stream import firehose
from indexer.stream.firehose import Firehose
from tests.support.fake_relay import Relay
from tests.support.frames import NOW, SCOPE, VERIFICATION, Author, prover, verification
from tests.support.index_file import RELAY, Index


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new connections and batches not wait as long as they should."""
    monkeypatch.setattr(firehose, "FIRST_DELAY", 0.002)
    monkeypatch.setattr(firehose, "MAX_DELAY", 0.02)
    monkeypatch.setattr(firehose, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(module, "GATHER", 0.005)
    monkeypatch.setattr(module, "CURSOR_INTERVAL", 0.05)


@asynccontextmanager
async def reading(
    index: Index, relay: Relay, start: int | None = 0, **more: Any
) -> AsyncIterator[Consumer]:
    """Run a consumer meanwhile; if it dies, so does the test."""
    options: dict[str, Any] = {
        "checkpoint": cursor_checkpoint(RELAY),
        "clock": lambda: NOW / 1000,
        "prover": prover(),
        **more,
    }
    source = Firehose(relay.url)
    consumer = Consumer(index.db, SCOPE, source=source, relay=RELAY, start=start, **options)
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(holds: Callable[[], Awaitable[object]], within: float = 20.0) -> None:
    try:
        async with asyncio.timeout(within):
            while not await holds():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"it did not come to that within {within} s") from None


async def cursor_at(index: Index, seq: int | None) -> None:
    async def is_there() -> bool:
        cursor = await cursors.load(index.db, RELAY)
        return (cursor.seq if cursor else None) == seq

    await until(is_there)


def path(number: int) -> str:
    return f"{VERIFICATION}/{number}"


def record_at(author: Author, seq: int) -> bytes:
    """Return a commit that creates the record of this number."""
    return author.commit(seq, {path(seq): verification()})


async def indexed(index: Index) -> list[int]:
    rows = await index.rows("verifications")
    return sorted(int(row["uri"].rpartition("/")[2]) for row in rows)


async def states(index: Index) -> dict[str, str]:
    """Return how well each repo is known, by DID."""
    return {row["did"]: row["sync"] for row in await index.rows("repos")}
