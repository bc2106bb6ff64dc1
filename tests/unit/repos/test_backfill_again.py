"""What is new is searched and checked again: a collection, a relay, a stretch skipped."""

import httpx
import pytest
import structlog

from indexer.cli.daemon import _start
from indexer.config.settings import Settings
from indexer.store import backfills, cursors, repos, resyncs
from indexer.store.cursors import Cursor
from indexer.store.db import Database
from tests.support.backfilling import (
    RELAY,
    all_whole,
    backfiller,
    begun,
    client,
    db,
    db_done,
    is_done,
    state,
    tracked,
)
from tests.support.frames import COLLECTIONS, INVITE, NOW, SCOPE, SPACE
from tests.support.listing_relay import Relay, did, listed, refusal, relay

__all__ = ["client", "db", "relay"]  # fixtures


async def test_for_a_new_collection_every_repo_is_fetched_again(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.lists |= {SPACE: listed(1, 2), INVITE: listed(2, 3)}
    await begun(db, SPACE)
    await backfiller(db, client, relay).work()
    await all_whole(db)

    await begun(db, SPACE, INVITE)
    assert await tracked(db) == {did(1), did(2)}
    relay.asked.clear()
    await backfiller(db, client, relay).work()
    assert await tracked(db) == {did(1), did(2), did(3)}
    assert relay.pages == [(INVITE, None)]
    # Not even the cheap check may pass them over: what is known was known without the new one.
    assert await db.all("select 1 from repos where whole_rev is not null") == []


async def test_a_collection_that_comes_back_is_new(db: Database) -> None:
    await begun(db, SPACE, INVITE)
    await db_done(db)
    await begun(db, SPACE)
    assert [search.collection for search in await backfills.load(db, RELAY)] == [SPACE]
    await begun(db, SPACE, INVITE)
    assert await state(db, SPACE) == (None, 7, True)
    assert await state(db, INVITE) == (None, 0, False)


async def test_a_new_collection_at_a_relay_without_a_directory_searches_all_repos_again(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.unserved = refusal(404)
    relay.lists[""] = listed(1)
    await begun(db, SPACE)
    await backfiller(db, client, relay).work()
    relay.lists[""] = listed(1, 2)
    await begun(db, SPACE, INVITE)
    await backfiller(db, client, relay).work()
    assert await tracked(db) == {did(1), did(2)}
    assert await state(db, "") == (None, 2, True)
    assert await is_done(db)


async def test_the_same_collections_at_a_new_relay_are_searched_but_nothing_is_fetched_for_that(
    db: Database,
) -> None:
    await begun(db)
    await db_done(db)
    async with db.transaction() as tx:
        await repos.track(tx, [did(1)])
    await all_whole(db)
    await begun(db, relay="new.test")
    assert await resyncs.due(db, NOW, 10) == []
    assert not any(search.done for search in await backfills.load(db, "new.test"))
    assert await is_done(db)


class Start:
    """A daemon's start on an index with one repo, which is whole."""

    def __init__(self, db: Database) -> None:
        self.db = db

    async def __call__(self, relay: str, cursor: int | str | None = None) -> list[str]:
        """Start, and return what was warned of."""
        settings = Settings.load({"db": self.db.path, "relay": f"wss://{relay}"})
        with structlog.testing.capture_logs() as logs:
            await _start(self.db, settings, SCOPE, cursor)
        return [entry["event"] for entry in logs]

    async def read_up_to(self, relay: str, seq: int) -> None:
        async with self.db.transaction() as tx:
            await cursors.save(tx, relay, Cursor(seq, None))
            await tx.execute(
                "update backfills set done_at = 1, found = 1 where relay = :relay", {"relay": relay}
            )
            await repos.track(tx, [did(1)])
        await all_whole(self.db)

    async def checks(self, relay: str) -> tuple[bool, bool]:
        """Return whether the repos are to be checked, and whether they are searched for."""
        searches = await backfills.load(self.db, relay)
        assert {search.collection for search in searches} == COLLECTIONS
        assert len({search.done for search in searches}) == 1
        return bool(await resyncs.due(self.db, NOW, 9)), not searches[0].done


async def test_a_first_start_searches_and_warns_of_nothing(db: Database) -> None:
    start = Start(db)
    assert await start("a.test") == []
    assert await start.checks("a.test") == (False, True)


async def test_a_start_where_it_was_left_checks_nothing(db: Database) -> None:
    start = Start(db)
    await start("a.test")
    await start.read_up_to("a.test", 100)
    assert await start("a.test") == []
    assert await start("a.test", 50) == []
    assert await start("a.test", "oldest") == []
    assert await start.checks("a.test") == (False, False)


@pytest.mark.parametrize("cursor", [101, "live"])
async def test_a_start_that_skips_a_stretch_checks_and_searches(
    db: Database, cursor: int | str
) -> None:
    start = Start(db)
    await start("a.test")
    await start.read_up_to("a.test", 100)
    assert await start("a.test", cursor) == ["stream.skipped"]
    assert await start.checks("a.test") == (True, True)


async def test_another_relay_is_warned_of_once_and_everything_is_checked_at_it(
    db: Database,
) -> None:
    start = Start(db)
    await start("a.test")
    await start.read_up_to("a.test", 100)
    assert await start("b.test") == ["relay.changed"]
    assert await start.checks("b.test") == (True, True)
    [row] = await db.all("select sync, whole_rev, rev from repos")
    assert row["whole_rev"] == row["rev"]  # so that a look at its host may be enough

    await start.read_up_to("b.test", 7)
    assert await start("b.test") == []
    assert await start("a.test") == []  # its cursor is where we left it
    assert await start.checks("a.test") == (False, False)


async def test_a_cursor_that_is_gone_is_warned_of_and_everything_is_checked(db: Database) -> None:
    start = Start(db)
    await start("a.test")
    await start.read_up_to("a.test", 100)
    async with db.transaction() as tx:
        await cursors.forget(tx, "a.test")
    assert await start("a.test") == ["cursor.missing"]
    assert await start.checks("a.test") == (True, True)
