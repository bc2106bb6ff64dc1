"""The file: made, migrated, refused; written all or nothing; its rows keep their rules."""

import asyncio
import os
import re
import resource
import shutil
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from indexer.store import (
    audit,
    connections,
    cursors,
    daemon,
    invite_tokens,
    migrations,
    outbox,
    repos,
    sessions,
    tombstones,
)
from indexer.store import (
    db as store_db,
)
from indexer.store.cursors import Cursor
from indexer.store.db import Database, DatabaseError, Transaction
from indexer.store.migrations import schema
from indexer.store.outbox import Deletion
from indexer.store.repos import Repo
from indexer.store.tombstones import Tombstone
from tests.support.frames import ALICE, BOB, INVITE, VERIFICATION, hash_of, tid

RELAY = "relay.test"
URI = f"at://{ALICE}/{VERIFICATION}/3k"
NOW = 1_000


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with await Database.open(tmp_path / "test.db") as db:
        yield db


# --- the file ---


async def test_a_file_is_made_once_and_keeps_what_is_in_it(tmp_path: Path) -> None:
    for seq in (None, 7):
        async with await Database.open(tmp_path / "test.db") as db:
            cursor = await cursors.load(db, RELAY)
            assert cursor == (Cursor(seq, None, NOW) if seq else None)
            async with db.transaction() as tx:
                await cursors.save(tx, RELAY, Cursor(7, None, NOW))


async def test_one_file_can_be_open_twice(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    async with await Database.open(path) as one, await Database.open(path) as two:
        async with one.transaction() as tx:
            await cursors.save(tx, RELAY, Cursor(7, None))
        assert await cursors.load(two, RELAY) == Cursor(7, None)


async def test_two_that_open_a_new_file_at_once_make_one_schema(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    opened = await asyncio.gather(*(Database.open(path) for _ in range(4)))
    for db in opened:
        assert await cursors.load(db, RELAY) is None
        await db.close()


async def is_safe(tx: Transaction) -> None:
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
        row = await tx.one(f"pragma {pragma}")
        assert row is not None
        assert row[0] == value


async def test_every_commit_is_on_the_disk_and_references_hold(db: Database) -> None:
    async with db.transaction() as tx:
        await is_safe(tx)
    await db.write(is_safe)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        async with db.transaction() as tx:
            await tx.execute(
                "insert into spaces (uri, did, cid, rev, created_at) values ('u', 'd', 'c', 'r', 0)"
            )


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"pragma user_version = {migrations.SCHEMA_VERSION + 1}")
    raw.close()
    with pytest.raises(DatabaseError, match="made by a newer version of Rescind"):
        await Database.open(path)
    assert _version(path) == migrations.SCHEMA_VERSION + 1


def _version(path: Path) -> int:
    raw = sqlite3.connect(path)
    try:
        (version,) = raw.execute("pragma user_version").fetchone()
        return int(version)
    finally:
        raw.close()


@pytest.mark.parametrize("version", [0, 1, 7])
async def test_a_file_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "photos.db"
    raw = sqlite3.connect(path)
    raw.execute("create table photos (id integer)")
    raw.execute(f"pragma user_version = {version}")
    raw.commit()
    raw.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="not one of Rescind"):
        await Database.open(path)
    assert path.read_bytes() == before


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 1_000)
    with pytest.raises(DatabaseError, match="can't be opened: file is not a database"):
        await Database.open(path)
    assert path.read_text().startswith("dear diary")


async def test_a_directory_that_is_missing_or_a_directory_is_told_plainly(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "test.db", tmp_path):
        with pytest.raises(DatabaseError, match="can't be opened"):
            await Database.open(path)


async def test_one_that_can_not_be_opened_whole_is_closed_whole(tmp_path: Path) -> None:
    """The system may have no more descriptors at any of the files and connections."""
    path = tmp_path / "test.db"
    await (await Database.open(path)).close()
    threads = set(threading.enumerate())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.dup(0)  # the lowest that is free
    os.close(first)
    failed = 0
    while True:
        resource.setrlimit(resource.RLIMIT_NOFILE, (first + failed, hard))
        try:
            opened = await Database.open(path)
        except DatabaseError as error:
            assert "can't be opened" in str(error)  # noqa: PT017 (the last attempt succeeds)
            failed += 1
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for thread in set(threading.enumerate()) - threads:
            thread.join(5)
        assert set(threading.enumerate()) <= threads
        again = os.dup(0)
        os.close(again)
        assert again == first
    await opened.close()
    assert failed > 6


async def test_a_file_is_not_made_where_one_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    with pytest.raises(DatabaseError, match="There is no database"):
        await Database.open(path, create=False)
    assert not path.exists()
    await (await Database.open(path)).close()
    await (await Database.open(path, create=False)).close()


async def test_what_is_written_is_folded_into_the_file_beside_readers_and_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_db, "FOLD_EVERY", 0.01)
    path, copy = tmp_path / "test.db", tmp_path / "copy.db"

    async def folded() -> int | None:
        """Return what is in the file alone, without its WAL."""
        shutil.copy(path, copy)
        async with await Database.open(copy) as alone:
            cursor = await cursors.load(alone, RELAY)
        return cursor.seq if cursor else None

    async with await Database.open(path) as db:
        folding = asyncio.create_task(db.keep_folding())
        for seq in (7, 8):
            async with db.transaction() as tx:
                await cursors.save(tx, RELAY, Cursor(seq, None))
            async with db.transaction() as tx:
                await cursors.save(tx, RELAY, Cursor(9, None))
                async with asyncio.timeout(10):
                    while await folded() != seq:
                        assert not folding.done()
                        await asyncio.sleep(0.01)
                await cursors.save(tx, RELAY, Cursor(seq, None))
        folding.cancel()
        await asyncio.gather(folding, return_exceptions=True)


# --- migrations ---


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
    assert _version(tmp_path / "new.db") == migrations.SCHEMA_VERSION


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
    assert _version(path) == last
    monkeypatch.setattr(sys.modules[__name__], "schema", lambda: wanted)
    assert _schema_of(path) == _schema_by_hand(tmp_path / "by_hand.db")


# What version 2 had where this version has something else.
VERSION_2 = """
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
        rows = await db.all(
            "select token_hash, space_uri from invite_tokens order by token_hash desc, place"
        )
        assert [(row["token_hash"][0], row["space_uri"].split("/")[2]) for row in rows] == [
            ("b", ALICE),
            ("a", BOB),
            ("a", ALICE),
        ]
        assert (
            await invite_tokens.first_space(db, "a" * 64) == f"at://{BOB}/a.b.c/d"
        )  # so say the revs
        last = await daemon.load(db)
        assert last is not None
        assert tuple(last) == (7, "1", RELAY, 5, None, None, None)


VERSION_3 = """
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
        assert await invite_tokens.first_space(db, "a" * 64) == f"at://{BOB}/a.b.c/d"
        async with db.transaction() as tx:
            await invite_tokens.note(tx, [(f"at://{ALICE}/a.b.c/d", "b" * 64)])
            await invite_tokens.count_use(tx, "a" * 64, f"at://{ALICE}/a.b.c/d")
        assert await invite_tokens.first_space(db, "b" * 64) == f"at://{BOB}/a.b.c/d"
        rows = await db.all("select used_count from invite_tokens order by used_count")
        assert [row["used_count"] for row in rows] == [0, 0, 5, 8]


VERSION_4 = """
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
    assert _version(path) == version


# --- transactions ---


async def _cursor(db: Database, relay: str = RELAY) -> int | None:
    cursor = await cursors.load(db, relay)
    return cursor.seq if cursor else None


async def test_an_error_rolls_back_and_the_next_transaction_works(db: Database) -> None:
    async def write(seq: int) -> None:
        async with db.transaction() as tx:
            await cursors.save(tx, RELAY, Cursor(1, None))
            await cursors.save(tx, RELAY, Cursor(seq, None))
            raise ZeroDivisionError

    for seq, error in ((2, ZeroDivisionError), (-1, sqlite3.IntegrityError)):
        with pytest.raises(error):
            await write(seq)
    assert await _cursor(db) is None
    async with db.transaction() as tx:
        await cursors.save(tx, RELAY, Cursor(2, None))
        assert await _cursor(db) is None  # readers see what is committed
        assert await cursors.load(tx, RELAY) == Cursor(2, None)
    assert await _cursor(db) == 2


async def _write_twice(db: Database, seq: int) -> None:
    async with db.transaction() as tx:
        await cursors.save(tx, "one", Cursor(seq, None))
        await cursors.save(tx, "two", Cursor(seq, None))


@pytest.mark.parametrize("again", [False, True])
async def test_a_cancellation_at_any_await_writes_all_or_nothing(db: Database, again: bool) -> None:
    """With `again` the rollback is cancelled too."""
    await _write_twice(db, 0)
    outcomes = set()
    for steps in range(100):
        task = asyncio.create_task(_write_twice(db, steps + 1))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        if again:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        outcomes.add(task.cancelled())
        async with db.transaction() as tx:  # at once: it has to wait for the rollback
            rows = await tx.all("select distinct seq from cursors")
        assert len(rows) == 1
    assert True in outcomes
    await _write_twice(db, 1_000)
    assert await _cursor(db, "one") == 1_000


async def test_transactions_of_one_process_take_turns(db: Database) -> None:
    async def increment() -> None:
        async with db.transaction() as tx:
            cursor = await cursors.load(tx, RELAY)
            await asyncio.sleep(0)
            await cursors.save(tx, RELAY, Cursor(cursor.seq + 1 if cursor else 1, None))

    await asyncio.gather(*(increment() for _ in range(20)))
    assert await _cursor(db) == 20


WRITER = """
import asyncio, sys
from pathlib import Path
from typing import Any
from indexer.store import cursors
from indexer.store.db import Database

async def main():
    async with await Database.open(Path(sys.argv[1])) as db:
        for _ in range(50):
            async with db.transaction() as tx:
                cursor = await cursors.load(tx, "relay.test")
                await cursors.save(tx, "relay.test", cursors.Cursor(cursor.seq + 1, None))

asyncio.run(main())
"""


async def test_two_processes_write_at_once_and_lose_nothing(db: Database) -> None:
    async with db.transaction() as tx:
        await cursors.save(tx, RELAY, Cursor(0, None))
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(db.path), env={**os.environ, "PYTHONPATH": _root()}
        )
        for _ in range(2)
    ]
    assert [await process.wait() for process in processes] == [0, 0]
    assert await _cursor(db) == 100


def _root() -> str:
    return str(Path(__file__).parents[3])


async def test_who_waits_too_long_for_another_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BUSY_TIMEOUT", 0.05)
    path = tmp_path / "test.db"
    async with await Database.open(path) as one, await Database.open(path) as two:
        async with one.transaction():
            with pytest.raises(DatabaseError, match="can't be written now: database is locked"):
                await _write_twice(two, 1)
            assert await _cursor(two) is None  # reading goes on
        await _write_twice(two, 2)
        assert await _cursor(one, "one") == 2


# --- tombstones ---


def stone(
    cause: tombstones.Cause = "deleted", cid: str = "c1", rev: str = "", **fields: Any
) -> Tombstone:
    values: dict[str, Any] = {
        "uri": URI,
        "cid": cid,
        "kind": "verification",
        "did": ALICE,
        "rev": rev or tid(1),
        "cause": cause,
        "actor": BOB if cause == "revoked" else None,
        "reason": None,
        "created_at": NOW,
        **fields,
    }
    return Tombstone(**values)


async def buried(db: Database) -> list[Tombstone]:
    return await tombstones.load(db, [URI])


async def bury(db: Database, *stones: Tombstone) -> Tombstone:
    async with db.transaction() as tx:
        await tombstones.save(tx, stones)
    (found,) = await buried(db)
    return found


async def test_the_first_revocations_who_why_and_when_stay(db: Database) -> None:
    first = stone("revoked", actor=ALICE, reason="spam", created_at=5)
    await bury(db, first)
    later = stone("revoked", rev=tid(9), actor=BOB, reason="no", created_at=9)
    found = await bury(db, later)
    assert (found.actor, found.reason, found.created_at, found.rev) == (ALICE, "spam", 5, tid(9))
    for cause in ("deleted", "replaced", "purged"):
        found = await bury(db, stone(cause, rev=tid(3)))
        assert (found.cause, found.actor, found.rev) == ("revoked", ALICE, tid(9))


async def test_a_deleted_record_can_be_revoked_afterwards(db: Database) -> None:
    token = {"space_uri": f"at://{ALICE}/rsvp.atmo.space/x", "token_hash": hash_of("x")}
    await bury(db, stone("deleted", rev=tid(5), created_at=5, **token))
    found = await bury(db, stone("revoked", rev=tid(2), reason="spam", created_at=9))
    assert found == stone("revoked", rev=tid(5), reason="spam", created_at=9, **token)


async def test_an_advance_reaches_every_version_and_never_goes_back(db: Database) -> None:
    async with db.transaction() as tx:
        await tombstones.save(tx, [stone(cid="c1", rev=tid(1)), stone(cid="c2", rev=tid(9))])
        await tombstones.advance(tx, [URI], tid(5))
        await tombstones.advance(tx, [URI], "")
    assert sorted(found.rev for found in await buried(db)) == [tid(5), tid(9)]


async def test_of_a_tokens_revocations_the_first_is_the_one_that_counts(db: Database) -> None:
    space = f"at://{ALICE}/rsvp.atmo.space/x"
    token = {"space_uri": space, "token_hash": hash_of("x"), "kind": "invite"}
    async with db.transaction() as tx:
        await tombstones.save(
            tx,
            [
                stone("revoked", cid="c1", created_at=9, **token),
                stone("revoked", cid="c2", created_at=5, **token),
                stone("deleted", cid="c3", created_at=1, **token),
            ],
        )
    found = await tombstones.revoked_tokens(db, [(space, hash_of("x")), (space, hash_of("y"))])
    assert [one.cid for one in found] == ["c2"]
    assert len(await tombstones.with_token(db, space, hash_of("x"))) == 3


@pytest.mark.parametrize("fields", [{"actor": None}, {"space_uri": "at://x"}, {"rev": None}])
async def test_a_tombstone_that_says_half_is_refused(db: Database, fields: Any) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await bury(db, replace(stone("revoked"), **fields))


# --- the outbox ---


async def ask(db: Database, rev: str = "", now: int = NOW) -> None:
    async with db.transaction() as tx:
        await outbox.enqueue(tx, [(URI, rev or tid(1))], now)


async def row(db: Database) -> Deletion:
    return (await outbox.load(db, [URI]))[URI]


async def put(db: Database, state: str) -> None:
    """Bring a new row into a state, by the ways that lead there."""
    await ask(db)
    async with db.transaction() as tx:
        match state:
            case "sent":
                await outbox.mark_sent(tx, [URI], tid(5), now=NOW, check_at=NOW + 60)
            case "confirmed":
                await outbox.mark_confirmed(tx, [(URI, tid(5))], NOW)
            case "blocked":
                await outbox.block_repo(tx, ALICE, "no session", NOW)
            case "dropped":
                await outbox.drop(tx, URI, "given up", NOW)
    assert (await row(db)).state == state


async def test_a_deletion_that_is_asked_for_is_due_and_names_its_record(db: Database) -> None:
    await ask(db)
    assert await row(db) == Deletion(
        URI, ALICE, VERIFICATION, "3k", "pending", tid(1), None, 0, NOW, None, NOW, NOW
    )
    assert await outbox.due_repos(db, NOW, 10) == [ALICE]
    assert await outbox.due_repos(db, NOW - 1, 10) == []


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("pending", "pending"),
        ("blocked", "blocked"),
        ("sent", "pending"),
        ("confirmed", "pending"),
        ("dropped", "pending"),
    ],
)
async def test_what_is_under_way_goes_on_and_what_was_done_begins_anew(
    db: Database, state: str, after: str
) -> None:
    await put(db, state)
    await ask(db, tid(8), NOW + 5)
    again = await row(db)
    assert (again.state, again.record_rev) == (after, tid(8))
    if state in ("sent", "confirmed", "dropped"):
        assert (again.commit_rev, again.attempts, again.error) == (None, 0, None)
        assert again.created_at == NOW + 5
    else:
        assert again.created_at == NOW
    assert again.due_at <= NOW + 5
    await ask(db, tid(2), NOW + 9)
    assert (await row(db)).record_rev == tid(8)  # a rev never goes back


async def test_a_claim_is_a_lease(db: Database) -> None:
    await ask(db)

    async def claim(now: int) -> list[Deletion]:
        async with db.transaction() as tx:
            return await outbox.claim(tx, ALICE, "pending", now=now, until=now + 100, limit=5)

    (claimed,) = await claim(NOW)
    assert (claimed.attempts, claimed.due_at) == (1, NOW + 100)
    assert await claim(NOW + 99) == []
    (again,) = await claim(NOW + 100)
    assert again.attempts == 2
    async with db.transaction() as tx:
        await outbox.release(tx, NOW + 101)
    assert (await row(db)).due_at == NOW + 101


async def test_a_claim_takes_so_many_of_one_repo_the_longest_waiting_first(db: Database) -> None:
    uris = [f"at://{did}/{INVITE}/{n}" for did in (ALICE, BOB) for n in range(3)]
    async with db.transaction() as tx:
        for number, uri in enumerate(uris):
            await outbox.enqueue(tx, [(uri, tid(1))], NOW - number)
        claimed = await outbox.claim(tx, ALICE, "pending", now=NOW, until=NOW + 100, limit=2)
    assert {one.uri for one in claimed} == set(uris[1:3])
    assert await outbox.due_repos(db, NOW, 10) == [BOB, ALICE]
    assert await outbox.due_repos(db, NOW, 1) == [BOB]


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("pending", "sent"),
        ("blocked", "sent"),
        ("sent", "sent"),
        ("confirmed", "confirmed"),
        ("dropped", "dropped"),
    ],
)
async def test_an_acknowledgement_counts_only_for_what_waits_for_it(
    db: Database, state: str, after: str
) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        await outbox.mark_sent(tx, [URI], tid(7), now=NOW + 1, check_at=NOW + 60)
    assert (await row(db)).state == after


async def test_an_acknowledgement_of_an_older_deletion_is_none_of_what_was_put_back(
    db: Database,
) -> None:
    await ask(db, tid(1))
    await ask(db, tid(5))  # put back, while the PDS was deleting what stood there before
    async with db.transaction() as tx:
        await outbox.mark_sent(tx, [URI], tid(3), now=NOW, check_at=NOW + 60)
    assert (await row(db)).state == "pending"


@pytest.mark.parametrize(
    ("state", "rev", "after"),
    [
        ("pending", tid(2), "confirmed"),
        ("pending", tid(1), "pending"),
        ("pending", tid(0), "pending"),
        ("sent", tid(6), "confirmed"),
        ("blocked", tid(2), "confirmed"),
        ("dropped", tid(2), "dropped"),
    ],
)
async def test_a_deletion_confirms_if_it_is_later_than_the_record(
    db: Database, state: str, rev: str, after: str
) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        await outbox.mark_confirmed(tx, [(URI, rev)], NOW)
    found = await row(db)
    assert found.state == after
    if after == "confirmed":
        assert (found.commit_rev, found.error) == (rev, None)


@pytest.mark.parametrize("state", ["pending", "sent", "blocked", "confirmed", "dropped"])
async def test_what_is_gone_is_confirmed_unless_it_was_given_up(db: Database, state: str) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        is_gone = await outbox.mark_gone(tx, URI, tid(1), NOW)
    assert (await row(db)).state == ("dropped" if state == "dropped" else "confirmed")
    assert is_gone == (state in ("pending", "sent", "blocked"))


@pytest.mark.parametrize("state", ["pending", "sent", "blocked"])
async def test_what_was_put_back_since_the_pds_was_asked_is_not_taken_for_gone(
    db: Database, state: str
) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        await outbox.enqueue(tx, [(URI, tid(9))], NOW)
        assert not await outbox.mark_gone(tx, URI, tid(1), NOW)
    assert (await row(db)).state == ("blocked" if state == "blocked" else "pending")


@pytest.mark.parametrize("state", ["pending", "sent", "blocked", "confirmed", "dropped"])
async def test_a_failure_puts_off_what_is_due_and_touches_nothing_else(
    db: Database, state: str
) -> None:
    await put(db, state)
    before = await row(db)
    async with db.transaction() as tx:
        await outbox.mark_failed(tx, [URI], "down", now=NOW + 1, retry_at=NOW + 50)
    found = await row(db)
    if state in ("pending", "sent"):
        assert (found.state, found.error, found.due_at) == (state, "down", NOW + 50)
    else:
        assert found == before


async def test_a_repo_is_blocked_and_taken_up_again(db: Database) -> None:
    await ask(db)
    async with db.transaction() as tx:
        assert await outbox.block_repo(tx, BOB, "no session", NOW) == 0
        assert await outbox.block_repo(tx, ALICE, "no session", NOW) == 1
    assert (await row(db)).error == "no session"
    assert await outbox.due_repos(db, NOW + 1_000, 10) == []
    async with db.transaction() as tx:
        assert await outbox.unblock_repo(tx, ALICE, NOW + 3) == 1
    found = await row(db)
    assert (found.state, found.error, found.attempts, found.due_at) == ("pending", None, 0, NOW + 3)


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("pending", "pending"),
        ("sent", "sent"),
        ("blocked", "pending"),
        ("confirmed", "confirmed"),
        ("dropped", "dropped"),
    ],
)
@pytest.mark.parametrize("uris", [None, [URI]])
async def test_a_retry_makes_due_what_waits(
    db: Database, state: str, after: str, uris: list[str] | None
) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        count = await outbox.retry(tx, uris, NOW + 5)
        assert await outbox.retry(tx, ["at://other"], NOW + 9) == 0
    found = await row(db)
    assert found.state == after
    assert count == (state in ("pending", "sent", "blocked"))
    if count:
        assert found.due_at == NOW + 5


@pytest.mark.parametrize("state", ["pending", "sent", "blocked", "confirmed", "dropped"])
async def test_a_person_can_give_up_what_is_not_done(db: Database, state: str) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        dropped = await outbox.drop(tx, URI, "enough", NOW)
    assert dropped is (state in ("pending", "sent", "blocked"))
    assert (await outbox.count_by_state(db)).keys() == {"dropped" if dropped else state}


async def test_a_postponement_moves_what_is_due_and_counts_no_attempt(db: Database) -> None:
    await put(db, "sent")
    async with db.transaction() as tx:
        assert await outbox.postpone(tx, ALICE, "down", now=NOW, retry_at=NOW + 500) == 0
        assert await outbox.postpone(tx, ALICE, "down", now=NOW + 60, retry_at=NOW + 500) == 1
    found = await row(db)
    assert (found.due_at, found.error, found.attempts) == (NOW + 500, "down", 0)
    assert [one.uri for one in await outbox.listing(db, ["sent"], 5)] == [URI]
    assert await outbox.listing(db, ["pending"], 5) == []


# --- the other tables ---


async def test_a_session_is_refreshed_only_in_place_of_the_one_that_was_used(
    db: Database,
) -> None:
    async def save(sealed: bytes) -> None:
        async with db.transaction() as tx:
            await sessions.save(tx, ALICE, "alice.test", "https://pds.test", sealed, NOW)

    await save(b"one")
    async with db.transaction() as tx:
        assert await sessions.refresh(tx, ALICE, "https://new.test", b"one", b"two", NOW + 1)
        assert not await sessions.refresh(tx, ALICE, "https://x.test", b"one", b"three", NOW + 2)
        assert not await sessions.refuse(tx, ALICE, b"one", "ExpiredToken")
        assert await sessions.refuse(tx, ALICE, b"two", "ExpiredToken")
    session = await sessions.load(db, ALICE)
    assert session is not None
    assert (session.sealed, session.pds) == (b"two", "https://new.test")
    assert (session.refreshed_at, session.refused) == (NOW + 1, "ExpiredToken")
    assert await sessions.unused_since(db, NOW + 9) == []  # it does not work
    await save(b"four")
    assert await sessions.unused_since(db, NOW + 9) == [ALICE]
    assert await sessions.unused_since(db, NOW) == []
    (listed,) = await sessions.listing(db)
    assert (listed.sealed, listed.refused) == (b"four", None)
    async with db.transaction() as tx:
        assert await sessions.delete(tx, ALICE)
        assert not await sessions.delete(tx, ALICE)
    assert await sessions.load(db, ALICE) is None


async def test_a_cursor_is_of_its_relay_and_may_go_back(db: Database) -> None:
    async with db.transaction() as tx:
        await cursors.save(tx, RELAY, Cursor(7, "then", NOW))
        await cursors.save(tx, "other.test", Cursor(9_999, None, NOW))
        await cursors.save(tx, RELAY, Cursor(5, None, NOW))
    assert await cursors.load(db, RELAY) == Cursor(5, None, NOW)
    async with db.transaction() as tx:
        await cursors.forget(tx, RELAY)
    assert await cursors.load(db, RELAY) is None
    assert await cursors.load(db, "other.test") == Cursor(9_999, None, NOW)


async def test_new_repos_are_told_once_and_updated_ones_are_not_new(db: Database) -> None:
    async def save(*saved: Repo) -> None:
        async with db.transaction() as tx:
            await repos.save(tx, saved)

    await save(Repo(ALICE))
    last, dids = await repos.newcomers(db, 0)
    assert dids == [ALICE]
    await save(Repo(ALICE, rev=tid(1)))
    assert await repos.newcomers(db, last) == (last, [])
    await save(Repo(BOB))
    assert (await repos.newcomers(db, last))[1] == [BOB]


async def test_repos_are_counted_by_what_is_most_telling(db: Database) -> None:
    async with db.transaction() as tx:
        await repos.save(
            tx,
            [
                Repo("did:plc:1", sync="synchronized"),
                Repo("did:plc:2", sync="synchronized", hosting="deleted"),
                Repo("did:plc:3"),
            ],
        )
        assert await repos.desynchronize_all(tx) == 2
    assert await repos.count_by_state(db) == {"desynchronized": 2, "deleted": 1}


async def test_the_counters_and_the_pace_of_a_new_daemon_begin_at_nothing(db: Database) -> None:
    async def start(tx: Transaction) -> None:
        await daemon.start(tx, pid=7, version="1", relay=RELAY, now=NOW)

    async with db.transaction() as tx:
        await start(tx)
        await daemon.save_counters(tx, "skipped", {"other_collection": 5, "unknown_type": 1})
        await daemon.save_counters(tx, "skipped", {"other_collection": 6})
        await daemon.save_counters(tx, "rejected", {"malformed": 2})
        await daemon.save_pace(tx, rate=8.5, is_behind=True, left=None)
    assert await daemon.counters(db, "skipped") == {"other_collection": 6, "unknown_type": 1}
    async with db.transaction() as tx:
        await start(tx)
    assert await daemon.counters(db, "skipped") == {}
    started = await daemon.load(db)
    assert started is not None
    assert tuple(started) == (7, "1", RELAY, NOW, None, None, None)


async def test_the_audit_tells_each_subject_its_story(db: Database) -> None:
    async with db.transaction() as tx:
        await audit.write(tx, ALICE, "invite.revoke", [URI, "other"], None, NOW)
        await audit.write(tx, "operator", "outbox.drop", [URI], "given up", NOW + 1)
    entries = [(entry["actor"], entry["detail"]) for entry in await audit.of_subject(db, URI)]
    assert entries == [(ALICE, None), ("operator", "given up")]
