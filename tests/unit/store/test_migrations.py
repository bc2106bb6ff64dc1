"""A file of any older version becomes one of this, and keeps what is in it."""

import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from indexer.store import cursors, daemon, invite_tokens, migrations, repos, resyncs
from indexer.store.cursors import Cursor
from indexer.store.db import Database, DatabaseError
from indexer.store.migrations import schema
from tests.support.frames import ALICE, BOB, INVITE, tid
from tests.support.store_file import RELAY, URI, VERSION_6, VERSION_8, version_of


def _schema_of(path: Path) -> list[tuple[str, ...]]:
    raw = sqlite3.connect(path)
    try:
        return sorted(
            (kind, name, " ".join(sql.split()))
            for kind, name, sql in raw.execute(
                "select type, name, sql from sqlite_schema where sql is not null"
            )
        )
    finally:
        raw.close()


def _schema_by_hand(path: Path) -> list[tuple[str, ...]]:
    raw = sqlite3.connect(path)
    raw.executescript(schema())
    raw.close()
    return _schema_of(path)


async def test_a_new_file_has_the_schema_of_schema_sql(tmp_path: Path) -> None:
    await (await Database.open(tmp_path / "new.db")).close()
    assert _schema_of(tmp_path / "new.db") == _schema_by_hand(tmp_path / "by_hand.db")
    assert version_of(tmp_path / "new.db") == migrations.SCHEMA_VERSION


def test_every_older_version_has_its_migration() -> None:
    assert set(migrations.MIGRATIONS) == set(range(1, migrations.SCHEMA_VERSION))


MADE_UP = {
    migrations.SCHEMA_VERSION: """
        -- A comment; with a semicolon.
        create table guests (did text primary key) strict;
        create trigger count_guests after insert on guests begin
            delete from counters;
            insert into counters values ('skipped', 'guests', 1);
        end;
    """,
    migrations.SCHEMA_VERSION + 1: "create index guests_by_did on guests (did)",  # and no semicolon
}


async def test_an_older_file_is_migrated_step_by_step_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "test.db"
    async with await Database.open(path) as db, db.transaction() as tx:
        await cursors.save(tx, RELAY, Cursor(7, None))
    wanted = schema() + "".join(f"{script};" for script in MADE_UP.values())
    last = migrations.SCHEMA_VERSION + 2
    monkeypatch.setattr(migrations, "MIGRATIONS", {**migrations.MIGRATIONS, **MADE_UP})
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", last)
    for _ in range(2):
        async with await Database.open(path) as db:
            assert await cursors.load(db, RELAY) == Cursor(7, None)
    assert version_of(path) == last
    monkeypatch.setattr(sys.modules[__name__], "schema", lambda: wanted)
    assert _schema_of(path) == _schema_by_hand(tmp_path / "by_hand.db")


# What version 2 had where this version has something else.
VERSION_2 = f"""
    {VERSION_6}
    drop table used_tokens;
    drop index repos_to_ask;
    drop table members;
    drop table invite_tokens;
    drop index invites_by_token;
    drop index invites_by_space;
    drop index verifications_by_time;
    drop index verifications_by_issuer;
    drop index verifications_by_subject;
    drop index verifications_by_both;
    drop index tombstones_by_token;
    drop index outbox_by_repo;
    drop index outbox_by_state;
    create index tombstones_by_token on tombstones (space_uri, token_hash)
        where token_hash is not null;
    create index outbox_by_repo on outbox (did, state);
    create index invites_by_token on invites (space_uri, token_hash);
    create index verifications_by_issuer on verifications (did);
    create index verifications_by_subject on verifications (subject);
    drop table daemon;
    create table daemon (
        id         integer primary key check (id = 1),
        pid        integer not null,
        version    text    not null,
        relay      text    not null,
        started_at integer not null
    ) strict;
    pragma user_version = 2;
"""


def _bare(path: Path) -> list[tuple[str, str, str]]:
    """Return what a file is made of, whatever its comments."""
    with closing(sqlite3.connect(path)) as raw:
        return [
            (kind, name, re.sub(r"\s*([\s),])", r"\1", re.sub(r"--[^\n]*|\s+", " ", sql)))
            for kind, name, sql in raw.execute(
                "select type, name, sql from sqlite_schema where sql is not null order by 1, 2"
            )
        ]


async def test_a_file_of_version_2_becomes_one_of_this_and_knows_whose_its_tokens_are(
    tmp_path: Path,
) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    wanted = _bare(path)
    raw = sqlite3.connect(path)
    raw.executescript(VERSION_2)
    raw.executemany("insert into repos (did) values (?)", [(ALICE,), (BOB,)])
    for did, number in ((ALICE, 2), (BOB, 1), (BOB, 3)):
        raw.execute(
            """
            insert into invites (uri, did, cid, rev, space_uri, token_hash, kind, created_at)
            values (?, ?, 'cid', ?, ?, ?, 'join', 0)
            """,
            (f"at://{did}/{INVITE}/{number}", did, tid(number), f"at://{did}/a.b.c/d", "a" * 64),
        )
    raw.execute(
        """
        insert into tombstones (uri, cid, kind, did, rev, cause, created_at, space_uri, token_hash)
        values (?, 'cid', 'invite', ?, ?, 'deleted', 0, ?, ?)
        """,
        (f"at://{ALICE}/{INVITE}/9", ALICE, tid(0), f"at://{ALICE}/a.b.c/d", "b" * 64),
    )
    raw.execute("insert into daemon values (1, 7, '1', ?, 5)", (RELAY,))
    raw.commit()
    raw.close()

    async with await Database.open(path) as db:
        assert _bare(path) == wanted
        rows = await db.all("select token_hash, did, owned from invite_tokens order by 1, 2")
        assert [(row["token_hash"][0], row["did"], row["owned"]) for row in rows] == [
            ("a", ALICE, 0),
            ("a", BOB, 1),  # so say the revs
            ("b", ALICE, 1),
        ]
        last = await daemon.load(db)
        assert last is not None
        assert tuple(last) == (7, "1", RELAY, 5, None, None, None)


VERSION_3 = f"""
    {VERSION_6}
    drop table used_tokens;
    drop table invite_tokens;
    create table invite_tokens (
        id         integer primary key,
        token_hash text    not null check (length(token_hash) = 64),
        space_uri  text    not null,
        used_count integer not null default 0 check (used_count >= 0),
        unique (token_hash, space_uri)
    ) strict;
    create index invite_tokens_by_hash on invite_tokens (token_hash);
    pragma user_version = 3;
"""


async def test_a_file_of_version_3_keeps_whose_its_tokens_are_and_how_often_they_were_used(
    tmp_path: Path,
) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    wanted = _bare(path)
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(VERSION_3)
        raw.executemany(
            "insert into invite_tokens (token_hash, space_uri, used_count) values (?, ?, ?)",
            [
                ("a" * 64, f"at://{BOB}/a.b.c/d", 5),
                ("b" * 64, f"at://{BOB}/a.b.c/d", 0),
                ("a" * 64, f"at://{ALICE}/a.b.c/d", 7),
            ],
        )
        raw.commit()

    async with await Database.open(path) as db:
        assert _bare(path) == wanted
        assert await invite_tokens.owned_space(db, "a" * 64) == f"at://{BOB}/a.b.c/d"
        async with db.transaction() as tx:
            await invite_tokens.note(tx, [(f"at://{ALICE}/a.b.c/d", "b" * 64)], decide=True)
            await invite_tokens.count_use(tx, "a" * 64, f"at://{ALICE}/a.b.c/d")
        assert await invite_tokens.owned_space(db, "b" * 64) == f"at://{BOB}/a.b.c/d"
        rows = await db.all("select used_count from invite_tokens order by used_count")
        assert [row["used_count"] for row in rows] == [0, 0, 5, 8]


VERSION_4 = f"""
    {VERSION_6}
    drop table used_tokens;
    alter table invite_tokens drop column uri;
    pragma user_version = 4;
"""


async def test_a_file_of_version_4_keeps_its_tokens_and_takes_none_for_created_here(
    tmp_path: Path,
) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    wanted = _bare(path)
    garden = f"at://{ALICE}/a.b.c/d"
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(VERSION_4)
        raw.execute(
            """
            insert into invite_tokens (space_uri, token_hash, place, used_count)
            values (?, ?, 1, 5)
            """,
            (garden, "a" * 64),
        )
        raw.commit()

    async with await Database.open(path) as db:
        assert _bare(path) == wanted
        assert await invite_tokens.created_as(db, garden, "a" * 64) is None
        async with db.transaction() as tx:
            await invite_tokens.note_created(tx, garden, "b" * 64, URI)
        assert await invite_tokens.created_as(db, garden, "b" * 64) == URI
        rows = await db.all("select used_count, uri from invite_tokens order by token_hash")
        assert [tuple(row) for row in rows] == [(5, None), (0, URI)]


async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    before = _schema_of(path)
    version = migrations.SCHEMA_VERSION
    broken = {version: "create table guests (did text);", version + 1: "create table guests (x);"}
    monkeypatch.setattr(migrations, "MIGRATIONS", {**migrations.MIGRATIONS, **broken})
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", version + 2)
    with pytest.raises(DatabaseError, match="already exists"):
        await Database.open(path)
    assert _schema_of(path) == before
    assert version_of(path) == version


async def test_a_file_of_version_6_keeps_what_was_counted(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    wanted = _bare(path)
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(VERSION_6)
        raw.execute("insert into repos (did, resync_attempts) values (?, 3)", (ALICE,))
        raw.execute("insert into counters values ('rejected', 'bad_car', 7)")
        raw.commit()

    async with await Database.open(path) as db:
        assert _bare(path) == wanted
        assert await daemon.counters(db, "rejected") == {"bad_car": 7}
        async with db.transaction() as tx:
            assert await resyncs.claim(tx, [ALICE], 1) == {ALICE: (4, False)}
            await daemon.count_resync(tx, "proof", 4_000, 2)
            await daemon.count_resync(tx, "proof", 500, 1)
        assert await daemon.counters(db, "resynced") == {"proof": 2}
        assert await daemon.counters(db, "resync_bytes") == {"proof": 4_500}
        assert await daemon.counters(db, "resync_requests") == {"proof": 3}


async def test_a_file_of_version_8_keeps_its_cursor_and_its_repos(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(VERSION_8)
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
