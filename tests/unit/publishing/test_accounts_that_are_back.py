"""The deletions of an account that is back are tried at once, whatever was put off before."""

import asyncio

import pytest

from indexer.store import outbox
from tests.support.fake_pds import APPLY, DELETE, Call, FakePds, says
from tests.support.publishing import granted, is_state, state, world
from tests.support.xrpc_world import ALICE, BOB, VERIFICATION, World, eventually

__all__ = ["world"]  # fixtures

GONE = says(401, "AccountDeactivated", "Account is deactivated")


async def hasten(world: World, *dids: str) -> None:
    """Do what the indexer does when these are active again, or may be elsewhere."""
    async with world.db.transaction() as tx:
        await outbox.hasten(tx, dids, world.now)


async def test_what_waited_for_an_account_is_deleted_once_it_is_back(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.always[DELETE] = GONE
    for _ in range(8):  # the pause has grown to minutes
        await world.publisher.publish_repo(ALICE)
        world.clock.now = (await world.row(uri)).due_at / 1000 + 0.001
    await world.publisher.publish_repo(ALICE)
    assert (await world.row(uri)).due_at > world.now + 60_000

    world.pds.always.clear()
    await hasten(world, BOB)
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "pending"
    await hasten(world, ALICE)
    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"


async def test_an_account_that_comes_back_while_it_is_tried_is_tried_again(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)

    async def too_early(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
        await hasten(world, ALICE)
        await GONE(pds, call, writer)

    world.pds.fail(DELETE, too_early)
    await world.publisher.publish_repo(ALICE)
    assert (await world.row(uri)).due_at <= world.now

    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"


async def test_what_the_firehose_is_about_to_show_goes_on_waiting_for_it(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await world.publisher.publish_repo(ALICE)
    before = await world.row(uri)
    await hasten(world, ALICE)
    assert await world.row(uri) == before


async def test_an_account_that_is_not_active_is_asked_once_for_all_its_records(
    world: World,
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 5)
    world.pds.always[APPLY] = world.pds.always[DELETE] = GONE
    await world.publisher.publish_repo(ALICE)
    assert [await state(world, uri) for uri in uris] == ["pending"] * 5
    assert (len(world.pds.of(APPLY)), len(world.pds.of(DELETE))) == (1, 0)


@pytest.mark.parametrize("reason", ["refused", "blocked"])
async def test_a_new_session_takes_up_what_waits_and_the_repo(world: World, reason: str) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    if reason == "blocked":
        world.pds.expire()
        world.pds.refresh.clear()
    world.pds.fail(DELETE, says(403, "Forbidden"))
    await world.publisher.publish_repo(ALICE)
    far = world.now + 3_600_000
    async with world.db.transaction() as tx:
        await tx.execute("update outbox set due_at = :far", {"far": far})
        await tx.execute(
            "update repos set sync = 'desynchronized', resync_due_at = :far, resync_attempts = 9",
            {"far": far},
        )

    async with world.publishing():
        await world.log_in(ALICE, world.pds)
        await eventually(lambda: is_state(world, uri, "sent"))

    rows = await world.db.all("select resync_due_at, resync_attempts from repos")
    assert [tuple(row) for row in rows] == [(world.now, 0)]
    assert f"{VERIFICATION}/key0" not in world.pds.repos[ALICE]
