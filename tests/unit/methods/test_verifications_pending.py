"""A record that is not indexed yet, a PDS that does not answer: what is said of them is true."""

import asyncio
import time
from typing import Any

import pytest

from indexer.stream.events import Write
from tests.support.fake_pds import APPLY, DELETE, GET, LATEST, drip, hang, says, waiting
from tests.support.frames import block
from tests.support.revoking_verifications import hurried, in_repo, is_sent, live, world
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    OPERATOR,
    VERIFICATION,
    World,
    did,
    eventually,
)
from xrpc.methods import verifications

__all__ = ["hurried", "world"]  # fixtures

DAVE = did("dave")


# --- what is not in the index ---


async def test_a_record_that_is_not_indexed_yet_is_revoked_and_born_dead(world: World) -> None:
    uri = await world.verification(ALICE, indexed=False)
    rev = world.pds.revs[ALICE]
    cid = world.pds.repos[ALICE][f"{VERIFICATION}/one"]
    assert rev is not None

    assert await world.revoke(ALICE, uri) == ([uri], {})

    [stone] = await world.stones(uri)
    assert (stone.cause, stone.cid, stone.did) == ("revoked", cid, ALICE)
    # Now the firehose shows the create: the same version, so it stays dead.
    record = {
        "$type": VERIFICATION, "subject": CAROL, "handle": "carol.test", "displayName": "Carol",
        "createdAt": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip
    write = Write("create", VERIFICATION, "one", cid, None, block(record))
    await world.show(ALICE, rev, None, write)
    assert await live(world) == set()
    await world.show_deletions()
    assert await world.states() == {"confirmed": 1}


async def test_a_version_from_before_the_deletion_that_comes_late_is_born_dead(
    world: World,
) -> None:
    uri = await world.verification(ALICE)
    since = world.pds.revs[ALICE]
    record = {
        "$type": VERIFICATION, "subject": CAROL, "handle": "carol.test", "displayName": "Carol II",
        "createdAt": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip
    cid, rev = world.pds.write(ALICE, f"{VERIFICATION}/one", record)
    assert await world.revoke(ALICE, uri) == ([uri], {})

    write = Write("update", VERIFICATION, "one", cid, None, block(record))
    await world.show(ALICE, rev, since, write)

    assert await live(world) == set()


async def test_a_record_in_neither_the_index_nor_the_repo_is_not_found(world: World) -> None:
    uri = f"at://{ALICE}/{VERIFICATION}/nothing"
    revoked, failed = await world.revoke(ALICE, uri)
    assert revoked == []
    assert failed[uri].startswith("NotFound: ")
    assert await world.states() == {}
    assert await world.stones(uri) == []


@pytest.mark.parametrize("fault", [says(503), hang, drip, says(400, "RepoTakendown")])
@pytest.mark.parametrize("nsid", [GET, LATEST])
@pytest.mark.usefixtures("hurried")
async def test_a_repo_that_can_not_be_asked_leaves_the_record_as_it_was(
    world: World, fault: Any, nsid: str
) -> None:
    uri = await world.verification(ALICE, indexed=False)
    world.pds.always[nsid] = fault
    revoked, failed = await world.revoke(ALICE, uri)
    assert revoked == []
    assert failed[uri].startswith("RepoUnavailable: ")
    assert await world.states() == {}
    assert in_repo(world, uri)


# --- a PDS that does not do it now ---


def test_a_call_is_answered_within_8_seconds_since_a_proxying_pds_gives_up_at_10() -> None:
    assert verifications.ASK_WITHIN < verifications.ANSWER_WITHIN <= 8.0


@pytest.mark.parametrize("fault", [hang, drip])
@pytest.mark.usefixtures("hurried")
async def test_a_pds_that_hangs_is_waited_for_no_longer_than_that(world: World, fault: Any) -> None:
    uris = [await world.verification(ALICE, f"key{number}") for number in range(3)]
    world.pds.always["*"] = fault

    started = time.monotonic()
    revoked, failed = await world.revoke(ALICE, *uris)
    took = time.monotonic() - started

    assert 0.7 < took < verifications.ANSWER_WITHIN + 0.3
    assert revoked == []
    assert list(failed) == uris
    assert all(text.startswith("PublishPending: ") for text in failed.values())
    assert await live(world) == set()
    assert {stone.cause for stone in await world.stones(*uris)} == {"revoked"}


@pytest.mark.usefixtures("hurried")
async def test_a_pds_that_hangs_does_not_keep_another_repo_s_answer(world: World) -> None:
    good = await world.add_pds()
    await world.account(DAVE, good)
    slow_uri = await world.verification(ALICE)
    good_uri = await world.verification(DAVE, pds=good)
    world.pds.always["*"] = hang

    revoked, failed = await world.revoke(OPERATOR, slow_uri, good_uri)

    assert revoked == [good_uri]
    assert failed[slow_uri].startswith("PublishPending: ")


async def test_what_is_pending_is_tried_again_by_a_repeated_call(world: World) -> None:
    uri = await world.verification(ALICE)
    world.pds.fail(DELETE, says(503, "", "down for a while"))
    _, failed = await world.revoke(ALICE, uri)
    assert failed[uri].startswith("PublishPending: ")
    assert "503" in failed[uri]

    assert await world.revoke(ALICE, uri) == ([uri], {})
    assert not in_repo(world, uri)


async def test_what_is_pending_goes_on_by_itself_and_a_repeated_call_succeeds(
    world: World,
) -> None:
    uri = await world.verification(ALICE)
    world.pds.fail(DELETE, says(503))
    await world.revoke(ALICE, uri)
    world.clock.now += 10
    await eventually(lambda: is_sent(world, uri))

    assert await world.revoke(ALICE, uri) == ([uri], {})
    assert len(world.pds.of(DELETE)) == 2


async def test_a_repo_that_refuses_is_quoted(world: World) -> None:
    uris = [await world.verification(ALICE, key) for key in ("one", "two")]
    world.pds.always[APPLY] = world.pds.always[DELETE] = says(400, "RepoLocked", "not today")
    revoked, failed = await world.revoke(ALICE, *uris)
    assert revoked == []
    assert all("RepoLocked: not today" in failed[uri] for uri in uris)


async def test_without_a_session_it_is_blocked_and_says_what_to_do(world: World) -> None:
    uri = await world.verification(BOB)
    for _ in range(2):
        revoked, failed = await world.revoke(BOB, uri)
        assert revoked == []
        assert failed[uri].startswith("PublishBlocked: revoked here")
        assert f"rescind login {BOB}" in failed[uri]
    assert await live(world) == set()

    await world.log_in(BOB, world.pds)
    await eventually(lambda: is_sent(world, uri))
    assert await world.revoke(BOB, uri) == ([uri], {})


async def test_a_caller_who_hangs_up_does_not_stop_the_publication(world: World) -> None:
    uri = await world.verification(ALICE)
    gate = asyncio.Event()
    world.pds.fail(DELETE, waiting(gate))
    call = asyncio.create_task(world.revoke(ALICE, uri))
    await eventually(lambda: is_busy(world))
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    gate.set()
    await eventually(lambda: is_sent(world, uri))


async def is_busy(world: World) -> bool:
    return world.pds.busy[DELETE] > 0
