"""What is put back, granted anew or revoked again: each version is called what it is."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from indexer.store import outbox
from indexer.stream.events import Write
from tests.support.fake_pds import DELETE, GET, cid_of, says, waiting
from tests.support.frames import block
from tests.support.revoking_verifications import in_repo, live, world
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    CREATED_AT,
    OPERATOR,
    REVOKE_VERIFICATIONS,
    VERIFICATION,
    World,
    eventually,
)
from xrpc.methods import verifications
from xrpc.publishing import publisher

__all__ = ["world"]  # fixtures


async def test_the_first_who_why_and_when_are_kept(world: World) -> None:
    uri = await world.verification(ALICE)
    await world.revoke(ALICE, uri, reason="the first")
    first = await world.stones(uri)

    world.clock.now += 1000
    assert await world.revoke(OPERATOR, uri, reason="the second") == ([uri], {})

    assert await world.stones(uri) == first
    assert (first[0].actor, first[0].reason) == (ALICE, "the first")
    assert await world.audit() == [(ALICE, "verification.revoke", uri, "the first")]


@pytest.mark.parametrize("indexed", [True, False])
async def test_what_is_put_back_is_deleted_again(world: World, indexed: bool) -> None:
    uri = await world.verification(ALICE)
    await world.revoke(ALICE, uri, reason="the first")
    await world.show_deletions()
    first = await world.stones(uri)

    await world.verification(ALICE, indexed=indexed)  # the same record: a restored backup
    assert await live(world) == set()
    if not indexed:
        assert await world.revoke(ALICE, uri) == ([uri], {})
    world.publisher.nudge(ALICE)
    await eventually(lambda: is_gone(world, uri))

    [stone] = await world.stones(uri)
    assert (stone.actor, stone.reason, stone.created_at) == (
        first[0].actor,
        first[0].reason,
        first[0].created_at,
    )


async def is_gone(world: World, uri: str) -> bool:
    return not in_repo(world, uri)


async def test_a_new_version_is_a_new_grant(world: World) -> None:
    uri = await world.verification(ALICE)
    await world.revoke(ALICE, uri)
    await world.show_deletions()

    await world.verification(ALICE, name="Carol Again")

    assert await live(world) == {uri}
    world.publisher.nudge(ALICE)
    await asyncio.sleep(0.1)
    assert in_repo(world, uri)


@pytest.mark.parametrize("shown", [True, False])
async def test_a_new_grant_that_is_not_indexed_yet_is_really_revoked(
    world: World, shown: bool
) -> None:
    uri = await world.verification(ALICE)
    await world.revoke(ALICE, uri, reason="the first")
    if shown:
        await world.show_deletions()
    await world.verification(ALICE, name="Carol Again", indexed=False)

    assert await world.revoke(OPERATOR, uri, reason="the second") == ([uri], {})

    assert not in_repo(world, uri)
    stones = {stone.reason: stone.actor for stone in await world.stones(uri)}
    assert stones == {"the first": ALICE, "the second": OPERATOR}
    assert [actor for actor, *_ in await world.audit()] == [ALICE, OPERATOR]


async def test_a_new_grant_that_nobody_can_tell_of_is_not_called_revoked_and_never_lives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its looks come between a call's tombstones and its turn, and put off what has just failed.
    monkeypatch.setattr(publisher, "POLL", 60.0)
    uri = await world.verification(ALICE)
    await world.revoke(ALICE, uri)
    await world.show_deletions()
    since = world.pds.revs[ALICE]
    await world.verification(ALICE, name="Carol Again", indexed=False)
    world.pds.always["*"] = says(503)

    revoked, failed = await world.revoke(ALICE, uri)
    assert revoked == []
    assert failed[uri].startswith("PublishPending: ")
    record = {
        "$type": VERIFICATION,
        "createdAt": CREATED_AT,
        "subject": CAROL,
        "handle": "carol.test",
        "displayName": "Carol Again",
    }
    write = Write("create", VERIFICATION, "one", cid_of(record), None, block(record))
    await world.show(ALICE, world.pds.revs[ALICE] or "", since, write)
    assert await live(world) == set()

    world.pds.always.clear()
    assert await world.revoke(ALICE, uri) == ([uri], {})
    assert not in_repo(world, uri)


async def test_the_first_deletion_seen_late_does_not_pass_for_that_of_a_grant_nobody_can_tell_of(
    world: World,
) -> None:
    uri = await world.verification(ALICE)
    assert await world.revoke(ALICE, uri) == ([uri], {})
    first = world.pds.revs[ALICE] or ""  # acknowledged, and not seen on the stream yet
    await world.verification(ALICE, name="Carol Again", indexed=False)
    world.pds.always["*"] = says(503)

    revoked, failed = await world.revoke(ALICE, uri)
    assert revoked == []
    assert failed[uri].startswith("PublishPending: ")
    await world.show_deletions()
    record = {
        "$type": VERIFICATION,
        "createdAt": CREATED_AT,
        "subject": CAROL,
        "handle": "carol.test",
        "displayName": "Carol Again",
    }
    write = Write("create", VERIFICATION, "one", cid_of(record), None, block(record))
    await world.show(ALICE, world.pds.revs[ALICE] or "", first, write)
    assert await live(world) == set()


async def test_what_is_gone_is_not_said_to_stand_there_because_its_pds_was_silent_for_a_while(
    world: World,
) -> None:
    uri = await world.verification(BOB)  # no session
    _, failed = await world.revoke(BOB, uri)
    assert failed[uri].startswith("PublishBlocked: ")
    await world.erase(uri)
    assert await world.revoke(BOB, uri) == ([uri], {})

    world.pds.always["*"] = says(503)
    await world.revoke(BOB, uri)
    world.pds.always.clear()

    assert await world.revoke(BOB, uri) == ([uri], {})


async def test_what_its_issuer_deletes_while_other_records_are_asked_for_is_revoked_for_good(
    world: World,
) -> None:
    uri = await world.verification(ALICE)
    unknown = f"at://{ALICE}/{VERIFICATION}/unknown"
    gate = asyncio.Event()
    world.pds.fail(GET, waiting(gate))
    call = asyncio.create_task(world.revoke(OPERATOR, uri, unknown, reason="spam"))
    async with asyncio.timeout(5):
        while not world.pds.of(GET):
            await asyncio.sleep(0.01)
    await world.erase(uri)
    gate.set()

    revoked, failed = await call
    assert (revoked, list(failed)) == ([uri], [unknown])
    [stone] = await world.stones(uri)
    assert (stone.cause, stone.actor, stone.reason) == ("revoked", OPERATOR, "spam")
    await world.verification(ALICE)  # the same record: a restored backup
    assert await live(world) == set()


async def test_a_new_grant_in_the_index_is_revoked_by_its_own_revocation(world: World) -> None:
    uri = await world.verification(ALICE)
    await world.revoke(ALICE, uri, reason="the first")
    await world.show_deletions()
    await world.verification(ALICE, name="Carol Again")

    assert await world.revoke(ALICE, uri, reason="the second") == ([uri], {})

    assert await live(world) == set()
    assert not in_repo(world, uri)
    assert {stone.reason for stone in await world.stones(uri)} == {"the first", "the second"}


async def test_what_an_operator_dropped_is_taken_up_by_a_repeated_call(world: World) -> None:
    uri = await world.verification(ALICE)
    world.pds.fail(DELETE, says(503))
    await world.revoke(ALICE, uri)
    async with world.db.transaction() as tx:
        await outbox.drop(tx, uri, "given up", world.now)

    assert await world.revoke(ALICE, uri) == ([uri], {})
    assert not in_repo(world, uri)


async def test_what_the_issuer_has_deleted_already_is_not_found(world: World) -> None:
    uri = await world.verification(ALICE)
    del world.pds.repos[ALICE][f"{VERIFICATION}/one"]
    world.pds._commit(ALICE, (f"{VERIFICATION}/one",))
    await world.show_deletions()

    revoked, failed = await world.revoke(ALICE, uri)
    assert revoked == []
    assert failed[uri].startswith("NotFound: ")


async def test_what_is_gone_from_the_repo_but_still_indexed_is_revoked(world: World) -> None:
    uri = await world.verification(ALICE)
    del world.pds.repos[ALICE][f"{VERIFICATION}/one"]  # the firehose is behind
    assert await world.revoke(ALICE, uri) == ([uri], {})
    assert await live(world) == set()


async def test_the_log_names_who_and_how_many(world: World) -> None:
    uris = [await world.verification(ALICE, key) for key in ("one", "two")]
    with capture_logs() as entries:
        await world.revoke(OPERATOR, *uris)
    [entry] = [entry for entry in entries if entry["event"] == "verifications.revoked"]
    assert (entry["count"], entry["actor"]) == (2, OPERATOR)


async def test_issuers_that_are_slow_to_resolve_do_not_use_up_the_answer_s_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifications, "ASK_WITHIN", 0.3)
    good = await world.verification(ALICE)
    handles = [f"at://slow{number}.test/{VERIFICATION}/x" for number in range(30)]
    token = world.token(ALICE, REVOKE_VERIFICATIONS)
    await world.request(  # so that Alice is resolved
        "POST",
        f"/xrpc/{REVOKE_VERIFICATIONS}",
        json={"uris": []},
        headers={"authorization": f"Bearer {token}"},
    )
    world.plc.open.clear()
    started = time.monotonic()
    revoked, failed = await world.revoke(ALICE, *handles, good)
    world.plc.open.set()

    assert time.monotonic() - started < 2
    assert revoked == [good]
    assert len(failed) == 30
