"""The network under the other tests is what they take it for."""

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.localnet import Account, Frame, LocalNetwork, PdsError, collect

pytestmark = pytest.mark.asyncio(loop_scope="session")

SPACE = "rsvp.atmo.space"
INVITE_REVOKE = "rsvp.atmo.space.invite.revoke"
RECORD = {"name": "A space", "createdAt": "2026-01-01T00:00:00.000Z"}

ROOT = Path(__file__).parents[2]
PARENT = """
import asyncio, json, pathlib, sys
from tests.localnet import LocalNetwork

async def main():
    network = await LocalNetwork.start(pathlib.Path(sys.argv[1]))
    print(json.dumps([int(network.plc_url.rsplit(":", 1)[1]), network.pds.port]), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_new_account_is_announced_by_identity_account_commit_and_sync(
    network: LocalNetwork,
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))

    frames = of(alice, await collect(network.pds.ws_url, until=is_last_of_creation(alice)))

    assert [frame.type for frame in frames] == ["#identity", "#account", "#commit", "#sync"]
    identity, account, commit, _ = (frame.body for frame in frames)
    assert identity["handle"] == alice.handle
    assert account["active"] is True
    assert commit["ops"] == []


async def test_a_record_and_its_deletion_are_commits_on_the_firehose(network: LocalNetwork) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    ref = await alice.create_record(SPACE, RECORD, rkey="party")
    assert ref.uri == f"at://{alice.did}/{SPACE}/party"
    assert await alice.get_record(SPACE, "party") == {"$type": SPACE, **RECORD}
    assert [record["cid"] for record in await alice.list_records(SPACE)] == [ref.cid]
    await alice.delete_record(SPACE, "party")
    assert await alice.get_record(SPACE, "party") is None

    path = f"{SPACE}/party"
    frames = of(alice, await collect(network.pds.ws_url, until=has_op(alice, "delete", path)))

    ops = [(op["action"], op["path"]) for frame in frames for op in frame.body.get("ops", [])]
    assert ops == [("create", path), ("delete", path)]


async def test_a_killed_pds_comes_back_on_its_port_with_its_records(network: LocalNetwork) -> None:
    pds = network.pds
    alice = await pds.create_account(network.handle("alice"))
    ref = await alice.create_record(SPACE, RECORD, rkey="party")
    before = await collect(pds.ws_url, until=has_op(alice, "create", f"{SPACE}/party"))
    url = pds.url

    await pds.kill()
    assert not pds.running
    await pds.start()

    assert pds.url == url
    assert [record["cid"] for record in await alice.list_records(SPACE)] == [ref.cid]
    after = await collect(pds.ws_url, until=has_op(alice, "create", f"{SPACE}/party"))
    assert [frame.body["seq"] for frame in after] == [frame.body["seq"] for frame in before]
    await alice.delete_record(SPACE, "party")  # the session made before the kill still counts


async def test_a_service_auth_token_names_what_was_asked_for(network: LocalNetwork) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    app = await alice.app_session(await alice.create_app_password("test"))
    exp = int(time.time()) + 300

    for session in (alice, app):
        token = await session.service_auth("did:web:example.com#rescind", INVITE_REVOKE, exp)

        header, claims = token_parts(token)
        assert (header["typ"], header["alg"]) == ("JWT", "ES256K")
        assert (claims["iss"], claims["aud"]) == (alice.did, "did:web:example.com#rescind")
        assert (claims["lxm"], claims["exp"]) == (INVITE_REVOKE, exp)


async def test_the_pds_proxies_to_a_did_web_service_on_loopback(network: LocalNetwork) -> None:
    alice = await network.pds.create_account(network.handle("alice"))

    async with echo_service() as did:
        response = await alice.call(INVITE_REVOKE, {"space": "a"}, proxy=f"{did}#rescind")

    assert response.status_code == 200
    echo = response.json()
    assert echo["request"] == f"POST /xrpc/{INVITE_REVOKE} HTTP/1.1"
    assert echo["body"] == {"space": "a"}
    _, claims = token_parts(echo["authorization"].removeprefix("Bearer "))
    assert (claims["iss"], claims["aud"], claims["lxm"]) == (alice.did, did, INVITE_REVOKE)


async def test_a_moved_account_keeps_its_did_and_its_records(network: LocalNetwork) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    ref = await alice.create_record(SPACE, RECORD, rkey="party")
    second = await network.add_pds()

    moved = await network.move(alice, second)

    assert (moved.did, moved.pds) == (alice.did, second)
    assert [record["cid"] for record in await moved.list_records(SPACE)] == [ref.cid]
    await moved.delete_record(SPACE, "party")
    await collect(second.ws_url, until=has_op(alice, "delete", f"{SPACE}/party"))
    with pytest.raises(PdsError, match="AccountDeactivated"):
        await alice.create_record(SPACE, RECORD)
    await second.stop()


async def test_account_states_are_told_on_the_firehose(network: LocalNetwork) -> None:
    pds = network.pds
    alice = await pds.create_account(network.handle("alice"))
    await alice.deactivate()
    await alice.activate()
    await pds.set_takedown(alice.did, applied=True)

    frames = of(alice, await collect(pds.ws_url, until=has_status(alice, "takendown")))

    states = [(f.body["active"], f.body.get("status")) for f in frames if f.type == "#account"]
    assert states == [(True, None), (False, "deactivated"), (True, None), (False, "takendown")]


async def test_a_deleted_account_leaves_only_its_deletion_on_the_firehose(
    network: LocalNetwork,
) -> None:
    pds = network.pds
    alice = await pds.create_account(network.handle("alice"))
    await alice.create_record(SPACE, RECORD)
    await pds.delete_account(alice.did)

    frames = of(alice, await collect(pds.ws_url, until=has_status(alice, "deleted")))

    assert [(frame.type, frame.body["active"]) for frame in frames] == [("#account", False)]


async def test_the_servers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, tmp_path, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        ports = json.loads(await parent.stdout.readline())
    assert [await listens(port) for port in ports] == [True, True]

    parent.kill()
    await parent.wait()

    async with asyncio.timeout(10):
        while any([await listens(port) for port in ports]):
            await asyncio.sleep(0.05)


def of(account: Account, frames: list[Frame]) -> list[Frame]:
    """Keep the frames of one account: a commit names its `repo`, all others a `did`."""
    return [f for f in frames if account.did in (f.body.get("did"), f.body.get("repo"))]


def is_last_of_creation(account: Account) -> Callable[[Frame], bool]:
    return lambda frame: frame.type == "#sync" and frame.body["did"] == account.did


def has_status(account: Account, status: str) -> Callable[[Frame], bool]:
    return lambda frame: (
        (frame.type, frame.body.get("did"), frame.body.get("status"))
        == ("#account", account.did, status)
    )


def has_op(account: Account, action: str, path: str) -> Callable[[Frame], bool]:
    def found(frame: Frame) -> bool:
        ops = frame.body.get("ops", [])
        return frame.body.get("repo") == account.did and any(
            (op["action"], op["path"]) == (action, path) for op in ops
        )

    return found


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
    except ConnectionError:  # refused, or reset by a server that just ends
        return False
    return True


def token_parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims = (
        json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        for part in token.split(".")[:2]
    )
    return header, claims


@asynccontextmanager
async def echo_service() -> AsyncIterator[str]:
    """Serve a did:web document with a service `#rescind` that answers with what it was sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *lines = head.split("\r\n")
        pairs = (line.split(": ", 1) for line in lines if line)
        headers = {name.lower(): value for name, value in pairs}
        if request.startswith("GET /.well-known/did.json"):
            answer: object = document
        else:
            body = await reader.readexactly(int(headers["content-length"]))
            answer = {
                "request": request,
                "authorization": headers["authorization"],
                "body": json.loads(body),
            }
        content = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
            + f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        did = f"did:web:localhost%3A{port}"
        service = {
            "id": "#rescind",
            "type": "RescindAppView",
            "serviceEndpoint": f"http://localhost:{port}",
        }
        document = {"id": did, "service": [service]}
        yield did
