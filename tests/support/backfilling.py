"""Searches of a relay for repos, and where they stand in a database."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from indexer.net import health
from indexer.net.guard import guarded_client
from indexer.repos.backfill import Backfiller, begin
from indexer.store import backfills, resyncs
from indexer.store.db import Database
from tests.support.frames import COLLECTIONS, NOW
from tests.support.listing_relay import Relay

RELAY = "relay.test"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with await Database.open(tmp_path / "rescind.db") as db:
        yield db


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with guarded_client(allow_private=True) as client:
        yield client


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off that takes no time."""
    monkeypatch.setattr(health, "FIRST_DELAY", 0.0)


def backfiller(db: Database, client: httpx.AsyncClient, relay: Relay) -> Backfiller:
    url = relay.host.url.replace("http", "ws")
    return Backfiller(db, client, relay_url=url, relay=RELAY, clock=lambda: NOW / 1000)


async def begun(db: Database, *collections: str, relay: str = RELAY) -> None:
    async with db.transaction() as tx:
        await begin(tx, relay, collections or COLLECTIONS)


async def reset(db: Database) -> None:
    async with db.transaction() as tx:
        await backfills.reset(tx, RELAY)


async def tracked(db: Database) -> set[str]:
    """Return the repos that wait to be fetched whole."""
    rows = await db.all("select did from repos")
    due = await resyncs.due(db, NOW, 10_000)
    assert {row["did"] for row in rows} == set(due)
    return set(due)


async def state(db: Database, collection: str) -> tuple[str | None, int, bool]:
    """Return a search's page cursor, what it found, and whether it is done."""
    for search in await backfills.load(db, RELAY):
        if search.collection == collection:
            return search.page_cursor, search.found, search.done
    raise KeyError(collection)


async def is_done(db: Database) -> bool:
    return all(search.done for search in await backfills.load(db, RELAY))


async def db_done(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute("update backfills set done_at = 1, found = 7")


async def all_whole(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute(
            "update repos set sync = 'synchronized', rev = '3k' || id, whole_rev = '3k' || id"
        )
