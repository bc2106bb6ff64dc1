"""Repos are found page by page, whatever the relay does, and wherever we are stopped."""

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import structlog
from click.testing import CliRunner, Result

from indexer.cli import main
from indexer.cli.daemon import _start
from indexer.cli.resync import Progress, _line
from indexer.config.settings import Settings
from indexer.lock import daemon_lock
from indexer.net import health
from indexer.net.guard import guarded_client
from indexer.repos.backfill import ALL, BY_COLLECTION, PAGE, Backfiller, BackfillError, begin
from indexer.rules.projection import Desynchronize, Projection
from indexer.store import backfills, cursors, repos, resyncs
from indexer.store import daemon as daemons
from indexer.store.cursors import Cursor
from indexer.store.db import Database, Transaction
from indexer.stream.events import Account
from tests.support.command import logging_kept
from tests.support.frames import COLLECTIONS, INVITE, NOW, SCOPE, SPACE, VERIFICATION
from tests.support.http_host import Host, hosting, http
from tests.support.stopping import stopped_at
from tests.support.xrpc_world import eventually

RELAY = "relay.test"
ENTRY = dict[str, Any]


def did(number: int) -> str:
    return f"did:web:host-{number}.test"


def listed(*numbers: int, **fields: Any) -> list[ENTRY]:
    return [{"did": did(number), **fields} for number in numbers]


def refusal(status: int, name: str = "Sorry", *headers: str) -> bytes:
    return http(json.dumps({"error": name}).encode(), f"{status} No", *headers)


def page(repos: Any, cursor: Any = None) -> bytes:
    return http(
        json.dumps({"repos": repos} | ({} if cursor is None else {"cursor": cursor})).encode()
    )


class Relay:
    """Lists repos, two a page; `answers` are given first, whatever is asked."""

    host: Host

    def __init__(self) -> None:
        self.lists: dict[str, list[ENTRY]] = {name: [] for name in (*COLLECTIONS, "")}
        self.unserved: bytes | None = None  # what it answers for listReposByCollection
        self.answers: deque[bytes] = deque()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.meanwhile: Callable[[], Any] = _nothing

    @property
    def pages(self) -> list[tuple[str, str | None]]:
        """What was asked for: collections ('' for all repos) and page cursors."""
        return [(params.get("collection", ""), params.get("cursor")) for _, params in self.asked]

    async def reply(self, path: str, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(path)
        nsid, params = parts.path.removeprefix("/xrpc/"), dict(parse_qsl(parts.query))
        self.asked.append((nsid, params))
        await self.meanwhile()
        if self.answers:
            writer.write(self.answers.popleft())
        elif nsid == BY_COLLECTION and self.unserved is not None:
            writer.write(self.unserved)
        else:
            repos = self.lists[params.get("collection", "")]
            first = int(params.get("cursor", "0"))
            following = first + 2
            more = str(following) if following < len(repos) else None
            writer.write(page(repos[first:following], more))


async def _nothing() -> None:
    pass


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    made = Relay()
    async with hosting(made.reply) as host:
        made.host = host
        yield made


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


async def db_done(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute("update backfills set done_at = 1, found = 7")


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
    relay.meanwhile = _nothing
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


async def test_what_old_frames_say_of_the_account_of_a_repo_that_was_found_is_outdated(
    db: Database, client: httpx.AsyncClient, relay: Relay
) -> None:
    relay.lists[SPACE] = listed(1)
    await begun(db, SPACE)
    await backfiller(db, client, relay).work()

    async def say(seq: int, time: str) -> str:
        """Let a frame say that the account is deactivated."""
        account = Account(seq, time, did(1), active=False, status="deactivated")
        async with db.transaction() as tx:
            await Projection(SCOPE, RELAY).apply(tx, [account], NOW)
        return (await repos.load(db, [did(1)]))[did(1)].hosting

    assert await say(1, "2026-09-21T14:13:19.999Z") == "active"  # a replay
    assert await say(2, "2026-09-21T14:13:20.000Z") == "active"
    assert await say(3, "2026-09-21T14:13:20.001Z") == "deactivated"


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


# --- faults ---


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


@pytest.mark.parametrize("cursors", [["a", "a"], ["a", "b", "a"], ["a", "b", "c", "b"]])
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
    relay.answers.extend(page([], str(number)) for number in range(100))
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


# --- collections and relays that are new ---


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


async def all_whole(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute(
            "update repos set sync = 'synchronized', rev = '3k' || id, whole_rev = '3k' || id"
        )


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


# --- the commands ---


async def rescind(directory: Path, *arguments: str, relay: str = "ws://127.0.0.1:1") -> Result:
    """Run a command on the index there; the network has no directory."""
    environment = {
        "RESCIND_DB": str(directory / "rescind.db"), "RESCIND_RELAY": relay,
        "RESCIND_PLC": "http://127.0.0.1:1", "RESCIND_ALLOW_PRIVATE_HOSTS": "on",
    }  # fmt: skip

    def run() -> Result:
        with logging_kept():
            return CliRunner().invoke(main, arguments, env=environment)

    found = await asyncio.to_thread(run)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


@asynccontextmanager
async def fetching(db: Database, sync: str, error: str | None = None) -> AsyncIterator[None]:
    """A daemon beside, as far as others see: what is asked for ends like this."""

    async def work() -> None:
        while True:
            async with db.transaction() as tx:
                await tx.execute(
                    """
                    update repos set sync = :sync, resync_error = :error, resync_attempts = 9,
                                     rev = '3kaaaaaaaaaaa'
                    where sync <> 'synchronized' and resync_due_at <= :now
                    """,
                    {"sync": sync, "error": error, "now": NOW},
                )
                await tx.execute("update backfills set done_at = 1, found = 1")
            await asyncio.sleep(0.1)

    async with db.transaction() as tx:
        await daemons.start(tx, pid=1, version="1", relay=RELAY, now=NOW)
    await begun(db)
    with daemon_lock(db.path):
        task = asyncio.create_task(work())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_resync_by_the_daemon_is_waited_for_and_told(db: Database) -> None:
    async with fetching(db, "synchronized"):
        found = await rescind(db.path.parent, "resync", did(1))
    assert (found.exit_code, found.stdout) == (
        0, f"{did(1)} is synchronized, at rev 3kaaaaaaaaaaa.\n"
    )  # fmt: skip
    [row] = await db.all("select action, subject from audit")
    assert tuple(row) == ("resync", did(1))


async def test_a_resync_that_fails_says_why_and_steers_no_terminal(db: Database) -> None:
    async with fetching(db, "desynchronized", "the host says \x1b[2J"):
        found = await rescind(db.path.parent, "resync", did(1))
    assert found.exit_code == 1
    assert f"{did(1)} could not be fetched: the host says \ufffd[2J" in found.stderr


async def test_a_daemon_that_does_not_come_to_it_is_not_waited_for_longer_than_told(
    db: Database,
) -> None:
    with daemon_lock(db.path):
        found = await rescind(db.path.parent, "resync", did(1), "--wait", "0.5")
    assert found.exit_code == 1
    assert "the daemon goes on with it" in found.stderr
    assert await tracked(db) == {did(1)}


async def test_a_daemon_that_ends_meanwhile_is_told(db: Database) -> None:
    async def asked() -> bool:
        return bool(await db.all("select 1 from repos"))

    with daemon_lock(db.path):
        task = asyncio.create_task(rescind(db.path.parent, "resync", did(1)))
        await eventually(asked)
    found = await task
    assert (found.exit_code, "the daemon has ended" in found.stderr) == (1, True)


async def test_without_a_daemon_the_command_fetches_and_says_what_went_wrong(
    db: Database,
) -> None:
    found = await rescind(db.path.parent, "resync", "did:plc:" + "a" * 24)
    assert found.exit_code == 1
    assert "the DID can't be resolved: unreachable" in found.stderr
    assert "Traceback" not in found.stderr


async def test_what_a_resync_under_other_settings_leaves_out_is_fetched_by_the_next_daemon(
    db: Database,
) -> None:
    await begun(db)
    await rescind(db.path.parent, "resync", did(1), "--invite-collection", "com.example.invite")
    async with db.transaction() as tx:
        assert await backfills.begin(tx, RELAY, COLLECTIONS) == {"rsvp.atmo.space.invite"}


async def test_a_repo_that_is_served_to_nobody_is_told(db: Database) -> None:
    async with db.transaction() as tx:
        await repos.track(tx, [did(1)])
        await tx.execute("update repos set hosting = 'takendown'")
    found = await rescind(db.path.parent, "resync", did(1))
    assert (found.exit_code, "is takendown" in found.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [("resync", "alice.test"), ("backfill", "--did", "x")])
def test_what_is_no_did_is_a_mistake_in_the_use(arguments: tuple[str, ...]) -> None:
    found = CliRunner().invoke(main, arguments)
    assert (found.exit_code, "is not a DID" in found.stderr) == (2, True)


async def test_a_backfill_by_the_daemon_begins_again_and_is_followed(db: Database) -> None:
    async with fetching(db, "synchronized"):
        await db_done(db)
        found = await rescind(db.path.parent, "backfill")
    assert found.exit_code == 0, found.stderr
    assert found.stdout == "3 repos were found; 0 of those known are synchronized.\n"


async def test_a_backfill_without_a_daemon_searches_and_tries_each_repo(
    db: Database, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FIRST_DELAY", 0.1)
    relay.lists[SPACE] = listed(1, 2, 3)
    url = relay.host.url.replace("http", "ws")
    found = await rescind(db.path.parent, "backfill", relay=url)
    assert found.exit_code == 1
    assert found.stdout == "3 repos were found; 0 of those known are synchronized.\n"
    assert "3 can't be fetched now" in found.stderr
    attempts = {row["resync_attempts"] for row in await db.all("select * from repos")}
    assert min(attempts) >= 4


async def test_a_repo_that_failed_before_is_tried_and_not_just_counted(
    db: Database, relay: Relay
) -> None:
    async with db.transaction() as tx:
        await repos.track(tx, [did(1)])
        await tx.execute(
            "update repos set resync_error = 'old', resync_attempts = 50, resync_due_at = 9e15"
        )
    await begun(db)
    async with fetching(db, "synchronized"):
        found = await rescind(db.path.parent, "backfill")
    assert (found.exit_code, found.stderr) == (0, "The daemon searches again.\n")


@pytest.mark.parametrize("ask", [resyncs.retry_all, lambda tx: resyncs.ask(tx, did(1))])
async def test_an_old_failure_is_not_taken_for_one_of_the_attempt_that_is_asked_for(
    db: Database, ask: Callable[[Transaction], Awaitable[None]]
) -> None:
    async with db.transaction() as tx:
        await repos.track(tx, [did(1)])
        await tx.execute("update repos set resync_error = 'old', resync_attempts = 50")
        await ask(tx)
        await resyncs.claim(tx, did(1), NOW)
    assert await resyncs.count(db, None, 0) == (0, 0, 1)
    async with db.transaction() as tx:
        await resyncs.put_off(tx, did(1), "new", NOW)
    assert await resyncs.count(db, None, 0) == (0, 1, 0)
    assert await resyncs.count(db, None, 3) == (0, 0, 1)
    assert await resyncs.count(db, [did(2)], 0) == (0, 0, 0)


async def test_a_backfill_at_a_relay_that_is_down_is_one_line(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FIRST_DELAY", 0.0)
    found = await rescind(db.path.parent, "backfill")
    assert found.exit_code == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: the relay can't be searched: ")
    assert last.endswith("unreachable")


@pytest.mark.parametrize(
    ("progress", "before", "seconds", "text"),
    [
        (Progress(0, 0, 5), 0, 0.0, "0 done, 0 failed, 5 left"),
        (Progress(30, 1, 200), 10, 10, "20 done, 1 failed, 200 left, 2.0 repos/s, 1:40 left"),
        (
            Progress(1, 0, 9, "1,000 found so far"), 0, 1,
            "1,000 found so far; 1 done, 0 failed, 9 left, 1.0 repos/s",
        ),
        (Progress(3, 0, 1), 5, 1, "0 done, 0 failed, 1 left"),
    ],
)  # fmt: skip
def test_the_progress_is_one_line(
    progress: Progress, before: int, seconds: float, text: str
) -> None:
    assert _line(progress, before, seconds) == text
