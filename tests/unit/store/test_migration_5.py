"""A file of version 5 keeps its cursors and repos, and learns what they were not asked before."""

import sqlite3
from contextlib import closing
from pathlib import Path

from indexer.store import cursors, repos
from indexer.store.cursors import Cursor
from indexer.store.db import Database
from tests.support.frames import ALICE
from tests.support.index_file import RELAY
from tests.unit.store.test_store import VERSION_5


async def test_a_file_of_version_5_keeps_its_cursor_and_its_repos(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(VERSION_5)
        raw.execute(
            "insert into cursors (relay, seq, time, applied_at) values (?, 7, 'x', 1)", (RELAY,)
        )
        raw.execute("insert into repos (did, rev) values (?, '3k')", (ALICE,))
        raw.commit()

    async with await Database.open(path) as db:
        stored = await cursors.load(db, RELAY)
        assert stored == Cursor(7, "x", 1)
        assert stored.mark is None
        assert (await repos.load(db, [ALICE]))[ALICE] == repos.Repo(ALICE, "3k")
        async with db.transaction() as tx:
            await cursors.save(tx, RELAY, Cursor(8, "y", 2, b"mark"))
            await repos.save(tx, [repos.Repo(ALICE, "3l", sends_prev_data=True)])
        moved = await cursors.load(db, RELAY)
        assert moved is not None
        assert moved.mark == b"mark"
        assert (await repos.load(db, [ALICE]))[ALICE].sends_prev_data is True
