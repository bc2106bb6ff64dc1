"""A consumer that reads a fake relay into a real index, and what became of its frames."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from indexer import consumer
from indexer.consumer import Consumer, cursor_checkpoint
from indexer.store import cursors
from indexer.store.db import Database
from indexer.stream import firehose
from indexer.stream.firehose import Firehose
from tests.support.fake_relay import Relay
from tests.support.frames import (
    NOW,
    SCOPE,
    VERIFICATION,
    Author,
    foreign_commit,
    prover,
    verification,
)
from tests.support.index_file import RELAY, Index
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays that a test need not wait for."""
    monkeypatch.setattr(firehose, "FIRST_DELAY", 0.002)
    monkeypatch.setattr(firehose, "MAX_DELAY", 0.02)
    monkeypatch.setattr(firehose, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(consumer, "GATHER", 0.005)
    monkeypatch.setattr(consumer, "CURSOR_INTERVAL", 0.05)


def consumer_of(db: Database, relay: Relay, start: int | None, **more: Any) -> Consumer:
    options: dict[str, Any] = {
        "checkpoint": cursor_checkpoint(RELAY),
        "clock": lambda: NOW / 1000,
        "prover": prover(),
        **more,
    }
    source = Firehose(relay.url)
    return Consumer(db, SCOPE, source=source, relay=RELAY, start=start, **options)


@asynccontextmanager
async def consuming(
    index: Index, relay: Relay, start: int | None = 0, **more: Any
) -> AsyncIterator[Consumer]:
    """Run a consumer meanwhile; if it dies, so does the test."""
    consumer = consumer_of(index.db, relay, start, **more)
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def cursor_at(index: Index, seq: int | None, within: float = 20.0) -> None:
    async def is_there() -> bool:
        cursor = await cursors.load(index.db, RELAY)
        return (cursor.seq if cursor else None) == seq

    await until(is_there, within)


def path(number: int) -> str:
    return f"{VERIFICATION}/{number}"


def fill(relay: Relay, first: int, last: int, author: Author | None = None) -> Author:
    """Let the relay have these seqs: records of ours, each followed by what concerns nobody."""
    author = author or Author()
    for seq in range(first, last + 1):
        if seq % 2:
            relay.add(seq, author.commit(seq, {path(seq): verification()}))
        else:
            relay.add(seq, foreign_commit(seq))
    return author


def record_at(author: Author, seq: int) -> bytes:
    """Return a commit that creates the record of this number."""
    return author.commit(seq, {path(seq): verification()})


async def states(index: Index) -> dict[str, str]:
    """Return how well each repo is known, by DID."""
    return {row["did"]: row["sync"] for row in await index.rows("repos")}


async def indexed(index: Index) -> list[int]:
    rows = await index.rows("verifications")
    return sorted(int(row["uri"].rpartition("/")[2]) for row in rows)


async def known(index: Index, relay: Relay) -> Author:
    """Let the index know a repo that is in step, at seq 1."""
    author = fill(relay, 1, 1)
    async with consuming(index, relay):
        await cursor_at(index, 1)
    relay.frames.clear()
    relay.cursors.clear()
    assert (await index.repo())["sync"] == "synchronized"
    return author
