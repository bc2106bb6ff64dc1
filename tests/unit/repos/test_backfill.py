"""Repos are found page by page, and wherever we are stopped."""

import asyncio
import itertools
from typing import Any

import httpx
import pytest
import structlog

from indexer.repos.backfill import ALL, BY_COLLECTION, PAGE, BackfillError
from indexer.rules.projection import Desynchronize, Projection
from indexer.store import repos
from indexer.store.db import Database
from indexer.stream.events import Account
from tests.support.backfilling import (
    RELAY,
    at_once,
    backfiller,
    begun,
    client,
    db,
    db_done,
    is_done,
    reset,
    state,
    tracked,
)
from tests.support.frames import COLLECTIONS, INVITE, NOW, SCOPE, SPACE, VERIFICATION
from tests.support.listing_relay import Relay, did, listed, nothing, refusal, relay
from tests.support.stopping import stopped_at
from tests.support.xrpc_world import eventually

__all__ = ["at_once", "client", "db", "relay"]  # fixtures

# --- pages ---


async def test_the_repos_of_each_collection_are_found_page_by_page_and_wait_to_be_fetched(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.lists |= {SPACE: listed(*range(5)), INVITE: listed(1, 2), VERIFICATION: []}
    await begun(db)

    await backfiller(db, client, relay).work()

    assert await tracked(db) == {did(number) for number in range(5)}
    assert relay.pages == [
        (VERIFICATION, None), (SPACE, None), (SPACE, "2"), (SPACE, "4"), (INVITE, None),
    ]  # fmt: skip
    assert {(nsid, params["limit"]) for nsid, params in relay.asked} == {(BY_COLLECTION, str(PAGE))}
    assert await state(db, SPACE) == (None, 5, True)
    assert await state(db, INVITE) == (None, 2, True)
    assert await state(db, VERIFICATION) == (None, 0, True)


async def test_what_is_done_is_not_done_again_until_something_was_missed(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.lists[SPACE] = listed(1)
    await begun(db)
    await backfiller(db, client, relay).work()
    await begun(db)  # the daemon starts anew
    await backfiller(db, client, relay).work()
    assert len(relay.asked) == 3

    relay.lists[SPACE] = listed(1, 2)
    running = asyncio.create_task(backfiller(db, client, relay).run())
    try:
        async with db.transaction() as tx:
            await Projection(SCOPE, RELAY).apply(tx, [Desynchronize()], NOW)
        assert not await is_done(db)
        await eventually(lambda: is_done(db))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(relay.asked) == 6
    assert await tracked(db) == {did(1), did(2)}


async def test_a_gap_of_another_relay_is_not_this_ones(db: Database) -> None:
    await begun(db)
    await db_done(db)
    async with db.transaction() as tx:
        await Projection(SCOPE, "other.test").apply(tx, [Desynchronize()], NOW)
    assert await is_done(db)


async def test_stopped_at_any_await_it_loses_nothing_and_asks_for_no_stored_page_again(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.lists |= {SPACE: listed(*range(5)), INVITE: listed(5, 6, 7)}
    await begun(db)
    for steps in itertools.count():
        async with db.transaction() as tx:
            await tx.execute("delete from repos")
        await reset(db)
        relay.asked.clear()
        task = asyncio.create_task(_done(stopped_at(steps, backfiller(db, client, relay).work())))
        was_done = await task
        # A page is stored with its repos, or not at all.
        stored = sum([(await state(db, name))[1] for name in COLLECTIONS])
        assert stored == len(await tracked(db))

        await backfiller(db, client, relay).work()  # the daemon starts anew

        assert await tracked(db) == {did(number) for number in range(8)}
        assert await state(db, SPACE) == (None, 5, True)
        assert set(relay.pages) >= {(SPACE, "2"), (SPACE, "4"), (INVITE, "2")}
        assert len(relay.pages) <= 6 + 1  # only the page under way is asked for again
        if was_done:
            break
    assert steps > 20, steps


async def _done(work: Any) -> bool:
    return bool(await work)


async def test_a_page_that_was_asked_for_before_a_gap_does_not_count_after_it(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.lists[SPACE] = listed(*range(4))
    await begun(db, SPACE)
    searching = backfiller(db, client, relay)
    await searching.step()
    relay.meanwhile = lambda: reset(db)
    await searching.step()
    assert await state(db, SPACE) == (None, 0, False)
    relay.meanwhile = nothing
    await searching.work()
    assert relay.pages[2:] == [(SPACE, None), (SPACE, "2")]
    assert await state(db, SPACE) == (None, 4, True)


async def test_a_repo_that_is_known_stays_as_it_is(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.lists[SPACE] = listed(1)
    await begun(db, SPACE)
    async with db.transaction() as tx:
        await repos.track(tx, [did(1)])
        await tx.execute("update repos set sync = 'synchronized', rev = '3kaaaaaaaaaaa'")
    await backfiller(db, client, relay).work()
    [row] = await db.all("select sync, rev from repos")
    assert tuple(row) == ("synchronized", "3kaaaaaaaaaaa")


async def test_what_a_replay_says_of_an_account_that_was_found_since_is_outdated(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.lists[SPACE] = listed(1)
    await begun(db, SPACE)
    await backfiller(db, client, relay).work()

    async def say(seq: int, time: str, *, is_replay: bool) -> str:
        """Let a frame say that the account is deactivated."""
        account = Account(seq, time, did(1), active=False, status="deactivated")
        async with db.transaction() as tx:
            await Projection(SCOPE, RELAY, is_replay=is_replay).apply(tx, [account], NOW)
        return (await repos.load(db, [did(1)]))[did(1)].hosting

    assert await say(1, "2026-09-21T14:13:19.999Z", is_replay=True) == "active"
    assert await say(2, "2026-09-21T14:13:20.000Z", is_replay=True) == "active"
    assert await say(3, "2026-09-21T14:13:19.999Z", is_replay=False) == "deactivated"  # it is live


# --- relays that can't tell by collection ---


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (404, "XRPCNotSupported"),
        (404, "NotFound"),
        (405, "Sorry"),
        (501, "MethodNotImplemented"),
        (500, "MethodNotImplemented"),
        (400, "InvalidRequest"),  # a PDS: "No service configured"
        (401, "AuthMissing"),  # a PDS that would pass it on to its AppView
    ],
)
async def test_a_relay_without_a_directory_of_collections_is_asked_for_all_its_repos(
    db: Database, client: httpx.AsyncClient, relay: Relay, status: int, name: str
) -> None:
    relay.unserved = refusal(status, name)
    relay.lists[""] = [
        *listed(1, 2, active=True), *listed(3, active=False, status="takendown"), *listed(4),
    ]  # fmt: skip
    await begun(db)
    with structlog.testing.capture_logs() as logs:
        await backfiller(db, client, relay).work()

    assert await tracked(db) == {did(1), did(2), did(4)}
    assert await state(db, "") == (None, 3, True)
    assert await is_done(db)  # it stands for all of them
    assert [nsid for nsid, _ in relay.asked] == [BY_COLLECTION, ALL, ALL]
    assert [entry["event"] for entry in logs] == ["backfill.unserved", "backfill.finished"]

    # Begun again, it may have a directory now.
    relay.unserved = None
    await reset(db)
    relay.asked.clear()
    await backfiller(db, client, relay).work()
    assert {nsid for nsid, _ in relay.asked} == {BY_COLLECTION}


async def test_a_search_through_all_repos_goes_on_after_a_restart(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.unserved = refusal(501)
    relay.lists[""] = listed(*range(4))
    await begun(db)
    first = backfiller(db, client, relay)
    assert [await first.step(), await first.step()] == [True, True]
    await backfiller(db, client, relay).work()
    assert relay.pages[1:] == [("", None), ("", "2")]
    assert await state(db, "") == (None, 4, True)


async def test_a_relay_that_can_be_asked_for_nothing_is_a_failure(
    db: Database, client: httpx.AsyncClient, relay: Relay, at_once: None
) -> None:
    await begun(db)
    relay.answers.extend([refusal(404)] * 4)
    with pytest.raises(BackfillError, match="can't be asked for repos"):
        await backfiller(db, client, relay).work(tries=3)
    assert len(relay.asked) == 4
