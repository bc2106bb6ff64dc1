"""Operators grant in the verifier's name: once each, in one commit, or it is said why not."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from indexer.lexicon.syntax import format_datetime, is_tid
from indexer.records import MAX_NAME
from tests.support.fake_pds import APPLY, REFRESH, drop, hang, says
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    CREATED_AT,
    NOW,
    OPERATOR,
    VERIFICATION,
    World,
    did,
    eventually,
    make_world,
)
from xrpc.methods import creating
from xrpc.publishing import publisher

GRANT = "tools.ozone.verification.grantVerifications"
VERIFIER = did("verifier")
NOW_TEXT = format_datetime(int(NOW * 1000))


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path, verifier=VERIFIER) as made:
        await made.account(VERIFIER)
        for name, handle in ((ALICE, "alice.test"), (BOB, "bob.test")):
            made.name(name, made.pds.url, handle)
        async with made.serving(), made.streaming():
            yield made


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time that a call may take."""
    monkeypatch.setattr(creating, "ANSWER_WITHIN", 0.8)
    monkeypatch.setattr(creating, "SEEN_WITHIN", 0.3)


def asked(subject: str, handle: str, name: str = "Somebody", **more: str) -> dict[str, str]:
    return {"subject": subject, "handle": handle, "displayName": name, **more}


ALICE_ASKED, BOB_ASKED = asked(ALICE, "alice.test", "Alice"), asked(BOB, "bob.test", "Bob")


async def call(world: World, *wanted: dict[str, str], caller: str = OPERATOR) -> httpx.Response:
    return await world.call(caller, GRANT, {"verifications": list(wanted)})


async def grant(
    world: World, *wanted: dict[str, str]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    answer = await call(world, *wanted)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found["verifications"], found["failedVerifications"]


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


async def live(world: World) -> list[tuple[str, str]]:
    rows = await world.db.all(
        "select subject, handle from verifications where revoked = 0 order by uri"
    )
    return [(row["subject"], row["handle"]) for row in rows]


async def test_what_is_granted_is_one_commit_in_the_verifiers_repo_and_in_the_index(
    world: World,
) -> None:
    views, failures = await grant(world, ALICE_ASKED, {**BOB_ASKED, "createdAt": CREATED_AT})

    assert failures == []
    [commit] = world.pds.commits
    assert commit.did == VERIFIER
    uris = [f"at://{VERIFIER}/{path}" for path, _, _ in commit.created]
    assert all(is_tid(uri.rpartition("/")[2]) for uri in uris)
    assert uris == sorted(uris)
    assert [record for _, _, record in commit.created] == [
        {"$type": VERIFICATION, **ALICE_ASKED, "createdAt": NOW_TEXT},
        {"$type": VERIFICATION, **BOB_ASKED, "createdAt": CREATED_AT},
    ]
    assert views == [
        {"issuer": VERIFIER, "uri": uris[0], "valid": True, **ALICE_ASKED, "createdAt": NOW_TEXT},
        {"issuer": VERIFIER, "uri": uris[1], "valid": True, **BOB_ASKED, "createdAt": CREATED_AT},
    ]
    assert await live(world) == [(ALICE, "alice.test"), (BOB, "bob.test")]
    assert await world.audit() == [(OPERATOR, "verification.grant", uri, None) for uri in uris]


async def test_only_operators_grant_and_not_the_verifier_by_himself(world: World) -> None:
    for caller in (ALICE, VERIFIER):
        assert refusal(await call(world, ALICE_ASKED, caller=caller)) == (403, "Forbidden")
    assert world.pds.of(APPLY) == []


async def test_without_a_verifier_it_is_said_that_there_is_none(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world, world.serving():
        answer = await call(world, ALICE_ASKED)
    assert refusal(answer) == (400, "InvalidRequest")
    assert "no verifier" in answer.json()["message"]


async def test_without_a_session_of_the_verifier_it_is_said_what_to_do(world: World) -> None:
    await world.sessions.log_out(VERIFIER)
    answer = await call(world, ALICE_ASKED)
    assert answer.status_code == 200
    assert answer.json()["verifications"] == []
    [failure] = answer.json()["failedVerifications"]
    assert failure["subject"] == ALICE
    assert f"`rescind login {VERIFIER}`" in failure["error"]
    assert await world.db.all("select 1 from audit where action = 'verification.grant'") == []


async def test_what_can_not_be_granted_fails_by_itself_and_the_others_are_granted(
    world: World,
) -> None:
    too_long = asked(CAROL, "carol.test", "x" * (MAX_NAME + 1))
    views, failures = await grant(
        world, asked(BOB, "Handle.Invalid"), ALICE_ASKED, too_long, asked(CAROL, "handle.invalid")
    )
    assert [view["subject"] for view in views] == [ALICE]
    assert [failure["subject"] for failure in failures] == [BOB, CAROL, CAROL]
    assert ["handle.invalid" in failure["error"] for failure in failures] == [True, False, True]
    assert str(MAX_NAME) in failures[1]["error"]


async def test_the_longest_name_that_is_kept_whole_is_granted(world: World) -> None:
    views, failures = await grant(world, asked(BOB, "bob.test", "x" * MAX_NAME))
    assert (len(views), failures) == (1, [])


async def test_a_handle_is_written_in_lower_case_and_stands_for_itself_in_any(
    world: World,
) -> None:
    [view], _ = await grant(world, asked(ALICE, "Alice.Test"), asked(ALICE, "aLICE.tEST"))
    assert view["handle"] == "alice.test"
    assert await live(world) == [(ALICE, "alice.test")]


async def test_an_empty_list_is_answered_with_empty_lists(world: World) -> None:
    assert await grant(world) == ([], [])
    assert world.pds.of(APPLY) == []


async def test_who_is_verified_already_or_named_twice_is_in_neither_list(world: World) -> None:
    await grant(world, ALICE_ASKED)
    views, failures = await grant(world, ALICE_ASKED, BOB_ASKED, asked(BOB, "bob.test", "Robert"))
    assert [(view["subject"], view["displayName"]) for view in views] == [(BOB, "Bob")]
    assert failures == []
    assert await grant(world, ALICE_ASKED, BOB_ASKED) == ([], [])
    assert await live(world) == [(ALICE, "alice.test"), (BOB, "bob.test")]


async def test_a_new_handle_a_revocation_or_another_issuer_leaves_room_for_a_grant(
    world: World,
) -> None:
    await world.account(CAROL)
    await world.verification(CAROL, subject=ALICE, name="Alice")
    [first], _ = await grant(world, ALICE_ASKED)
    [second], _ = await grant(world, asked(ALICE, "new.test"))
    await world.revoke(OPERATOR, first["uri"], second["uri"])
    [third], _ = await grant(world, ALICE_ASKED)
    assert len({view["uri"] for view in (first, second, third)}) == 3


async def test_calls_at_once_grant_a_subject_once(world: World) -> None:
    answers = await asyncio.gather(*(grant(world, ALICE_ASKED, BOB_ASKED) for _ in range(6)))
    assert sorted(len(views) for views, _ in answers) == [0, 0, 0, 0, 0, 2]
    assert await live(world) == [(ALICE, "alice.test"), (BOB, "bob.test")]


async def test_a_hundred_are_one_commit_and_one_more_is_refused(world: World) -> None:
    wanted = [asked(did(f"s{chr(97 + n // 26)}{chr(97 + n % 26)}"), "x.test") for n in range(101)]
    assert refusal(await call(world, *wanted)) == (400, "InvalidRequest")
    views, failures = await grant(world, *wanted[:100])
    assert (len(views), failures) == (100, [])
    assert len(world.pds.commits) == 1


async def test_a_view_says_whether_the_handle_is_the_subjects_now(world: World) -> None:
    world.name(CAROL, world.pds.url, "carol.test", "second.test")
    views, _ = await grant(
        world,
        ALICE_ASKED,
        asked(BOB, "other.test"),
        asked(CAROL, "second.test"),
        asked(did("nobody"), "nobody.test"),
    )
    assert [view["valid"] for view in views] == [True, False, False, False]


async def test_a_handle_that_leads_elsewhere_is_not_valid_and_one_nobody_can_ask_for_is_unsaid(
    world: World,
) -> None:
    path = "xrpc/com.atproto.identity.resolveHandle?handle=bob.test"
    world.plc.documents[path] = {"did": ALICE}
    nobody_answers = "did:web:localhost%3A1"
    views, _ = await grant(world, BOB_ASKED, asked(nobody_answers, "nobody.test"))
    assert views[0]["valid"] is False
    assert "valid" not in views[1]


async def test_a_token_that_ran_out_is_refreshed(world: World) -> None:
    world.pds.expire()
    views, _ = await grant(world, ALICE_ASKED)
    assert len(views) == 1
    assert len(world.pds.of(REFRESH)) == 1


async def test_a_failing_pds_fails_the_call_and_the_audit_knows_who_asked(world: World) -> None:
    world.pds.fail(APPLY, says(500, "InternalServerError"))
    assert refusal(await call(world, ALICE_ASKED)) == (502, "UpstreamFailure")
    assert [entry[:2] for entry in await world.audit()] == [(OPERATOR, "verification.grant")]
    assert len((await grant(world, ALICE_ASKED))[0]) == 1


async def test_after_a_lost_answer_the_same_call_grants_nothing_twice(world: World) -> None:
    world.pds.fail(APPLY, drop)
    assert refusal(await call(world, ALICE_ASKED)) == (502, "UpstreamFailure")

    async def is_indexed() -> bool:
        return await live(world) == [(ALICE, "alice.test")]

    await eventually(is_indexed)
    assert await grant(world, ALICE_ASKED) == ([], [])


@pytest.mark.usefixtures("hurried")
async def test_who_waits_behind_a_hanging_pds_is_told_in_time(world: World) -> None:
    world.pds.always[APPLY] = hang
    answers = await asyncio.gather(*(call(world, ALICE_ASKED) for _ in range(4)))
    assert {refusal(answer) for answer in answers} == {(502, "UpstreamFailure")}
    world.pds.always.clear()
    assert len((await grant(world, ALICE_ASKED))[0]) == 1
