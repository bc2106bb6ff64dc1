"""Every call gets a JSON answer that names what is wrong, and nothing that is not its business."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from indexer.stream.events import Write
from tests.support.fake_pds import cid_of
from tests.support.frames import block
from tests.support.xrpc_world import (
    ALICE,
    CREATED_AT,
    REVOKE_INVITE,
    REVOKE_VERIFICATIONS,
    SPACE,
    STRANGER,
    World,
    make_world,
)
from xrpc.methods.table import METHODS, Method
from xrpc.serving import endpoint as module
from xrpc.serving import server as http_server

LIST_SPACES = "rsvp.atmo.space.listSpaces"
MAX_BODY = 256_000  # bytes
PATH = f"/xrpc/{REVOKE_VERIFICATIONS}"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE, session=False)
        yield made


async def refusal(world: World, method: str, path: str, **options: Any) -> tuple[int, str]:
    """Return the status and the name of an error; what holds for every error is looked at here."""
    headers = {"origin": "https://explorer.example", **options.pop("headers", {})}
    answer = await world.request(method, path, headers=headers, **options)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "server" not in answer.headers
    if method == "HEAD":
        return answer.status_code, ""
    body = answer.json()
    assert body.keys() == {"error", "message"}
    assert body["message"]
    return answer.status_code, body["error"]


async def posted(world: World, content: Any, **headers: str) -> tuple[int, str]:
    """Return how a body of these bytes is refused."""
    token = world.token(ALICE, REVOKE_VERIFICATIONS)
    all_headers = {
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return await refusal(world, "POST", PATH, content=content, headers=all_headers)


# --- methods, verbs and paths ---


@pytest.mark.parametrize(
    "nsid",
    [
        "com.example.unknown",
        "rsvp.atmo",
        "rsvp.atmo.space.invite.REVOKE",
        "Rsvp.Atmo.Space.Invite.Revoke",
        "rsvp.atmo.space.invite.revoke%00",
        "rsvp.atmo.space.invite.revoke%20",
        "%2e%2e",
        "x" * 4000,
    ],
)
async def test_a_method_that_is_not_known_is_not_implemented(world: World, nsid: str) -> None:
    for method in ("GET", "POST"):
        assert await refusal(world, method, f"/xrpc/{nsid}") == (501, "MethodNotImplemented")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("nsid", [REVOKE_INVITE, REVOKE_VERIFICATIONS])
async def test_a_procedure_is_called_with_post_only(world: World, method: str, nsid: str) -> None:
    assert await refusal(world, method, f"/xrpc/{nsid}") == (405, "MethodNotAllowed")


async def test_a_head_of_a_procedure_is_refused_without_a_body(world: World) -> None:
    assert await refusal(world, "HEAD", PATH) == (405, "")


async def test_a_refused_verb_is_told_which_one_is_right(world: World) -> None:
    for verb in ("GET", "OPTIONS"):
        answer = await world.request(verb, PATH)
        assert answer.headers["allow"] == "POST"
        assert "POST" in answer.json()["message"]
    answer = await world.request("POST", "/.well-known/did.json")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "path",
    [
        "/xrpc",
        "/xrpc/",
        "/xrpc//",
        f"/xrpc/{REVOKE_INVITE}//",
        "/xrpc/_health//",
        f"/xrpc/{REVOKE_INVITE}/x",
        f"//xrpc/{REVOKE_INVITE}",
        "/.well-known/did.json/",
        "/.well-known/",
        "/../etc/passwd",
        "/favicon.ico",
        "/%ff",
    ],
)
async def test_nothing_is_at_any_other_path(world: World, path: str) -> None:
    for method in ("GET", "POST"):
        assert await refusal(world, method, path) == (404, "NotFound")


# --- who calls ---


@pytest.mark.parametrize(
    ("authorization", "error"),
    [
        (None, "AuthMissing"),
        ("Basic YWxpY2U6c2VjcmV0", "AuthMissing"),
        ("Bearer nonsense", "BadJwt"),
        ("Bearer a.b.c", "BadJwt"),
    ],
)
async def test_a_call_without_a_caller_is_refused_by_name(
    world: World, authorization: str | None, error: str
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    assert await refusal(world, "POST", PATH, json={"uris": []}, headers=headers) == (401, error)


async def test_a_token_is_for_one_method(world: World) -> None:
    headers = {"authorization": f"Bearer {world.token(ALICE, REVOKE_INVITE)}"}
    assert await refusal(world, "POST", PATH, json={"uris": []}, headers=headers) == (
        401,
        "BadJwtLexiconMethod",
    )


async def test_who_is_not_proven_learns_nothing_about_the_body(world: World) -> None:
    headers = {"content-type": "application/json"}
    assert await refusal(world, "POST", PATH, content=b"{", headers=headers) == (401, "AuthMissing")


# --- bodies ---


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/xml", "application/jsonx", "multipart/form-data; boundary=x"],
)
async def test_a_body_of_another_type_is_refused(world: World, content_type: str) -> None:
    refused = await posted(world, b'{"uris":[]}', content_type=content_type)
    assert refused == (400, "InvalidRequest")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_may_say_its_charset(world: World, content_type: str) -> None:
    headers = {
        "authorization": f"Bearer {world.token(ALICE, REVOKE_VERIFICATIONS)}",
        "content-type": content_type,
    }
    answer = await world.request("POST", PATH, content=b'{"uris":[]}', headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b'"uris"',
        b'{"uris":[]} trailing',
        b'{"uris":[],"uris":[]}',
        b'{"uris":[],"x":{"a":1,"a":2}}',
        b'{"uris":[],"x":NaN}',
        b'{"uris":[],"x":-Infinity}',
        b'{"uris":[],"x":1.5}',  # no number of atproto's data
        b'{"uris":[],"x":"\\ud800"}',
        b'{"uris":[],"x":' + b"1" * 5000 + b"}",
        b'{"uris":[],"x":' + b"[" * 33 + b"]" * 33 + b"}",
        b"[" * 100_000,
        b'{"uris":["\xff"]}',
        '{"uris":[]}'.encode("utf-16"),
        b'\xef\xbb\xbf{"uris":[]}',
    ],
)
async def test_a_body_that_is_not_strict_json_is_refused(world: World, content: bytes) -> None:
    assert await posted(world, content) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"uris": "at://x"},
        {"uris": None},
        {"uris": [1]},
        {"uris": [["at://x"]]},
        {"uris": [], "revokeReason": 1},
        {"uris": [], "revokeReason": None},
        {"uris": ["https://example.com"]},
    ],
)
async def test_an_input_that_does_not_fit_the_lexicon_is_refused(world: World, body: Any) -> None:
    assert await posted(world, json.dumps(body).encode()) == (400, "InvalidRequest")


async def test_fields_that_the_lexicon_does_not_know_are_accepted(world: World) -> None:
    body = {"uris": [], "$type": "x", "new": {"deep": [1, None, True]}}
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, body)
    assert answer.json() == {"revokedVerifications": [], "failedRevocations": []}


def sized(size: int) -> bytes:
    """Return a good body of just so many bytes."""
    return b'{"uris":[]' + b" " * (size - 11) + b"}"


async def chunked(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_body_may_be_as_long_as_the_limit(world: World, in_chunks: bool) -> None:
    content = sized(MAX_BODY)
    headers = {
        "authorization": f"Bearer {world.token(ALICE, REVOKE_VERIFICATIONS)}",
        "content-type": "application/json",
    }
    answer = await world.request(
        "POST", PATH, content=chunked(content) if in_chunks else content, headers=headers
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_body_may_not_be_longer(world: World, in_chunks: bool) -> None:
    content = sized(MAX_BODY + 1)
    refused = await posted(world, chunked(content) if in_chunks else content)
    assert refused == (413, "PayloadTooLarge")


async def test_a_body_that_only_says_that_it_is_long_is_not_waited_for(world: World) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n"
    assert (await exchange(world, head.encode())).startswith(b"HTTP/1.1 413")


async def test_a_body_that_does_not_come_is_not_waited_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BODY_WITHIN", 0.1)
    token = world.token(ALICE, REVOKE_VERIFICATIONS)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{"
    )
    answer = await exchange(world, head.encode())
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"did not arrive in time" in answer


@pytest.mark.parametrize("before", [b"", b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nX: "])
async def test_a_head_that_does_not_come_does_not_keep_a_connection(
    world: World, monkeypatch: pytest.MonkeyPatch, before: bytes, start: bytes
) -> None:
    monkeypatch.setattr(http_server, "HEAD_WITHIN", 0.2)
    port = int(world.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if before:
            writer.write(before)
            await reader.readuntil(b"}")  # an answer that is complete
        async with asyncio.timeout(2):
            for byte in start + b"x" * (100 if start else 0):
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)
                if reader.at_eof():
                    break
            if start or not before:  # else it is kept alive for a while
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
    finally:
        writer.close()


async def test_a_head_that_comes_leaves_the_answer_all_its_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_WITHIN", 0.1)

    async def slow(*_: object) -> dict[str, Any]:
        await asyncio.sleep(0.4)
        return {"revokedVerifications": [], "failedRevocations": []}

    monkeypatch.setitem(METHODS, REVOKE_VERIFICATIONS, Method(slow))
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    assert answer.status_code == 200


async def test_a_head_without_an_end_is_not_read(world: World) -> None:
    head = f"GET / HTTP/1.1\r\nHost: x\r\nX: {'x' * 1_000_000}\r\n\r\n"
    assert (await exchange(world, head.encode())).startswith(b"HTTP/1.1 431")


async def exchange(world: World, raw: bytes) -> bytes:
    """Send these bytes and return what comes within two seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
    try:
        writer.write(raw)
        async with asyncio.timeout(2):
            return await reader.read(65_536)
    finally:
        writer.close()


# --- browsers ---


@pytest.mark.parametrize(
    "path", [PATH, f"/xrpc/{REVOKE_INVITE}", "/xrpc/com.example.unknown", "/.well-known/did.json"]
)
async def test_a_preflight_allows_what_explorers_send(world: World, path: str) -> None:
    wanted = "authorization,content-type,atproto-proxy,atproto-accept-labelers"
    headers = {
        "origin": "https://explorer.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": wanted,
    }
    answer = await world.request("OPTIONS", path, headers=headers)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    assert set(wanted.split(",")) <= set(allowed)
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_page_may_read_a_good_answer(world: World) -> None:
    headers = {
        "origin": "null",
        "authorization": f"Bearer {world.token(ALICE, REVOKE_VERIFICATIONS)}",
    }
    answer = await world.request("POST", PATH, json={"uris": []}, headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


# --- our own faults ---


@pytest.mark.parametrize(
    "broken",
    [
        RuntimeError("database password is hunter2"),
        KeyError("uris"),
        AssertionError(),
        ValueError("x"),
    ],
)
async def test_our_own_fault_is_logged_and_not_told(
    world: World, monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    async def fail(*_: object) -> dict[str, Any]:
        raise broken

    monkeypatch.setitem(METHODS, REVOKE_VERIFICATIONS, Method(fail))
    with capture_logs() as entries:
        refused = await posted(world, b'{"uris":[]}')
        answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})

    assert refused == (500, "InternalServerError")
    assert str(broken) == "" or str(broken) not in answer.text
    assert [(e["event"], e["method"]) for e in entries] == [
        ("request.failed", REVOKE_VERIFICATIONS)
    ] * 2
    assert entries[0]["exc_info"]


async def test_an_output_that_does_not_fit_the_lexicon_is_our_own_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lie(*_: object) -> dict[str, Any]:
        return {"revokedVerifications": ["not a URI"], "failedRevocations": []}

    monkeypatch.setitem(METHODS, REVOKE_VERIFICATIONS, Method(lie))
    assert await posted(world, b'{"uris":[]}') == (500, "InternalServerError")


async def test_a_call_that_fails_does_not_end_the_service(world: World) -> None:
    await posted(world, b"{")
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    assert answer.status_code == 200


# --- the service's own document ---


async def test_the_document_of_the_service_says_where_it_is(world: World) -> None:
    answer = await world.request("GET", "/.well-known/did.json", headers={"origin": "https://x.y"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    found = answer.json()
    assert found["id"] == "did:web:rescind.test"
    [service] = found["service"]
    assert service["id"] == "#rescind"
    assert service["serviceEndpoint"] == "https://rescind.test"


async def test_a_stranger_s_token_for_another_service_is_refused(world: World) -> None:
    token = world.token(STRANGER, REVOKE_VERIFICATIONS, aud="did:web:other.test")
    headers = {"authorization": f"Bearer {token}"}
    assert await refusal(world, "POST", PATH, json={"uris": []}, headers=headers) == (
        401,
        "BadJwtAudience",
    )


# --- how much of the caller's repo has arrived ---

OLD, NEW = "3kaaaaaaaaa22", "3kbbbbbbbbb22"


async def show(world: World, rev: str, since: str | None) -> None:
    record = {"$type": SPACE, "createdAt": CREATED_AT}
    write = Write("create", SPACE, rev, cid_of(rev), None, block(record))
    await world.show(ALICE, rev, since, write)


def showing(world: World, output: dict[str, Any]) -> Method:
    """Return a method during which the firehose shows another commit of the caller."""

    async def handler(*_: object) -> dict[str, Any]:
        await show(world, NEW, OLD)
        return output

    return Method(handler)


async def test_a_caller_whose_repo_is_not_tracked_is_told_nothing_of_it(world: World) -> None:
    answer = await world.call(STRANGER, REVOKE_VERIFICATIONS, {"uris": []})
    assert answer.status_code == 200
    assert "atproto-repo-rev" not in answer.headers


async def test_a_caller_is_told_up_to_where_his_repo_has_arrived(world: World) -> None:
    await show(world, OLD, None)
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    assert answer.headers["atproto-repo-rev"] == OLD
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {})
    assert (answer.status_code, answer.headers["atproto-repo-rev"]) == (400, OLD)
    answer = await world.call(STRANGER, REVOKE_VERIFICATIONS, {"uris": []})
    assert "atproto-repo-rev" not in answer.headers
    assert "atproto-repo-rev" not in (await world.request("POST", PATH, json={})).headers


async def test_a_repo_with_a_gap_has_arrived_up_to_the_gap(world: World) -> None:
    await show(world, OLD, None)
    await show(world, NEW, "3kaaaaaaaaa2z")
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    assert answer.headers["atproto-repo-rev"] == OLD


async def test_a_query_has_at_least_what_its_header_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await show(world, OLD, None)
    monkeypatch.setitem(METHODS, LIST_SPACES, showing(world, {"spaces": []}))
    answer = await world.ask(ALICE, LIST_SPACES)
    assert (answer.status_code, answer.headers["atproto-repo-rev"]) == (200, OLD)


async def test_a_write_that_has_come_round_meanwhile_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await show(world, OLD, None)
    method = showing(world, {"revokedVerifications": [], "failedRevocations": []})
    monkeypatch.setitem(METHODS, REVOKE_VERIFICATIONS, method)
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    assert (answer.status_code, answer.headers["atproto-repo-rev"]) == (200, NEW)
