"""`rescind outbox retry` means now, also at a host that named a time itself."""

import pytest

from indexer.store import outbox
from tests.support.fake_pds import DELETE, Fault, says
from tests.support.publishing import granted, state, world
from tests.support.xrpc_world import ALICE, BOB, CAROL, World

__all__ = ["world"]  # fixtures

LATER = says(429, "RateLimitExceeded", "", "Retry-After: 3000")


async def order(world: World, *uris: str) -> None:
    """Do what `rescind outbox retry` does."""
    async with world.db.transaction() as tx:
        await outbox.retry_now(tx, uris or None, world.now)


@pytest.mark.parametrize("failure", [LATER, says(503)])
@pytest.mark.parametrize("is_chosen", [True, False])
async def test_an_order_is_carried_out_before_the_time_that_the_host_named(
    world: World, failure: Fault, is_chosen: bool
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, failure)
    await world.publisher.publish_repo(ALICE)
    await world.publisher.publish_repo(ALICE)
    assert (await state(world, uri), len(world.pds.of(DELETE))) == ("pending", 1)

    world.clock.now += 1
    await order(world, *([uri] if is_chosen else []))
    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"


async def test_a_host_that_says_later_again_is_asked_once_for_an_order(world: World) -> None:
    uris = []
    for repo in (ALICE, BOB, CAROL):
        await world.account(repo)
        uris += await granted(world, repo)
    world.pds.always[DELETE] = LATER
    await world.publisher.publish_repo(ALICE)
    world.clock.now += 1
    await order(world)

    world.clock.now += 1
    for repo in (ALICE, BOB, CAROL, ALICE):
        await world.publisher.publish_repo(repo)

    assert len(world.pds.of(DELETE)) == 2
    assert {(await world.row(uri)).state for uri in uris} == {"pending"}
    assert all([(await world.row(uri)).due_at >= world.now + 2_990_000 for uri in uris])


async def test_an_order_is_not_lost_when_the_record_is_revoked_again_meanwhile(
    world: World,
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, LATER)
    await world.publisher.publish_repo(ALICE)
    world.clock.now += 1
    await order(world, uri)
    await world.enqueue(uri)

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"
