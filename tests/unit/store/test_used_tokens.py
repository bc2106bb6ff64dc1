"""The table of used tokens: each once, and no longer than it lives."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from indexer.store import used_tokens
from indexer.store.db import Database
from tests.support.store_file import VERSION_6

NOW = 1_800_000_000_000  # Unix ms
ALICE = "did:plc:" + "a" * 24


def key(number: int) -> bytes:
    return number.to_bytes(32)


async def take(db: Database, number: int, ends_at: int, now: int = NOW) -> bool:
    return await db.write(lambda tx: used_tokens.take(tx, key(number), ALICE, ends_at, now))


async def test_a_token_is_taken_once(tmp_path: Path) -> None:
    async with await Database.open(tmp_path / "test.db") as db:
        assert await take(db, 1, NOW + 1)
        assert not await take(db, 1, NOW + 1)
        assert not await take(db, 1, NOW + 2)
        assert await take(db, 2, NOW + 1)


async def test_of_two_processes_one_takes_it(tmp_path: Path) -> None:
    async with (
        await Database.open(tmp_path / "test.db") as one,
        await Database.open(tmp_path / "test.db") as other,
    ):
        taken = await asyncio.gather(*(take(db, 1, NOW + 1) for db in (one, other) for _ in "123"))
        assert sorted(taken) == [False] * 5 + [True]


async def test_those_that_ended_go_as_others_come_a_few_at_a_time(tmp_path: Path) -> None:
    async with await Database.open(tmp_path / "test.db") as db:
        for number in range(20):
            assert await take(db, number, NOW + number)
        assert not await take(db, 0, NOW)  # in its last millisecond
        later = NOW + 10
        for number in range(20, 23):
            before = await db.all(
                "select key from used_tokens where ends_at < :now", {"now": later}
            )
            await take(db, number, NOW + 100, later)
            left = await db.all("select key from used_tokens where ends_at < :now", {"now": later})
            assert len(left) == max(0, len(before) - used_tokens.PRUNED)
        assert [row["ends_at"] for row in await used_tokens.living(db, later)] == sorted(
            [NOW + number for number in range(10, 20)] + [NOW + 100] * 3
        )
        assert len(await db.all("select key from used_tokens")) == 13


def schema_of(path: Path) -> list[tuple[str, list[str]]]:
    """Return what is in a file, without the comments, which no migration writes."""
    with closing(sqlite3.connect(path)) as raw:
        rows = raw.execute("select name, sql from sqlite_schema where sql is not null").fetchall()
    return sorted(
        (name, re.findall(r"\w+|[^\w\s]", re.sub(r"--.*", "", sql))) for name, sql in rows
    )


async def test_a_file_of_version_5_has_no_used_tokens_and_takes_some(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    wanted = schema_of(path)
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(f"{VERSION_6} drop table used_tokens; pragma user_version = 5;")
    async with await Database.open(path) as db:
        assert schema_of(path) == wanted
        assert await used_tokens.living(db, 0) == []
        assert await take(db, 1, NOW)
