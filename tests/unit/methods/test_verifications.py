"""What is called revoked is gone from its repo; of everything else it is said why not."""

import pytest

from tests.support.fake_pds import DELETE, GET
from tests.support.revoking_verifications import in_repo, live, refused, world
from tests.support.xrpc_world import ALICE, BOB, CAROL, OPERATOR, STRANGER, VERIFICATION, World

__all__ = ["world"]  # fixtures

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
