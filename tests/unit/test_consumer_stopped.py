"""Killed or failed at any moment, the index and the cursor agree."""

import asyncio
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from indexer import consumer as module
from indexer.store import cursors
from indexer.store.db import Database, DatabaseError
from indexer.stream import inbox
from tests.support.consuming import consumer_of, consuming, cursor_at, fill, impatient, indexed
from tests.support.fake_relay import Relay, relay
from tests.support.frames import BOB, Author
from tests.support.index_file import RELAY, Index, index, opened

__all__ = ["impatient", "index", "relay"]  # fixtures

# --- our own faults ---


async def test_a_database_error_ends_it_with_the_cursor_where_it_was(
    index: Index, relay: Relay
) -> None:
    fill(relay, 1, 1)
    async with consuming(index, relay):
        await cursor_at(index, 1)
    async with index.db.transaction() as tx:
        await tx.execute("alter table verifications rename to elsewhere")
    fill(relay, 2, 5, Author(BOB))
    consumer = consumer_of(index.db, relay, 1)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(consumer.run(), 20)
    assert "no such table" in str(caught.value.exceptions[0])
    await cursor_at(index, 1)


async def test_a_database_that_stays_locked_ends_it_too(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.store.connections.BUSY_TIMEOUT", 0.05)
    fill(relay, 1, 3)
    async with await Database.open(index.db.path) as impatient, index.db.transaction():
        consumer = consumer_of(impatient, relay, 0)
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(consumer.run(), 20)
    assert caught.group_contains(DatabaseError)
    await cursor_at(index, None)


async def test_a_checkpoint_that_fails_takes_the_batch_with_it(index: Index, relay: Relay) -> None:
    fill(relay, 1, 3)

    async def failing(_: object, __: object) -> None:
        raise ZeroDivisionError

    consumer = consumer_of(index.db, relay, 0, checkpoint=failing)
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(consumer.run(), 20)
    assert await indexed(index) == []


# --- killed at any moment ---


async def agrees(index: Index, last: int) -> int:
    """Check that the index holds what lies up to the cursor, and return that."""
    async with index.db.transaction() as tx:  # one moment, and after any rollback
        cursor = await cursors.load(tx, RELAY)
        rows = await tx.all("select uri from verifications")
    seq = cursor.seq if cursor else 0
    numbers = sorted(int(row["uri"].rpartition("/")[2]) for row in rows)
    assert numbers == [number for number in range(1, min(seq, last) + 1) if number % 2]
    return seq


@pytest.mark.parametrize("batch", [1, 1_000])
async def test_killed_at_any_statement_the_index_and_the_cursor_agree(
    tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """The cancellation comes while the database works on a statement, each one in turn."""
    monkeypatch.setattr(inbox, "MAX_BATCH", batch)
    last = 8
    fill(relay, 1, last)
    execute: Any = aiosqlite.Connection._execute
    watched: list[aiosqlite.Connection] = []
    countdown = 0

    async def counted(connection: aiosqlite.Connection, *args: Any, **kwargs: Any) -> Any:
        nonlocal countdown
        if connection in watched:
            countdown -= 1
            if countdown == 0:
                running.cancel()
        return await execute(connection, *args, **kwargs)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    cursors_seen = set()
    for number in range(1, 200):
        async with opened(tmp_path, f"{number}.db") as index:
            async with await Database.open(index.db.path) as db:
                countdown, watched = number, [db._writer, db._reader]
                running = asyncio.create_task(consumer_of(db, relay, 0).run())
                while not running.done() and await agrees(index, last) < last:
                    await asyncio.sleep(0.001)
                was_killed, watched = running.done(), []
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            seq = await agrees(index, last)
            cursors_seen.add(seq)
            async with consuming(index, relay, seq):
                await cursor_at(index, last)
            assert await agrees(index, last) == last
            assert (await index.repo())["sync"] == "synchronized"
        if not was_killed:
            break
    else:
        raise AssertionError("it never came to an end")
    assert number > 10
    assert {0, last} <= cursors_seen


async def test_killed_at_any_await_the_index_and_the_cursor_agree(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_BATCH", 2)
    monkeypatch.setattr(module, "GATHER", 0.0)
    last = 120
    fill(relay, 1, last)
    seq, kills = 0, 0
    while seq < last:
        assert kills < 3_000
        running = asyncio.create_task(consumer_of(index.db, relay, seq).run())
        # Spinning passes each await one by one; what waits for a thread or a socket needs time.
        for _ in range(kills % 97):
            await asyncio.sleep(0)
        await asyncio.sleep(kills % 13 * 0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        before, seq = seq, await agrees(index, last)
        assert seq >= before
        kills += 1
    assert kills > 3
    assert (await index.repo())["sync"] == "synchronized"


async def test_killed_and_played_again_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, relay: Relay
) -> None:
    fill(relay, 1, 60)
    dumps = []
    for name, starts in (("once.db", [0]), ("often.db", [0, 0, 0, 7, 3, 20, 0, 41])):
        async with opened(tmp_path, name) as index:
            for number, start in enumerate(starts):
                async with consuming(index, relay, start):
                    # Killed at once twice; then once to the end, before it begins further on.
                    goes_on = number in (2, len(starts) - 1)
                    await cursor_at(index, 60) if goes_on else await asyncio.sleep(0.02)
            dumps.append(await index.dump())
    assert dumps[0] == dumps[1]
