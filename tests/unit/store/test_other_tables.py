"""Sessions, cursors, repos, counters and the audit keep to their rules."""

from indexer.store import audit, cursors, daemon, repos, sessions
from indexer.store.cursors import Cursor
from indexer.store.db import Database, Transaction
from indexer.store.repos import Repo
from tests.support.frames import ALICE, BOB, tid
from tests.support.store_file import NOW, RELAY, URI, db

__all__ = ["db"]  # fixtures


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
