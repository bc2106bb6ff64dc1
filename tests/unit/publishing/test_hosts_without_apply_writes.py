"""A host that can't take many writes at once, or names no commit, is written to all the same.

arroba answers applyWrites with 501, and some hosts acknowledge a write with nothing in the answer.
"""

import asyncio

import pytest

from tests.support.fake_pds import APPLY, DELETE, GET, LATEST, Call, FakePds, Fault, raw, says
from tests.support.publishing import granted, revoke_in_index, state, world
from tests.support.xrpc_world import ALICE, VERIFICATION, World
from xrpc.publishing.pds import NewRecord, PdsClient, PdsUnavailableError

__all__ = ["world"]  # fixtures

UNSERVED = [
    raw(501, b""),
    raw(501, b"<h1>Not Implemented</h1>"),
    says(501, "MethodNotImplemented"),
    says(404, "XRPCNotSupported"),
    raw(404, b"404: Not Found"),
    raw(405, b"405: Method Not Allowed"),
]


async def unnamed(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
    """Do what is asked, and say no more than that."""
    status, body = pds.answer(call)
    pds.send(writer, status, {} if status == 200 else body)
    await writer.drain()


@pytest.mark.parametrize("refusal", UNSERVED)
async def test_where_apply_writes_is_not_served_deletions_go_one_by_one(
    world: World, refusal: Fault
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.always[APPLY] = refusal

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["sent"] * 3
    assert (len(world.pds.of(APPLY)), len(world.pds.of(DELETE))) == (1, 3)
    assert world.pds.repos[ALICE] == {}


async def test_a_host_that_has_nothing_at_all_is_left_after_two_calls(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.always["*"] = raw(404, b"no such site")

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["pending"] * 3
    assert (len(world.pds.of(APPLY)), len(world.pds.of(DELETE))) == (1, 1)


@pytest.mark.parametrize("count", [1, 3])
async def test_an_answer_without_a_commit_is_looked_after(world: World, count: int) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, count)
    world.pds.always[APPLY] = world.pds.always[DELETE] = unnamed

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["confirmed"] * count
    assert len(world.pds.of(GET)) == count
    assert len(world.pds.of(APPLY)) + len(world.pds.of(DELETE)) == 1


async def test_what_stands_there_after_an_answer_without_a_commit_is_not_called_gone(
    world: World,
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 2)
    for uri in uris:
        await revoke_in_index(world, uri)
    world.pds.fail(APPLY, unnamed)
    kept = world.pds.repos[ALICE][f"{VERIFICATION}/key1"]

    async def put_back(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
        pds.repos[ALICE][f"{VERIFICATION}/key1"] = kept
        pds.send(writer, *pds.answer(call))
        await writer.drain()

    world.pds.fail(GET, put_back)

    await world.publisher.publish_repo(ALICE)

    rows = [await world.row(uri) for uri in uris]
    assert [row.state for row in rows] == ["confirmed", "pending"]
    assert "still" in (rows[1].error or "")


@pytest.mark.parametrize("count", [1, 3])
async def test_what_can_not_be_looked_after_is_not_called_gone(world: World, count: int) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, count)
    world.pds.always[APPLY] = world.pds.always[DELETE] = unnamed
    world.pds.always[GET] = says(503)

    await world.publisher.publish_repo(ALICE)
    assert [await state(world, uri) for uri in uris] == ["pending"] * count

    world.pds.always.clear()
    world.clock.now += 10
    await world.publisher.publish_repo(ALICE)
    assert [await state(world, uri) for uri in uris] == ["confirmed"] * count


async def test_a_host_that_asks_for_a_token_to_show_a_record_costs_no_session(
    world: World,
) -> None:
    await world.account(ALICE)
    await granted(world, ALICE)
    world.pds.always[DELETE] = unnamed
    world.pds.always[GET] = says(401, "AuthMissing")

    await world.publisher.publish_repo(ALICE)

    assert await world.sessions.is_usable(world.db, ALICE)


@pytest.mark.parametrize("body", [b"{}", b'{"commit": {}}', b'{"results": [{}]}'])
async def test_what_is_created_without_being_named_is_asked_for(world: World, body: bytes) -> None:
    await world.account(ALICE)
    record = NewRecord(ALICE, VERIFICATION, "new", {"$type": VERIFICATION})
    session = await world.sessions.get(ALICE)

    async def create(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
        status, _ = pds.answer(call)
        pds.send(writer, status, body)
        await writer.drain()

    world.pds.fail(APPLY, create)
    created = await PdsClient(world.client).create_records(world.pds.url, session.access, [record])

    assert created.cids == (world.pds.repos[ALICE][f"{VERIFICATION}/new"],)
    assert created.rev == world.pds.revs[ALICE]
    assert len(world.pds.of(LATEST)) == 1


async def test_what_is_not_shown_after_an_answer_without_a_commit_is_not_called_created(
    world: World,
) -> None:
    await world.account(ALICE)
    record = NewRecord(ALICE, VERIFICATION, "new", {"$type": VERIFICATION})
    session = await world.sessions.get(ALICE)
    world.pds.fail(APPLY, raw(200, b"{}"))

    with pytest.raises(PdsUnavailableError, match="does not show"):
        await PdsClient(world.client).create_records(world.pds.url, session.access, [record])
