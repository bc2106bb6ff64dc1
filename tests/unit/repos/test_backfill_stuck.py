"""A relay that does not say where a search ends holds up neither its end nor the other searches."""

import httpx
import pytest

from indexer.repos.backfill import MAX_EMPTY, BackfillError
from indexer.store.db import Database
from tests.support.backfilling import (
    at_once,
    backfiller,
    begun,
    client,
    db,
    is_done,
    state,
    tracked,
)
from tests.support.frames import INVITE, SPACE, VERIFICATION
from tests.support.listing_relay import Relay, did, listed, page, refusal, relay

__all__ = ["at_once", "client", "db", "relay"]  # fixtures


@pytest.mark.parametrize("last", [listed(2), []])
async def test_a_page_that_repeats_its_own_cursor_is_the_last_one(
    db: Database, client: httpx.AsyncClient, relay: Relay, last: list[dict[str, str]]
) -> None:
    await begun(db, SPACE)
    relay.answers.extend([page(listed(1), "a"), page(last, "a")])

    await backfiller(db, client, relay).work(tries=1)

    assert await state(db, SPACE) == (None, 1 + len(last), True)
    assert await tracked(db) == {did(1)} | {entry["did"] for entry in last}
    assert relay.pages == [(SPACE, None), (SPACE, "a")]


async def test_pages_that_stay_empty_are_the_end_whatever_cursors_they_have(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    await begun(db, SPACE)
    relay.answers.extend([page(listed(1), "a"), *(page([], f"b{n}") for n in range(100))])

    await backfiller(db, client, relay).work(tries=1)

    assert await state(db, SPACE) == (None, 1, True)
    assert len(relay.asked) == 1 + MAX_EMPTY


async def test_empty_pages_between_full_ones_are_not_the_end(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    await begun(db, SPACE)
    for number in range(5):
        relay.answers.extend([page([], f"a{number}"), page(listed(number), f"b{number}")])
    relay.answers.append(page(listed(9)))

    await backfiller(db, client, relay).work(tries=1)

    assert await state(db, SPACE) == (None, 6, True)


@pytest.mark.parametrize("fault", ["circle", "error", "nonsense"])
async def test_a_stuck_search_lets_the_next_collections_go_on(
    db: Database, client: httpx.AsyncClient, relay: Relay, at_once: None, fault: str
) -> None:
    relay.lists |= {SPACE: listed(1, 2, 3), INVITE: listed(4, 5, 6)}
    turns = {None: "a", "a": "b", "b": "a"}

    async def stick() -> None:
        relay.answers.clear()
        collection, cursor = relay.pages[-1]
        if collection == VERIFICATION:  # the first in order
            bad = {"error": refusal(500), "nonsense": page("all of them")}
            relay.answers.append(bad.get(fault) or page(listed(7), turns[cursor]))

    relay.meanwhile = stick
    await begun(db)

    with pytest.raises(BackfillError):
        await backfiller(db, client, relay).work(tries=3)

    assert (await state(db, SPACE))[2]
    assert (await state(db, INVITE))[2]
    assert not (await state(db, VERIFICATION))[2]
    assert await tracked(db) >= {did(number) for number in range(1, 7)}


async def test_a_search_that_was_stuck_goes_on_once_the_relay_is_mended(
    db: Database, client: httpx.AsyncClient, relay: Relay, at_once: None
) -> None:
    relay.lists |= {VERIFICATION: listed(1, 2, 3, 4, 5), SPACE: listed(6)}
    await begun(db)
    relay.answers.append(refusal(500))

    await backfiller(db, client, relay).work(tries=2)

    assert await is_done(db)
    order = [collection for collection, _ in relay.pages]
    assert order == [VERIFICATION, SPACE, INVITE, VERIFICATION, VERIFICATION, VERIFICATION]


async def test_a_search_of_all_repos_that_fails_does_not_begin_again(
    db: Database, client: httpx.AsyncClient, relay: Relay, at_once: None
) -> None:
    relay.lists[""] = listed(1, 2, 3, 4)
    relay.unserved = refusal(404)
    await begun(db)
    searching = backfiller(db, client, relay)
    await searching.step()
    await searching.step()
    relay.answers.append(refusal(500))

    await searching.work(tries=2)

    assert relay.pages[1:] == [("", None), ("", "2"), ("", "2")]
    assert await is_done(db)
