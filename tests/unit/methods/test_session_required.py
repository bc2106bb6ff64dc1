"""Who needs a session that this service does not have is told so, and whom to ask."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fake_pds import APPLY, REFRESH, says
from tests.support.lexicon_cases import DOCUMENTS
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    OPERATOR,
    REVOKE_INVITE,
    REVOKE_VERIFICATIONS,
    World,
    make_world,
)

CONTACT = "https://rescind.test/help?topic=sessions&lang=en"
CREATE_SPACE = "rsvp.atmo.space.createSpace"
CREATE_INVITE = "rsvp.atmo.space.invite.create"
GRANT = "tools.ozone.verification.grantVerifications"
HASH = hashlib.sha256(b"token").hexdigest()


def words(did: str, contact: str | None = CONTACT) -> str:
    asked = f": {contact}" if contact else ""
    return (
        f"no session for {did}: run `rescind login {did}`; "
        f"that is for the operator of this service to do{asked}"
    )


@pytest.fixture(params=[CONTACT, "help@rescind.test", None], ids=["url", "mail", "none"])
async def served(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with make_world(tmp_path, verifier=CAROL, contact=request.param) as made, made.serving():
        for did in (ALICE, CAROL):
            await made.account(did, session=False)
        yield made


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path, verifier=CAROL, contact=CONTACT) as made, made.serving():
        for did in (ALICE, CAROL):
            await made.account(did, session=False)
        yield made


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    found = answer.json()
    return answer.status_code, found["error"], found["message"]


async def grant(world: World, *subjects: str) -> dict[str, Any]:
    wanted = [
        {"subject": subject, "handle": f"{subject[8:13]}.test", "displayName": "x"}
        for subject in subjects
    ]
    answer = await world.call(OPERATOR, GRANT, {"verifications": wanted})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_our_own_methods_have_an_error_of_its_own_for_it(served: World) -> None:
    expected = (400, "SessionRequired", words(ALICE, served.settings.contact))
    assert refusal(await served.call(ALICE, CREATE_SPACE, {})) == expected
    space = await served.space(ALICE)
    answer = await served.call(ALICE, CREATE_INVITE, {"spaceUri": space})
    assert refusal(answer) == expected
    assert served.pds.of(APPLY) == []


async def test_each_item_of_a_revocation_is_told_in_the_same_words(served: World) -> None:
    uris = [await served.verification(ALICE, key) for key in ("one", "two")]
    revoked, failed = await served.revoke(ALICE, *uris)
    assert revoked == []
    said = (
        "PublishBlocked: revoked here, but not deleted from the repo: "
        f"SessionRequired: {words(ALICE, served.settings.contact)}"
    )
    assert failed == dict.fromkeys(uris, said)


async def test_each_item_of_a_grant_is_told_in_the_same_words(served: World) -> None:
    said = f"SessionRequired: {words(CAROL, served.settings.contact)}"
    assert await grant(served, ALICE, BOB) == {
        "verifications": [],
        "failedVerifications": [{"subject": did, "error": said} for did in (ALICE, BOB)],
    }
    assert served.pds.of(APPLY) == []
    assert await served.audit() == []  # nothing was granted


async def test_whom_the_verifier_has_verified_needs_no_session(world: World) -> None:
    await world.verification(CAROL, subject=BOB)
    wanted = [{"subject": BOB, "handle": "carol.test", "displayName": "x"}]
    answer = await world.call(OPERATOR, GRANT, {"verifications": wanted})
    assert answer.json() == {"verifications": [], "failedVerifications": []}


async def test_a_session_that_its_pds_refuses_is_none(world: World) -> None:
    for did in (ALICE, CAROL):
        await world.log_in(did, world.pds)
    world.pds.expire()
    world.pds.always[REFRESH] = says(400, "ExpiredToken", "Token has been revoked")
    for _ in range(2):
        status, error, message = refusal(await world.call(ALICE, CREATE_SPACE, {}))
        assert (status, error) == (400, "SessionRequired")
        assert "app password withdrawn" in message
        assert message.endswith(f"that is for the operator of this service to do: {CONTACT}")
        [failure] = (await grant(world, BOB))["failedVerifications"]
        assert failure["error"].startswith("SessionRequired: ")
        assert failure["error"].endswith(CONTACT)


async def test_a_session_lets_them_do_it(world: World) -> None:
    for did in (ALICE, CAROL):
        await world.log_in(did, world.pds)
    async with world.streaming():
        assert (await world.call(ALICE, CREATE_SPACE, {})).status_code == 200
        assert len((await grant(world, BOB))["verifications"]) == 1


async def test_an_invite_is_revoked_without_a_session_as_ever(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    answer = await world.call(ALICE, REVOKE_INVITE, {"spaceUri": space, "tokenHash": HASH})
    assert answer.json() == {"ok": True}


def test_the_documents_of_others_name_no_error_of_ours() -> None:
    for nsid in (GRANT, REVOKE_VERIFICATIONS, "tools.ozone.verification.listVerifications"):
        errors = DOCUMENTS[nsid]["defs"]["main"].get("errors", [])
        assert "SessionRequired" not in [error["name"] for error in errors]
    errors = DOCUMENTS[REVOKE_INVITE]["defs"]["main"]["errors"]
    assert errors == [{"name": "NotFound"}, {"name": "Forbidden"}]
