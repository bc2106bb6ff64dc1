"""An index of before keeps its members, and whose its tokens are."""

import sqlite3
from contextlib import closing
from pathlib import Path

from indexer.records import binding_of
from indexer.store import backfills, invite_tokens
from indexer.store.db import Database
from tests.support.frames import ALICE, BOB, CAROL, COLLECTIONS
from tests.support.store_file import VERSION_9

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def garden(did: str, key: str = "d") -> str:
    return f"at://{did}/a.b.c/{key}"


async def test_a_file_of_version_9_keeps_members_uses_and_whose_each_token_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "test.db"
    async with await Database.open(path) as db, db.transaction() as tx:
        await backfills.begin(tx, "relay.test", COLLECTIONS)
        await tx.execute("update backfills set done_at = 5")
        await backfills.begin(tx, "other.test", COLLECTIONS)
    rows = [
        (garden(BOB), A, 1, 5, None),  # the earliest
        (garden(ALICE), A, 2, 7, None),
        (garden(BOB), B, 1, 0, None),
        (garden(ALICE), B, 2, 3, "at://x/y/z"),  # created here: that counts before all
        (garden(ALICE), C, 3, 1, None),
        (garden(ALICE, "e"), C, 2, 0, None),
        (garden(CAROL), D, 1, 0, "at://x/y/w"),
    ]
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(VERSION_9)
        raw.executemany("insert into invite_tokens values (?, ?, ?, ?, ?)", rows)
        raw.execute("insert into repos (did) values (?)", (ALICE,))
        member = (garden(ALICE), CAROL, "3l", A, ALICE, 9)
        raw.execute("insert into members values (?, ?, ?, ?, ?, ?)", member)
        raw.commit()

    async with await Database.open(path) as db:
        owned = {h: await invite_tokens.owned_space(db, h) for h in (A, B, C, D)}
        assert owned == {
            A: garden(BOB), B: garden(ALICE), C: garden(ALICE, "e"), D: garden(CAROL),
        }  # fmt: skip
        kept = await db.all("select * from invite_tokens")
        names = ("space_uri", "token_hash", "used_count", "uri")
        assert {tuple(row[name] for name in names) for row in kept} == {
            (space_uri, token_hash, used, uri) for space_uri, token_hash, _, used, uri in rows
        }
        assert all(row["did"] == row["space_uri"].split("/")[2] for row in kept)
        assert all(row["binding"] == binding_of(row["space_uri"]) for row in kept)
        kept_members = await db.all("select * from members")
        assert [tuple(row) for row in kept_members] == [(*member, "write")]
        # A later copier changes nothing of it.
        async with db.transaction() as tx:
            await invite_tokens.note(tx, [(garden(CAROL), h) for h in (A, B, C)], decide=True)
            await invite_tokens.decide_all(tx)
        assert owned == {h: await invite_tokens.owned_space(db, h) for h in (A, B, C, D)}
        assert await backfills.is_settled(db, "relay.test")
        assert not await backfills.is_settled(db, "other.test")
