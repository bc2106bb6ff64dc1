"""What a relay answers wrongly is asked for again, and stores nothing."""

import time

import httpx
import pytest
import structlog

from indexer.repos.backfill import Backfiller, BackfillError
from indexer.store.db import Database
from tests.support.backfilling import RELAY, at_once, backfiller, begun, client, db, state, tracked
from tests.support.frames import SPACE
from tests.support.http_host import http
from tests.support.listing_relay import Relay, did, listed, page, refusal, relay

__all__ = ["at_once", "client", "db", "relay"]  # fixtures

GARBAGE = {
    "no JSON": http(b"<html>"),
    "no object": http(b"[]"),
    "no list": page("all of them"),
    "nothing": http(b"{}"),
    "page cursor that is a number": page(listed(1), 17),
    "page cursor without end": page(listed(1), "9" * 3_000),
    "JSON without end": http(b"[" * 100_000),
    "key twice": http(b'{"repos": [], "repos": []}'),
    "page without end": http(b'{"repos": [' + b" " * 5_000_000 + b"]}"),
    "compressed": http(b"{}", "200 OK", "Content-Encoding: gzip"),
    "error": refusal(500),
    "refused": refusal(403),
    "redirect": refusal(302, "Sorry", "Location: http://127.0.0.1:1/"),
    "hangs up": b"",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
async def test_an_answer_that_makes_no_sense_is_asked_for_again_and_stores_nothing(
    db: Database, client: httpx.AsyncClient, relay: Relay, answer: bytes, at_once: None
) -> None:
    relay.lists[SPACE] = listed(1, 2, 3)
    await begun(db, SPACE)
    searching = backfiller(db, client, relay)
    await searching.step()
    answer = answer or b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"

    relay.answers.append(answer)
    with pytest.raises(BackfillError):
        await searching.step()
    assert await state(db, SPACE) == ("2", 2, False)

    relay.answers.append(answer)
    with structlog.testing.capture_logs() as logs:
        await searching.work()
    assert await state(db, SPACE) == (None, 3, True)
    assert await tracked(db) == {did(1), did(2), did(3)}
    failed = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in failed] == ["backfill.failed"]


@pytest.mark.parametrize("cursors", [["a", "b", "a"], ["a", "b", "c", "b"]])
async def test_pages_that_go_round_in_a_circle_are_left(
    db: Database, client: httpx.AsyncClient, relay: Relay, cursors: list[str], at_once: None
) -> None:
    await begun(db, SPACE)
    searching = backfiller(db, client, relay)
    relay.answers.extend(page(listed(n), cursor) for n, cursor in enumerate(cursors))
    relay.answers.append(page(listed(99), cursors[-1]))
    with pytest.raises(BackfillError, match="circle"):
        await searching.work(tries=1)
    assert await state(db, SPACE) == (cursors[-2], len(cursors) - 1, False)
    assert len(relay.asked) == len(cursors)

    relay.answers.clear()
    relay.answers.append(page(listed(50)))  # the relay is mended
    await searching.work(tries=1)
    assert (await state(db, SPACE))[2]


async def test_pages_without_end_are_left(
    db: Database, client: httpx.AsyncClient, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.repos.backfill.MAX_PAGES", 5)
    await begun(db, SPACE)
    relay.answers.extend(page(listed(number), str(number)) for number in range(100))
    with pytest.raises(BackfillError, match="no end"):
        await backfiller(db, client, relay).work(tries=1)
    assert len(relay.asked) == 5


async def test_entries_that_name_no_did_are_counted_and_passed_over(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    bad = [{}, {"did": 5}, {"did": "alice.test"}, {"did": "did:plc:x\n"}, "did:plc:x", None]
    bad += [{"did": "did:web:" + "a" * 3_000}, {"did": ["did:plc:x"]}]
    await begun(db, SPACE)
    relay.answers.append(page([*bad, *listed(1, 1), *listed(2)]))
    with structlog.testing.capture_logs() as logs:
        await backfiller(db, client, relay).work()
    assert await tracked(db) == {did(1), did(2)}
    [warning] = [entry for entry in logs if entry["log_level"] == "warning"]
    assert (warning["event"], warning["invalid_dids"]) == ("backfill.skipped", len(bad))


async def test_an_empty_page_is_not_the_end_but_an_empty_page_cursor_is(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    await begun(db, SPACE)
    relay.answers.extend([page([], "x"), page(listed(1), "")])
    await backfiller(db, client, relay).work()
    assert await state(db, SPACE) == (None, 1, True)
    assert relay.pages == [(SPACE, None), (SPACE, "x")]


async def test_a_page_cursor_that_the_relay_knows_no_more_begins_the_search_again(
    db: Database, client: httpx.AsyncClient, relay: Relay, at_once: None
) -> None:
    relay.lists[SPACE] = listed(1, 2, 3)
    await begun(db, SPACE)
    searching = backfiller(db, client, relay)
    await searching.step()
    relay.answers.append(refusal(400, "InvalidRequest"))
    await searching.work(tries=2)
    assert relay.pages == [(SPACE, None), (SPACE, "2"), (SPACE, None), (SPACE, "2")]
    assert await state(db, SPACE) == (None, 3, True)


async def test_a_relay_is_left_alone_for_as_long_as_it_asks(
    db: Database, client: httpx.AsyncClient, relay: Relay, at_once: None
) -> None:
    await begun(db, SPACE)
    relay.answers.append(refusal(429, "RateLimitExceeded", "Retry-After: 1"))
    started = time.monotonic()
    await backfiller(db, client, relay).work(tries=2)
    assert time.monotonic() - started >= 1
    assert len(relay.asked) == 2


async def test_a_relay_that_is_down_is_tried_again_and_again(
    db: Database, client: httpx.AsyncClient, relay: Relay, at_once: None
) -> None:
    await begun(db, SPACE)
    away = Backfiller(db, client, relay_url="ws://127.0.0.1:1", relay=RELAY)
    with (
        structlog.testing.capture_logs() as logs,
        pytest.raises(BackfillError, match="unreachable"),
    ):
        await away.work(tries=4)
    assert [entry["attempts"] for entry in logs] == [1, 2, 3]


async def test_failures_with_good_pages_between_do_not_add_up(
    db: Database, client: httpx.AsyncClient, relay: Relay, at_once: None
) -> None:
    await begun(db, SPACE)
    for number in range(5):
        relay.answers.extend([refusal(503), page(listed(number), f"page {number}")])
    relay.answers.append(page([]))
    await backfiller(db, client, relay).work(tries=2)
    assert await state(db, SPACE) == (None, 5, True)
