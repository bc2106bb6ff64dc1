"""Calls as clients make them reach the service through the real PDS, and so do its refusals."""

import asyncio
import gzip
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import log_in
from tests.localnet import Account, LocalNetwork
from tests.localnet.xrpc import bearer
from tests.support.http_host import hosting, http

pytestmark = pytest.mark.asyncio(loop_scope="session")

CREATE_INVITE = "rsvp.atmo.space.invite.create"
CREATE_SPACE = "rsvp.atmo.space.createSpace"
REVOKE = "tools.ozone.verification.revokeVerifications"


async def post(
    caller: Account, path: str, service: str, content: bytes, coding: str | None = None
) -> httpx.Response:
    """Send these bytes through the caller's PDS."""
    headers = {
        **bearer(caller.token),
        "atproto-proxy": service,
        "content-type": "application/json",
        **({"content-encoding": coding} if coding else {}),
    }
    async with httpx.AsyncClient(timeout=30, trust_env=False, verify=False) as client:
        return await client.post(f"{caller.pds.url}/xrpc/{path}", content=content, headers=headers)


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), (None, bytes)]
)
async def test_a_compressed_body_comes_through_the_pds(
    network: LocalNetwork, daemon: Daemon, coding: str | None, pack: Callable[[bytes], bytes]
) -> None:
    caller = await network.pds.create_account(network.handle("caller"))
    answer = await post(caller, REVOKE, daemon.service, pack(b'{"uris":[]}'), coding)
    assert answer.json() == {"revokedVerifications": [], "failedRevocations": []}
    answer = await post(caller, REVOKE, daemon.service, pack(b'{"uris":['), coding)
    assert (answer.status_code, answer.json()["error"]) == (400, "InvalidRequest")


async def test_an_integer_with_a_point_and_a_path_with_a_slash_come_through_the_pds(
    network: LocalNetwork, daemon: Daemon
) -> None:
    owner = await network.pds.create_account(network.handle("owner"))
    await log_in(daemon, owner)
    space = (await owner.call(CREATE_SPACE, {}, daemon.service)).json()["space"]["uri"]
    body = json.dumps({"spaceUri": space, "maxUses": 5.0}).encode()
    assert b"5.0" in body
    answer = await post(owner, f"{CREATE_INVITE}/", daemon.service, body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["invite"]["maxUses"] == 5


async def test_who_calls_too_often_learns_the_seconds_through_the_pds(
    network: LocalNetwork, tmp_path: Path
) -> None:
    daemon = Daemon.on(network, tmp_path / "rescind", RATE_LIMIT="1", RATE_WINDOW="60")
    await daemon.start("--cursor", "oldest")
    try:
        caller = await network.pds.create_account(network.handle("caller"))
        assert (await caller.call(REVOKE, {"uris": []}, daemon.service)).status_code == 200
        answer = await caller.call(REVOKE, {"uris": []}, daemon.service)
    finally:
        await daemon.stop()
    assert (answer.status_code, answer.json()["error"]) == (429, "RateLimitExceeded")
    assert re.search(r"try again in \d+ s$", answer.json()["message"])
    assert "retry-after" not in answer.headers  # which is why the message says it


async def test_while_the_service_is_down_its_callers_get_what_the_notes_say(
    network: LocalNetwork, daemon: Daemon
) -> None:
    caller = await network.pds.create_account(network.handle("caller"))
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        document = (await client.get(f"{daemon.url}/.well-known/did.json")).json()
    await daemon.stop()

    answer = await caller.call(REVOKE, {"uris": []}, daemon.service)
    assert (answer.status_code, answer.json()["error"]) == (500, "InternalServerError")

    # This PDS keeps no documents. For one that does, the document is to be had all the same.
    async def show(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(
            http(json.dumps(document).encode(), "200 OK", "Content-Type: application/json")
        )

    async with hosting(show) as host:
        did = document["id"] = f"did:web:localhost%3A{host.port}"
        answer = await caller.call(REVOKE, {"uris": []}, f"{did}#rescind")
    assert (answer.status_code, answer.json()["error"]) == (502, "UpstreamFailure")
