"""A consumer that reads a fake relay into a real index, and what became of its frames."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from indexer.consumer import Consumer, cursor_checkpoint
from indexer.store import cursors
from indexer.store.db import Database
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


async def indexed(index: Index) -> list[int]:
    rows = await index.rows("verifications")
    return sorted(int(row["uri"].rpartition("/")[2]) for row in rows)
