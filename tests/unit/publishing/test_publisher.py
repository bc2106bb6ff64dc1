"""What is revoked here is deleted from its repo and seen to be gone, and nothing else is."""

import asyncio

import pytest

from tests.support.fake_pds import APPLY, DELETE, GET, Call, FakePds, drop, raw, says, waiting
from tests.support.publishing import granted, is_state, revoke_in_index, state, world
from tests.support.xrpc_world import ALICE, VERIFICATION, World, eventually
from xrpc.publishing.publisher import CONFIRM_WITHIN

__all__ = ["world"]  # fixtures

# --- one commit, or one by one ---


async def test_many_rows_of_one_repo_are_deleted_in_one_commit(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 30)

    await world.publisher.publish_repo(ALICE)

    assert len(world.pds.of(APPLY)) == 1
    assert world.pds.of(DELETE) == []
    [commit] = world.pds.commits
    assert len(commit.deleted) == 30
    rows = [await world.row(uri) for uri in uris]
    assert {(row.state, row.commit_rev) for row in rows} == {("sent", commit.rev)}


async def test_no_commit_has_more_than_200_deletions(world: World) -> None:
    await world.account(ALICE)
    await granted(world, ALICE, 205)

    await world.publisher.publish_repo(ALICE)

    assert sorted(len(commit.deleted) for commit in world.pds.commits) == [5, 200]
    assert await world.states() == {"sent": 205}


async def test_one_row_is_deleted_by_the_call_that_a_missing_record_does_not_fail(
    world: World,
) -> None:
    await world.account(ALICE)
    await granted(world, ALICE)

    await world.publisher.publish_repo(ALICE)

    assert [call.nsid for call in world.pds.calls if call.token] == [DELETE]


async def test_a_missing_record_does_not_keep_the_others_in_the_repo(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 4)
    del world.pds.repos[ALICE][f"{VERIFICATION}/key2"]

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["sent", "sent", "confirmed", "sent"]
    assert world.pds.repos[ALICE] == {}


async def test_a_refused_batch_is_tried_one_by_one(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.fail(APPLY, says(400, "InvalidRequest", "no such thing here"))

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["sent"] * 3


async def test_a_record_that_is_refused_for_good_does_not_hold_up_those_behind_it(
    world: World,
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.always[APPLY] = says(400, "InvalidRequest")
    world.pds.fail(DELETE, says(400, "InvalidRequest", "not this one"))

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["pending", "sent", "sent"]
    refused = await world.row(uris[0])
    assert refused.error == "InvalidRequest: not this one"
    assert refused.due_at > world.now
    assert (await world.row(uris[1])).error is None


async def test_what_a_stopped_batch_had_done_is_not_marked_as_failed(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.fail(APPLY, says(500))
    world.pds.always[DELETE] = says(503)
    world.pds.fail(DELETE, waiting(_opened()))

    await world.publisher.publish_repo(ALICE)

    done, *rest = [await world.row(uri) for uri in uris]
    assert (done.state, done.error) == ("sent", None)
    assert done.due_at == world.now + CONFIRM_WITHIN * 1000
    assert [row.state for row in rest] == ["pending", "pending"]
    assert all("503" in (row.error or "") for row in rest)


def _opened() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


async def test_a_record_that_the_pds_keeps_in_spite_of_its_answer_is_not_called_gone(
    world: World,
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.always[DELETE] = raw(200, b"{}")  # it says yes and does nothing
    await revoke_in_index(world, uri)

    await world.publisher.publish_repo(ALICE)

    row = await world.row(uri)
    assert row.state == "pending"
    assert "still" in (row.error or "")


async def test_a_new_grant_that_stands_there_by_now_is_left_alone(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await revoke_in_index(world, uri)
    del world.pds.repos[ALICE][f"{VERIFICATION}/key0"]
    world.pds.fail(DELETE, raw(200, b"{}"))  # missing at that moment
    await world.verification(ALICE, "key0", indexed=False, name="Carol again")

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "confirmed"
    assert f"{VERIFICATION}/key0" in world.pds.repos[ALICE]


# --- confirmed ---


async def test_what_the_firehose_shows_is_confirmed(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await world.publisher.publish_repo(ALICE)

    await world.show_deletions()

    assert await state(world, uri) == "confirmed"
    assert world.pds.of(GET) == []


async def test_a_deletion_that_the_firehose_never_shows_is_checked_at_the_pds(
    world: World,
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await world.publisher.publish_repo(ALICE)
    async with world.publishing():
        await asyncio.sleep(0.1)
        assert (await state(world, uri), len(world.pds.of(GET))) == ("sent", 0)

        world.clock.now += CONFIRM_WITHIN
        await eventually(lambda: is_state(world, uri, "confirmed"))

    assert len(world.pds.of(GET)) == 1
    assert len(world.pds.of(DELETE)) == 1


async def test_a_deletion_that_the_check_finds_undone_is_done_again(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await revoke_in_index(world, uri)
    await world.publisher.publish_repo(ALICE)
    await world.verification(ALICE, "key0", indexed=False)  # a restored backup

    world.clock.now += CONFIRM_WITHIN
    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"
    assert world.pds.repos[ALICE] == {}


@pytest.mark.parametrize("by", ["deletion", "check"])
async def test_what_is_put_back_while_the_pds_says_that_it_is_gone_is_deleted_again(
    world: World, by: str
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await revoke_in_index(world, uri)

    async def put_back(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
        status, body = pds.answer(call)
        await world.verification(ALICE, "key0")  # a restored backup, and the stream shows it
        pds.send(writer, status, body)
        await writer.drain()

    if by == "deletion":
        world.pds.fail(DELETE, drop)  # done, but the acknowledgement is lost
    await world.publisher.publish_repo(ALICE)
    assert world.pds.repos[ALICE] == {}
    world.pds.fail(GET, put_back)
    world.clock.now += CONFIRM_WITHIN

    await world.publisher.publish_repo(ALICE)

    assert world.pds.repos[ALICE] == {}
    assert await state(world, uri) == "sent"


async def test_a_new_version_at_that_uri_is_not_deleted_by_the_check(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await revoke_in_index(world, uri)
    await world.publisher.publish_repo(ALICE)
    await world.verification(ALICE, "key0", indexed=False, name="Carol again")

    world.clock.now += CONFIRM_WITHIN
    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "confirmed"
    assert f"{VERIFICATION}/key0" in world.pds.repos[ALICE]


async def test_a_check_that_gets_no_answer_is_made_again(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    await world.publisher.publish_repo(ALICE)
    world.pds.fail(GET, says(503))
    world.clock.now += CONFIRM_WITHIN
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"

    world.clock.now += 10
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "confirmed"
