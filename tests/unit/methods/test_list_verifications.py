"""A list of verifications, page by page: each once, in order, and only to who may see it."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.lexicon.syntax import format_datetime
from indexer.records import Row, Verification
from indexer.store import repos, verifications
from indexer.store.db import Database
from indexer.store.repos import Repo
from indexer.store.verifications import Span
from indexer.stream.events import Account
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    NOW,
    OPERATOR,
    STRANGER,
    VERIFICATION,
    World,
    did,
    make_world,
)
from xrpc.errors import InvalidRequestError
from xrpc.methods import listing, page_cursor
from xrpc.methods.listing import END, FIRST
from xrpc.publishing import publisher

LIST = "tools.ozone.verification.listVerifications"
DAVE = did("dave")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path) as made, made.serving():
        made.name(ALICE, made.pds.url)
        yield made


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at few rows a call."""
    monkeypatch.setattr(listing, "LOOK_AT", 4)
    monkeypatch.setattr(listing, "MAX_LOOKS", 2)


def row(issuer: str, number: int, at: int, *, subject: str = CAROL, revoked: bool = False) -> Row:
    uri = f"at://{issuer}/{VERIFICATION}/{number:05}"
    said = Verification(subject, "carol.test", "Carol", at)
    return Row(uri, issuer, f"cid{number}", "3l2222222222a", revoked, said)


async def put(db: Database, *rows: Row) -> list[str]:
    """Let these be indexed; return their URIs."""
    async with db.transaction() as tx:
        known = await repos.load(tx, [one.did for one in rows])
        await repos.save(tx, [Repo(one) for one in {r.did for r in rows} - known.keys()])
        said = [(one, one.fields) for one in rows if isinstance(one.fields, Verification)]
        await verifications.save(tx, said)
    return [one.uri for one in rows]


async def page(world: World, caller: str = OPERATOR, **params: Any) -> dict[str, Any]:
    answer = await world.ask(caller, LIST, **params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def uris(world: World, caller: str = OPERATOR, **params: Any) -> list[str]:
    """Return the URIs of all pages."""
    found: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        answer = await page(world, caller, **params, **cursor)
        found += [view["uri"] for view in answer["verifications"]]
        if "cursor" not in answer:
            return found
        cursor = {"cursor": answer["cursor"]}


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


# --- what is shown ---


async def test_a_view_tells_what_the_record_says_and_who_revoked_it(world: World) -> None:
    await world.account(ALICE)
    world.name(CAROL, world.pds.url, "carol.test")
    standing = await world.verification(ALICE, "one")
    revoked = await world.verification(ALICE, "two", name="Caroline")
    silent = await world.verification(ALICE, "three")
    await world.revoke(ALICE, revoked, reason="no longer with us")
    await world.revoke(ALICE, silent)

    found = await page(world, sortDirection="asc")

    said = {
        "issuer": ALICE,
        "subject": CAROL,
        "handle": "carol.test",
        "displayName": "Carol",
        "createdAt": "2026-01-01T00:00:00.000Z",
    }
    gone = {"revokedAt": format_datetime(int(NOW * 1000)), "revokedBy": ALICE, "valid": False}
    assert found == {
        "verifications": [
            {**said, "uri": standing, "valid": True},
            {**said, "uri": silent, **gone},
            {
                **said,
                "uri": revoked,
                "displayName": "Caroline",
                "revokeReason": "no longer with us",
                **gone,
            },
        ]
    }


async def test_of_a_record_put_back_changed_after_a_revocation_nothing_is_revoked(
    world: World,
) -> None:
    await world.account(ALICE)
    uri = await world.verification(ALICE)
    await world.revoke(ALICE, uri)
    await world.verification(ALICE, name="Anew")
    [view] = (await page(world))["verifications"]
    assert (view["displayName"], view.keys() & {"revokedAt", "revokedBy"}) == ("Anew", set())


async def test_whatever_year_a_record_bears_is_told(world: World) -> None:
    first, last = -62_167_219_200_000, 253_402_300_799_999
    await put(world.db, row(ALICE, 1, first), row(ALICE, 2, last))
    times = [view["createdAt"] for view in (await page(world))["verifications"]]
    assert times == ["9999-12-31T23:59:59.999Z", "0000-01-01T00:00:00.000Z"]


# --- filters ---


async def test_filters_by_issuer_subject_time_and_state_hold_together(world: World) -> None:
    rows = [
        row(issuer, number * 8 + place * 4 + state, number * 10, subject=subject, revoked=state)
        for number in range(5)
        for issuer in (ALICE, BOB)
        for place, subject in enumerate((CAROL, DAVE))
        for state in (False, True)
    ]
    await put(world.db, *rows)

    def wanted(**by: Any) -> list[str]:
        return [
            one.uri
            for one in sorted(rows, key=lambda one: (created_at(one), one.uri), reverse=True)
            if one.did in by.get("issuers", (ALICE, BOB))
            and said(one).subject in by.get("subjects", (CAROL, DAVE))
            and one.revoked in by.get("isRevoked", (True, False))
        ]

    assert await uris(world) == wanted()
    assert await uris(world, sortDirection="asc") == wanted()[::-1]
    assert await uris(world, issuers=[ALICE]) == wanted(issuers=[ALICE])
    assert await uris(world, issuers=[ALICE, BOB, ALICE]) == wanted()
    assert await uris(world, subjects=[DAVE, DAVE, STRANGER]) == wanted(subjects=[DAVE])
    for state in (True, False):
        assert await uris(world, isRevoked=str(state).lower()) == wanted(isRevoked=[state])
    both: dict[str, Any] = {"issuers": [BOB], "subjects": [CAROL]}
    assert await uris(world, **both, isRevoked="true", limit=1) == wanted(**both, isRevoked=[True])
    assert await uris(world, issuers=[STRANGER]) == []


@pytest.mark.usefixtures("narrow")
async def test_what_strangers_say_of_a_subject_keeps_nothing_of_an_issuer_s_from_a_page(
    world: World,
) -> None:
    [wanted] = await put(world.db, row(ALICE, 1, 1))
    await put(world.db, *(row(STRANGER, number, 9) for number in range(100)))
    for others in (0, 99):  # as many as there may be
        issuers = [ALICE, *(did(f"{chr(97 + n // 26)}{chr(97 + n % 26)}") for n in range(others))]
        found = await page(world, issuers=issuers, subjects=[CAROL])
        assert [view["uri"] for view in found["verifications"]] == [wanted]


async def test_both_bounds_of_time_exclude_the_time_itself(world: World) -> None:
    found = await put(world.db, *(row(ALICE, number, number) for number in range(6)))
    after, before = format_datetime(1), format_datetime(4)
    assert await uris(world, sortDirection="asc", createdAfter=after) == found[2:]
    assert await uris(world, sortDirection="asc", createdBefore=before) == found[:4]
    for way, expected in (("asc", found[2:4]), ("desc", found[2:4][::-1])):
        times = {"createdAfter": after, "createdBefore": before}
        assert await uris(world, sortDirection=way, **times, limit=1) == expected
    assert await uris(world, createdAfter=before, createdBefore=after) == []


async def test_what_an_inactive_account_granted_is_hidden(world: World) -> None:
    await put(world.db, row(ALICE, 1, 1), row(ALICE, 2, 2, revoked=True))
    [bobs] = await put(world.db, row(BOB, 3, 3))
    async with world.db.transaction() as tx:
        gone = Account(10**9, None, ALICE, active=False, status="suspended")
        await world.projection.apply(tx, [gone], world.now)
    assert await uris(world) == await uris(world, subjects=[CAROL]) == [bobs]
    assert await uris(world, issuers=[ALICE]) == []


# --- who may ---


async def test_an_issuer_sees_its_own_and_an_operator_all(world: World) -> None:
    [alices] = await put(world.db, row(ALICE, 1, 1))
    [bobs] = await put(world.db, row(BOB, 2, 2, subject=ALICE))
    assert await uris(world) == [bobs, alices]
    assert await uris(world, ALICE) == await uris(world, ALICE, issuers=[ALICE, ALICE]) == [alices]
    assert await uris(world, ALICE, subjects=[ALICE]) == []
    assert await uris(world, ALICE, subjects=[CAROL]) == [alices]
    assert await uris(world, STRANGER) == []
    for issuers in ([BOB], [ALICE, BOB]):
        assert refusal(await world.ask(ALICE, LIST, issuers=issuers)) == (403, "Forbidden")


async def test_a_cursor_of_an_operator_shows_an_issuer_no_more(world: World) -> None:
    await put(world.db, *(row(BOB, number, number) for number in range(4)))
    cursor = (await page(world, limit=1))["cursor"]
    assert (await page(world, ALICE, cursor=cursor))["verifications"] == []


# --- pages ---


@pytest.mark.parametrize("way", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_pages_of_any_size_show_the_same(world: World, way: str, limit: int) -> None:
    rows = [row((ALICE, BOB)[n % 2], n, n // 3, revoked=n % 5 == 0) for n in range(30)]
    await put(world.db, *rows)
    once = await uris(world, sortDirection=way)
    assert len(once) == 30
    assert await uris(world, sortDirection=way, limit=limit) == once
    assert len((await page(world, limit=limit))["verifications"]) == min(limit, 30)


async def test_the_last_page_has_no_cursor_also_if_it_is_full(world: World) -> None:
    await put(world.db, *(row(ALICE, number, number) for number in range(50)))
    assert "cursor" not in await page(world, limit=50)
    assert "cursor" not in await page(world)  # 50 is the default
    assert "cursor" in await page(world, limit=49)


async def test_a_cursor_may_be_used_in_the_other_direction(world: World) -> None:
    found = await put(world.db, *(row(ALICE, number, number) for number in range(5)))
    cursor = (await page(world, limit=2))["cursor"]
    assert await uris(world, cursor=cursor) == found[2::-1]
    assert await uris(world, cursor=cursor, sortDirection="asc") == found[4:]


@pytest.mark.usefixtures("narrow")
async def test_many_rows_that_are_not_to_be_shown_make_short_pages_that_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_PAIRS", 0)
    [first] = await put(world.db, row(ALICE, 0, 0))
    await put(world.db, *(row(BOB, number, number) for number in range(1, 40)))
    [last] = await put(world.db, row(ALICE, 99, 99))
    mine: dict[str, Any] = {"issuers": [ALICE], "subjects": [CAROL]}
    short = await page(world, **mine, limit=2)
    assert [view["uri"] for view in short["verifications"]] == [last]
    assert "cursor" in short
    empty = await page(world, **mine, cursor=short["cursor"])
    assert empty["verifications"] == []
    assert "cursor" in empty
    assert await uris(world, **mine, limit=2) == [last, first]


CURSOR = page_cursor.encode((1, f"at://{ALICE}/{VERIFICATION}/one"))


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "0",
        "!" * 8,
        "ä",
        CURSOR[:-1],
        CURSOR + "=",
        CURSOR + "A",
        "A" * 100_000,
        "W" * 20_000,
        *(
            base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
            for text in (
                "null",
                "[]",
                "[1]",
                '[1,"x"]',
                '["1","at://did:plc:x"]',
                '[1,"at://did:plc:x","y"]',
                '[1, "at://did:plc:x"]',
                '[true,"at://did:plc:x"]',
                '[1.0,"at://did:plc:x"]',
                '[9223372036854775808,"at://did:plc:x"]',
                '[NaN,"at://did:plc:x"]',
                "[" * 9_000,
                "1" * 9_000,
            )
        ),
    ],
)
async def test_a_cursor_that_was_never_given_is_refused(world: World, cursor: str) -> None:
    with pytest.raises(InvalidRequestError):
        page_cursor.decode(cursor)
    if len(cursor) < 1_000:
        assert refusal(await world.ask(OPERATOR, LIST, cursor=cursor)) == (400, "InvalidRequest")


@given(st.integers(-(2**63), 2**63 - 1), st.text("abc.-_~", min_size=1, max_size=40))
def test_every_key_has_a_cursor_of_its_own(at: int, rkey: str) -> None:
    key = (at, f"at://{ALICE}/{VERIFICATION}/{rkey}x")
    assert page_cursor.decode(page_cursor.encode(key)) == key


# --- the store ---


@pytest.mark.parametrize("by", [None, "did", "subject", "both"])
@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("bounds", [(FIRST, END), ((5, "at://x"), (9, "at://x"))])
async def test_every_part_of_a_list_is_a_search_of_an_index(
    world: World, by: Any, newest_first: bool, bounds: tuple[Any, Any]
) -> None:
    names = [did(f"{chr(97 + n // 26)}{chr(97 + n % 26)}") for n in range(100)] if by else []
    span = Span(by, names, [False, True], *bounds, newest_first)
    if by == "both":
        span = replace(span, by="subject", dids=names[:10], issuers=names[10:20])
    sql, params = verifications.read_statement(span, 101)
    index = {None: "by_time", "did": "by_issuer", "subject": "by_subject", "both": "by_both"}[by]

    plan = [step["detail"] for step in await world.db.all(f"explain query plan {sql}", params)]

    searched = [step for step in plan if step.startswith("SEARCH") and index in step]
    assert len(searched) == 2 * max(len(names), 1)
    assert all("COVERING" in step for step in searched)
    assert all("revoked=? AND (created_at,uri)>(?,?) AND (created_at,uri)<" in s for s in searched)
    assert not [step for step in plan if step.startswith("SCAN verifications")]
    assert [step for step in plan if step.startswith("SEARCH verifications USING PRIMARY")]


async def test_who_is_verified_is_asked_of_what_the_issuer_wrote(world: World) -> None:
    await put(world.db, row(ALICE, 1, 1), row(BOB, 2, 2, subject=DAVE))
    await put(world.db, row(ALICE, 3, 3, subject=DAVE, revoked=True))
    assert await verifications.granted(world.db, ALICE, [CAROL, DAVE]) == {(CAROL, "carol.test")}
    assert await verifications.granted(world.db, BOB, [CAROL]) == set()


# --- while others write ---

Step = tuple[str, int, int]  # what happens, to which row, at which time
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "revoke", "grant", "delete"]), st.integers(0, 40),
              st.integers(0, 6)),
    max_size=6,
)  # fmt: skip


@given(
    times=st.lists(st.integers(0, 6), max_size=25),
    between=st.lists(STEPS, min_size=1, max_size=8),
    limit=st.integers(1, 5),
    by=st.sampled_from([None, "did", "subject"]),
    newest_first=st.booleans(),
    picked=st.booleans(),
)
@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_no_row_comes_twice_or_is_missed_while_rows_are_added_and_revoked(
    times: list[int],
    between: list[list[Step]],
    limit: int,
    by: Any,
    newest_first: bool,
    picked: bool,
) -> None:
    people = (ALICE, BOB)

    def made(number: int, at: int) -> Row:
        return row(people[number % 2], number, at, subject=(CAROL, DAVE)[number // 2 % 2])

    async def change(db: Database, rows: dict[int, Row], touched: set[str], step: Step) -> None:
        what, number, at = step
        if what == "add":
            number += 100
            if number not in rows:
                rows[number] = made(number, at)
                touched.add(rows[number].uri)
                await put(db, rows[number])
        elif number in rows and what == "delete":
            gone = rows.pop(number)
            touched.add(gone.uri)
            async with db.transaction() as tx:
                await verifications.delete(tx, [gone.uri])
        elif number in rows:
            rows[number] = rows[number]._replace(revoked=what == "revoke")
            await put(db, rows[number])

    async def read() -> None:
        with TemporaryDirectory() as directory:
            async with await Database.open(Path(directory) / "x.db") as db:
                rows = {number: made(number, at) for number, at in enumerate(times)}
                await put(db, *rows.values())
                kept, touched, seen = {one.uri for one in rows.values()}, set[str](), []
                dids = {None: [], "did": people, "subject": (CAROL, DAVE)}[by]
                span = Span(by, dids, [False, True], FIRST, END, newest_first)
                issuers = {ALICE} if picked else set[str]()
                for turn in range(100):
                    found, key = await listing._page(db, span, issuers, limit)
                    seen += found
                    if key is None:
                        break
                    span = listing._behind(span, key)
                    for step in between[turn % len(between)]:
                        await change(db, rows, touched, step)
                order = [(created_at(one), one.uri) for one in seen]
                assert order == sorted(set(order), reverse=newest_first)
                wanted = {u for u in kept - touched if not picked or u.startswith(f"at://{ALICE}")}
                assert wanted <= {one.uri for one in seen}

    asyncio.run(read())


async def test_a_row_that_is_revoked_while_a_page_is_read_is_on_it_once(world: World) -> None:
    await put(world.db, *(row(ALICE, number, number) for number in range(20)))
    stop = asyncio.Event()

    async def flip() -> None:
        state = False
        while not stop.is_set():
            state = not state
            await put(world.db, *(row(ALICE, n, n, revoked=state) for n in range(20)))

    flipping = asyncio.create_task(flip())
    try:
        for _ in range(60):
            span = Span(None, [], [False, True], FIRST, END, newest_first=True)
            assert len(await verifications.read(world.db, span, 101)) == 20
    finally:
        stop.set()
        await flipping


def said(one: Row) -> Verification:
    assert isinstance(one.fields, Verification)
    return one.fields


def created_at(one: Row) -> int:
    return said(one).created_at
