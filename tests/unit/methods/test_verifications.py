"""What is called revoked is gone from its repo; of everything else it is said why not."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from indexer.store import outbox
from indexer.stream.events import Write
from tests.support.fake_pds import APPLY, DELETE, GET, LATEST, cid_of, drip, hang, says, waiting
from tests.support.frames import block
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    CREATED_AT,
    OPERATOR,
    REVOKE_VERIFICATIONS,
    STRANGER,
    VERIFICATION,
    World,
    did,
    eventually,
    make_world,
)
from xrpc.methods import verifications
from xrpc.publishing import publisher

DAVE = did("dave")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path, verifier=CAROL) as made, made.serving():
        await made.account(ALICE)
        await made.account(BOB, session=False)
        yield made


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time that a call may take."""
    monkeypatch.setattr(verifications, "ANSWER_WITHIN", 0.8)
    monkeypatch.setattr(verifications, "ASK_WITHIN", 0.4)


async def refused(world: World, body: dict[str, Any]) -> str:
    """Return the error's name of a call that is refused as a whole, and did nothing."""
    before = await everything(world)
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, body)
    assert answer.status_code == 400
    assert await everything(world) == before
    return str(answer.json()["error"])


async def everything(world: World) -> list[object]:
    return [
        [tuple(row) for row in await world.db.all(f"select * from {table} order by 1, 2")]
        for table in ("verifications", "tombstones", "outbox", "audit", "repos")
    ]


async def live(world: World) -> set[str]:
    rows = await world.db.all("select uri from verifications where revoked = 0")
    return {row["uri"] for row in rows}


def in_repo(world: World, uri: str) -> bool:
    _, _, repo, collection, rkey = uri.split("/")
    return f"{collection}/{rkey}" in world.pds.repos[repo]


# --- the call as a whole ---


async def test_an_empty_list_is_answered_with_empty_lists(world: World) -> None:
    assert await world.revoke(ALICE) == ([], {})
    assert await world.audit() == []


async def test_a_hundred_are_revoked_in_one_commit(world: World) -> None:
    uris = [await world.verification(ALICE, f"key{number}") for number in range(100)]

    revoked, failed = await world.revoke(OPERATOR, *uris, reason="a batch")

    assert (revoked, failed) == (uris, {})
    assert [len(commit.deleted) for commit in world.pds.commits] == [100]
    stones = await world.stones(*uris)
    assert {(s.cause, s.actor, s.reason, s.created_at) for s in stones} == {
        ("revoked", OPERATOR, "a batch", world.now)
    }
    assert len(stones) == 100
    assert {(actor, detail) for actor, _, _, detail in await world.audit()} == {
        (OPERATOR, "a batch")
    }
    assert {subject for _, _, subject, _ in await world.audit()} == set(uris)


async def test_more_than_a_hundred_are_refused_and_nothing_is_done(world: World) -> None:
    uris = [await world.verification(ALICE, "one")] * 101
    assert await refused(world, {"uris": uris}) == "InvalidRequest"


@pytest.mark.parametrize(
    "malformed", ["", "nonsense", "at://", "at://x/y/z", f"at://{ALICE}/{VERIFICATION}/one?x", "*"]
)
async def test_a_malformed_uri_refuses_the_call_and_nothing_is_done(
    world: World, malformed: str
) -> None:
    uri = await world.verification(ALICE)
    assert await refused(world, {"uris": [uri, malformed]}) == "InvalidRequest"


@pytest.mark.parametrize("reason", ["x" * 1000, "ü" * 500, "😀" * 250, ""])
async def test_a_reason_may_have_a_thousand_bytes(world: World, reason: str) -> None:
    uri = await world.verification(ALICE)
    assert await world.revoke(ALICE, uri, reason=reason) == ([uri], {})
    [stone] = await world.stones(uri)
    assert stone.reason == reason


@pytest.mark.parametrize("reason", ["x" * 1001, "ü" * 500 + "x", "😀" * 251])
async def test_a_longer_reason_refuses_the_call(world: World, reason: str) -> None:
    uri = await world.verification(ALICE)
    assert await refused(world, {"uris": [uri], "revokeReason": reason}) == "InvalidRequest"


# --- the URIs ---


async def test_duplicates_are_answered_once(world: World) -> None:
    uri = await world.verification(ALICE)
    assert await world.revoke(ALICE, uri, uri, uri) == ([uri], {})
    missing = uri + "x"
    revoked, failed = await world.revoke(ALICE, missing, missing)
    assert (revoked, list(failed)) == ([], [missing])


@pytest.mark.parametrize("handle_first", [True, False])
async def test_two_spellings_of_one_record_are_answered_once_under_the_first(
    world: World, handle_first: bool
) -> None:
    uri = await world.verification(ALICE)
    world.name(ALICE, world.pds.url, "alice.test")
    spellings = [uri.replace(ALICE, "Alice.test"), uri]
    if not handle_first:
        spellings.reverse()

    assert await world.revoke(ALICE, *spellings) == ([spellings[0]], {})

    [stone] = await world.stones(uri)
    assert stone.did == ALICE
    assert len(world.pds.of(DELETE)) == 1


async def test_each_problem_belongs_to_its_uri_and_the_good_ones_go(world: World) -> None:
    good = await world.verification(ALICE)
    foreign = await world.verification(BOB)
    other = f"at://{ALICE}/app.bsky.graph.follow/one"
    list_ = f"at://{ALICE}/{VERIFICATION}"
    repo = f"at://{ALICE}"
    missing = f"at://{ALICE}/{VERIFICATION}/missing"
    handle = f"at://nobody.test/{VERIFICATION}/one"

    revoked, failed = await world.revoke(
        ALICE, other, foreign, list_, good, missing, repo, handle, good
    )

    assert revoked == [good]
    assert {uri: text.partition(":")[0] for uri, text in failed.items()} == {
        other: "NotAVerification",
        foreign: "Forbidden",
        list_: "NotAVerification",
        missing: "NotFound",
        repo: "NotAVerification",
        handle: "HandleNotResolved",
    }
    assert VERIFICATION in failed[other]
    assert "record key" in failed[list_]
    assert in_repo(world, foreign)
    assert await live(world) == {foreign}
    assert await world.states() == {"sent": 1}
    assert [subject for _, _, subject, _ in await world.audit()] == [good]


# --- who may ---


async def test_the_issuer_may_and_others_may_not(world: World) -> None:
    uri = await world.verification(ALICE)
    for caller in (BOB, STRANGER):
        revoked, failed = await world.revoke(caller, uri)
        assert revoked == []
        assert failed[uri].startswith("Forbidden: ")
    assert await live(world) == {uri}

    assert await world.revoke(ALICE, uri) == ([uri], {})


async def test_who_may_not_learns_not_even_whether_there_is_a_record(world: World) -> None:
    uri = await world.verification(ALICE)
    _, there = await world.revoke(BOB, uri)
    _, missing = await world.revoke(BOB, uri + "x")
    assert there[uri] == missing[uri + "x"]
    assert world.pds.of(GET) == []


async def test_an_operator_may_act_for_the_accounts_that_we_hold_sessions_for(
    world: World,
) -> None:
    ours, theirs = await world.verification(ALICE), await world.verification(BOB)
    revoked, failed = await world.revoke(OPERATOR, ours, theirs)
    assert revoked == [ours]
    assert failed[theirs].startswith("Forbidden: ")
    assert "session" in failed[theirs]
    assert await world.audit() == [(OPERATOR, "verification.revoke", ours, None)]


async def test_an_operator_may_act_for_the_verifier_even_before_it_has_a_session(
    world: World,
) -> None:
    await world.account(CAROL, session=False)
    uri = await world.verification(CAROL)

    revoked, failed = await world.revoke(OPERATOR, uri)
    assert revoked == []
    assert failed[uri].startswith("PublishBlocked: ")
    assert await live(world) == set()

    _, failed = await world.revoke(STRANGER, uri)
    assert failed[uri].startswith("Forbidden: ")


async def test_the_verifier_is_no_operator(world: World) -> None:
    await world.account(CAROL)
    uri = await world.verification(ALICE)
    _, failed = await world.revoke(CAROL, uri)
    assert failed[uri].startswith("Forbidden: ")


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


async def is_sent(world: World, uri: str) -> bool:
    return (await world.row(uri)).state in ("sent", "confirmed")


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


# --- again ---


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
