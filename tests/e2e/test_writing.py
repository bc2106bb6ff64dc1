"""What is made through the service stands in the repo on the real PDS, and counts at once."""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    INVITE,
    SPACE,
    VERIFICATION,
    log_in,
    revoke_verifications,
)
from tests.localnet import Account, LocalNetwork, PdsError
from tests.localnet.xrpc import bearer, query

pytestmark = pytest.mark.asyncio(loop_scope="session")

CREATE_SPACE = "rsvp.atmo.space.createSpace"
CREATE_INVITE = "rsvp.atmo.space.invite.create"
REDEEM = "rsvp.atmo.space.invite.redeem"
WHOAMI = "rsvp.atmo.space.whoami"
GRANT = "tools.ozone.verification.grantVerifications"
LIST = "tools.ozone.verification.listVerifications"


async def ask(daemon: Daemon, caller: Account, nsid: str, **params: Any) -> dict[str, Any]:
    """Call a query of the daemon directly."""
    token = await caller.service_auth(daemon.service, nsid)
    answer = await query(daemon.url, nsid, params, bearer(token))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


async def test_an_owner_makes_a_space_and_an_invite_and_a_guest_comes_in(
    network: LocalNetwork, daemon: Daemon
) -> None:
    owner = await network.pds.create_account(network.handle("owner"))
    guest = await network.pds.create_account(network.handle("guest"))
    await log_in(daemon, owner)

    made = await owner.call(CREATE_SPACE, {"key": "party"}, daemon.service)

    assert made.status_code == 200, made.text
    space = made.json()["space"]
    assert space["uri"] == f"at://{owner.did}/{SPACE}/party"
    # It is in the index by the time of the answer, also for the next call.
    [row] = daemon.rows("select created_at from spaces where uri = ? and revoked = 0", space["uri"])
    assert row["created_at"] == space["createdAt"]
    assert (await owner.get_record(SPACE, "party"))["$type"] == SPACE

    body = {"spaceUri": space["uri"], "maxUses": 1, "note": "welcome"}
    invited = await owner.call(CREATE_INVITE, body, daemon.service)

    token, invite = invited.json()["token"], invited.json()["invite"]
    assert invite["tokenHash"] == hashlib.sha256(token.encode()).hexdigest()
    [record] = await owner.list_records(INVITE)
    assert record["value"]["tokenHash"] == invite["tokenHash"]
    assert token not in str(record)
    came = await guest.call(REDEEM, {"token": token}, daemon.service)
    assert came.json() == {"spaceUri": space["uri"], "perms": "write", "kind": "join"}
    found = await ask(daemon, guest, WHOAMI, spaceUri=space["uri"])
    assert found == {"isOwner": False, "isMember": True}
    assert token not in daemon.log.read_text()


async def test_nothing_that_a_repo_has_is_overwritten(
    network: LocalNetwork, daemon: Daemon
) -> None:
    owner = await network.pds.create_account(network.handle("owner"))
    await log_in(daemon, owner)

    calls = (owner.call(CREATE_SPACE, {"key": "party"}, daemon.service) for _ in range(6))
    answers = await asyncio.gather(*calls)

    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 5
    assert {a.json()["error"] for a in answers if a.status_code == 400} == {"AlreadyExists"}
    again = await owner.call(CREATE_SPACE, {"key": "party"}, daemon.service)
    assert refusal(again) == (400, "AlreadyExists")
    [only] = await owner.list_records(SPACE)

    # Of a type that the index does not tell from nothing, since the record does not fit it.
    await owner.put_record(SPACE, {"name": 5}, "odd")
    assert refusal(await owner.call(CREATE_SPACE, {"key": "odd"}, daemon.service)) == (
        400,
        "AlreadyExists",
    )
    assert (await owner.get_record(SPACE, "odd"))["name"] == 5
    assert (await owner.get_record(SPACE, "party")) == only["value"]


async def test_without_a_session_the_caller_learns_what_to_do(
    network: LocalNetwork, daemon: Daemon
) -> None:
    owner = await network.pds.create_account(network.handle("owner"))
    answer = await owner.call(CREATE_SPACE, {}, daemon.service)
    assert refusal(answer) == (400, "SessionRequired")
    assert f"rescind login {owner.did}" in answer.json()["message"]


async def test_an_operator_grants_a_hundred_lists_them_and_revokes_one(
    network: LocalNetwork, tmp_path: Path
) -> None:
    verifier = await network.pds.create_account(network.handle("verifier"))
    operator = await network.pds.create_account(network.handle("operator"))
    subject = await network.pds.create_account(network.handle("subject"))
    daemon = Daemon.on(network, tmp_path / "rescind", OPERATORS=operator.did, VERIFIER=verifier.did)
    await daemon.start("--cursor", "oldest")
    await log_in(daemon, verifier)
    wanted = [{"subject": subject.did, "handle": subject.handle, "displayName": "Subject"}]
    wanted += [
        {"subject": f"did:plc:{n:a>24}", "handle": f"s{n}.test", "displayName": f"S {n}"}
        for n in (f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(98))
    ]
    wanted += [{"subject": operator.did, "handle": "handle.invalid", "displayName": "O"}]

    before = time.monotonic()
    answer = await operator.call(GRANT, {"verifications": wanted}, daemon.service)
    taken = time.monotonic() - before

    assert answer.status_code == 200, answer.text
    assert taken < 9
    views = answer.json()["verifications"]
    assert len(views) == 99
    assert views[0]["valid"] is True
    assert [one["subject"] for one in answer.json()["failedVerifications"]] == [operator.did]
    rows = daemon.rows("select uri from verifications where did = ? order by uri", verifier.did)
    assert [row["uri"] for row in rows] == [view["uri"] for view in views]
    records = await verifier.list_records(VERIFICATION)
    assert {record["uri"] for record in records} == {view["uri"] for view in views}
    again = await operator.call(GRANT, {"verifications": wanted[:50]}, daemon.service)
    assert again.json() == {"verifications": [], "failedVerifications": []}

    await revoke_verifications(daemon, verifier, [views[0]["uri"]], "no more")
    found: list[dict[str, Any]] = []
    wanted_pages: dict[str, Any] = {"issuers": verifier.did, "sortDirection": "asc", "limit": 40}
    while True:
        page = await ask(daemon, operator, LIST, **wanted_pages)
        found += page["verifications"]
        if "cursor" not in page:
            break
        wanted_pages["cursor"] = page["cursor"]
    assert [view["uri"] for view in found] == [view["uri"] for view in views]
    assert {name: found[0][name] for name in ("revokedBy", "revokeReason", "valid")} == {
        "revokedBy": verifier.did,
        "revokeReason": "no more",
        "valid": False,
    }
    [granted], refused = await asyncio.gather(
        grant(operator, daemon, wanted[0]), grant(subject, daemon, wanted[0])
    )
    assert granted["uri"] not in {view["uri"] for view in views}
    assert refused == []
    await daemon.stop()


async def grant(caller: Account, daemon: Daemon, one: dict[str, str]) -> list[dict[str, Any]]:
    answer = await caller.call(GRANT, {"verifications": [one]}, daemon.service)
    views: list[dict[str, Any]] = answer.json().get("verifications", [])
    return views


async def test_a_key_that_the_pds_would_refuse_never_gets_there(
    network: LocalNetwork, daemon: Daemon
) -> None:
    owner = await network.pds.create_account(network.handle("owner"))
    await log_in(daemon, owner)
    for key in ("", "a/b", "..", "a" * 513):
        answer = await owner.call(CREATE_SPACE, {"key": key}, daemon.service)
        assert refusal(answer) == (400, "InvalidRequest")
    assert await owner.list_records(SPACE) == []
    longest = await owner.call(CREATE_SPACE, {"key": "a" * 512}, daemon.service)
    assert longest.status_code == 200, longest.text
    with pytest.raises(PdsError):
        await owner.create_record(SPACE, {}, "a/b")
