"""Whatever a PDS answers is one of three things: done, not now, or no."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from indexer.net.guard import guarded_client
from tests.support.fake_pds import (
    APPLY,
    DELETE,
    GET,
    LATEST,
    LOG_IN,
    LOG_OUT,
    REFRESH,
    FakePds,
    Fault,
    cid_of,
    drip,
    drop,
    fake_pds,
    flood,
    hang,
    raw,
    says,
)
from tests.support.xrpc_world import ALICE, VERIFICATION
from xrpc.publishing import pds as module
from xrpc.publishing.pds import (
    AccountInactiveError,
    PdsClient,
    PdsError,
    PdsRefusedError,
    PdsUnavailableError,
    Target,
    TokenRefusedError,
    Tokens,
)

TARGET = Target(f"at://{ALICE}/{VERIFICATION}/one", ALICE, VERIFICATION, "one")
PASSWORD = "abcd-efgh-ijkl-mnop"


@pytest.fixture
async def pds() -> AsyncIterator[FakePds]:
    async with fake_pds() as made:
        made.add(ALICE, PASSWORD)
        made.write(ALICE, f"{VERIFICATION}/one", {})
        yield made


@pytest.fixture
async def client() -> AsyncIterator[PdsClient]:
    async with guarded_client(allow_private=True) as http:
        yield PdsClient(http)


async def failure(pds: FakePds, client: PdsClient, fault: Fault) -> PdsError:
    """Return what `delete_record` raises for this fault."""
    access, _ = pds.session(ALICE)
    pds.fail(DELETE, fault)
    with pytest.raises(PdsError) as caught:
        await client.delete_record(pds.url, access, TARGET)
    return caught.value


async def test_each_call_is_what_the_lexicons_say(pds: FakePds, client: PdsClient) -> None:
    tokens = await client.create_session(pds.url, ALICE, PASSWORD)
    tokens = await client.refresh_session(pds.url, tokens.refresh)
    rev = await client.latest_rev(pds.url, ALICE)
    assert rev == pds.revs[ALICE]
    assert await client.record_cid(pds.url, TARGET) == cid_of({})
    deleted = await client.delete_record(pds.url, tokens.access, TARGET)
    assert deleted is not None
    assert deleted > rev
    assert await client.delete_record(pds.url, tokens.access, TARGET) is None
    assert await client.record_cid(pds.url, TARGET) is None
    pds.write(ALICE, f"{VERIFICATION}/one", {})
    assert await client.delete_records(pds.url, tokens.access, [TARGET]) > deleted
    await client.delete_session(pds.url, tokens.refresh)

    verbs = {call.nsid: call.head.split(" ")[0] for call in pds.calls}
    assert verbs == {
        GET: "GET", LATEST: "GET", LOG_IN: "POST", REFRESH: "POST", LOG_OUT: "POST", APPLY: "POST",
        DELETE: "POST",
    }  # fmt: skip
    for nsid in (REFRESH, LOG_OUT):  # procedures without an input have no body and no type of it
        [call] = pds.of(nsid)
        assert "content-type" not in call.head.lower()
        assert call.input == {}
    for nsid in (GET, LATEST, LOG_IN):  # and no token goes where none is needed
        assert all(call.token is None for call in pds.of(nsid))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (says(400, "ExpiredToken", "Token has expired"), TokenRefusedError),
        (says(400, "InvalidToken"), TokenRefusedError),
        (says(401, "AuthMissing"), TokenRefusedError),
        (says(400, "InvalidRequest"), PdsRefusedError),
        (says(403, "Forbidden"), PdsRefusedError),
        (says(404, "NotFound"), PdsRefusedError),
        (says(501, "MethodNotImplemented"), PdsUnavailableError),
        (says(429, "RateLimitExceeded"), PdsUnavailableError),
        (says(500, "InternalServerError"), PdsUnavailableError),
        (says(502, "UpstreamFailure"), PdsUnavailableError),
        (says(503), PdsUnavailableError),
        (raw(400, b"bad request"), PdsUnavailableError),
        (raw(401, b""), TokenRefusedError),
        (raw(401, b"<h1>401: Unauthorized</h1>"), TokenRefusedError),
        (says(401, "AccountDeactivated"), AccountInactiveError),
        (says(401, "AccountTakedown"), AccountInactiveError),
        (raw(403, b"<html>"), PdsUnavailableError),
        (raw(404, b'{"error":7}'), PdsUnavailableError),
        (raw(404, b'{"error":["x"],"message":{}}'), PdsUnavailableError),
        (raw(400, b'{"error":"A","error":"B"}'), PdsUnavailableError),
        (raw(301, b"", "Location: https://elsewhere.example/"), PdsUnavailableError),
        (raw(204, b""), PdsUnavailableError),
        (drop, PdsUnavailableError),
    ],
)
async def test_an_answer_says_who_must_act(
    pds: FakePds, client: PdsClient, fault: Fault, error: type[PdsError]
) -> None:
    assert type(await failure(pds, client, fault)) is error


async def test_a_redirect_gets_no_token(pds: FakePds, client: PdsClient) -> None:
    async with fake_pds() as other:
        error = await failure(pds, client, raw(307, b"", f"Location: {other.url}/xrpc/{DELETE}"))
        assert "307" in str(error)
        assert other.calls == []


@pytest.mark.parametrize("fault", [hang, drip, flood])
async def test_a_call_ends_whatever_the_pds_does(
    pds: FakePds, client: PdsClient, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALL_DEADLINE", 0.3)
    started = time.monotonic()
    error = await failure(pds, client, fault)
    assert time.monotonic() - started < 1.5
    assert isinstance(error, PdsUnavailableError)
    assert error.status is None
    assert str(error) in ("no answer: timeout", "no answer: too_large")


async def test_a_flood_is_cut_off(
    pds: FakePds, client: PdsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 100_000)
    assert str(await failure(pds, client, flood)) == "no answer: too_large"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ((), None),
        (("Retry-After: 30",), 30),
        (("Retry-After:  30 ",), 30),
        (("Retry-After: 0",), 0),
        (("Retry-After: 999999999999999999999999",), 3600),
        (("Retry-After: " + "9" * 400,), 3600),
        (("Retry-After: -5",), None),
        (("Retry-After: 1.5",), None),
        (("Retry-After: soon",), None),
        (("Retry-After: nan",), None),
        (
            (
                "Retry-After: Fri, 15 Jan 2027 08:01:00 GMT",
                "Date: Fri, 15 Jan 2027 08:00:00 GMT",
            ),
            60,
        ),
        (
            (
                "Retry-After: Fri, 15 Jan 2027 07:00:00 GMT",
                "Date: Fri, 15 Jan 2027 08:00:00 GMT",
            ),
            0,
        ),
        (("Retry-After: Fri, 15 Jan 2027 08:01:00 GMT",), None),
        (("Retry-After: Fri, 99 Jan 2027 08:01:00 GMT", "Date: x"), None),
        (("RateLimit-Reset: 1800000120", "Date: Fri, 15 Jan 2027 08:00:00 GMT"), 120),
        (("RateLimit-Reset: inf", "Date: Fri, 15 Jan 2027 08:00:00 GMT"), None),
        (("RateLimit-Reset: 1800000120",), None),
    ],
)
async def test_the_time_that_a_pds_names_is_understood_or_left_out(
    pds: FakePds, client: PdsClient, headers: tuple[str, ...], seconds: float | None
) -> None:
    error = await failure(pds, client, says(429, "RateLimitExceeded", "", *headers))
    assert isinstance(error, PdsUnavailableError)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"did":"alice.test","accessJwt":"a","refreshJwt":"r"}',
        b'{"did":"did:plc:aliceaaaaaaaaaaaaaaaaaaa","accessJwt":"a"}',
        b'{"did":"did:plc:aliceaaaaaaaaaaaaaaaaaaa","accessJwt":1,"refreshJwt":"r"}',
        b'{"did":"did:plc:aliceaaaaaaaaaaaaaaaaaaa","accessJwt":"a","refreshJwt":null}',
    ],
)
async def test_a_session_without_its_parts_is_none(
    pds: FakePds, client: PdsClient, body: bytes
) -> None:
    pds.fail(LOG_IN, raw(200, body))
    with pytest.raises(PdsUnavailableError):
        await client.create_session(pds.url, ALICE, PASSWORD)


async def test_a_handle_that_is_none_is_left_out(pds: FakePds, client: PdsClient) -> None:
    pds.fail(
        LOG_IN,
        raw(
            200,
            b'{"did":"did:plc:aliceaaaaaaaaaaaaaaaaaaa","handle":"\\u001b[2J","accessJwt":"a",'
            b'"refreshJwt":"r"}',
        ),
    )
    assert (await client.create_session(pds.url, ALICE, PASSWORD)).handle is None


@pytest.mark.parametrize("body", [b"{}", b'{"cid":7}', b'{"cid":"x"}', b"[]", b"x"])
async def test_a_record_without_a_cid_is_not_taken_for_missing(
    pds: FakePds, client: PdsClient, body: bytes
) -> None:
    pds.fail(GET, raw(200, body))
    with pytest.raises(PdsUnavailableError):
        await client.record_cid(pds.url, TARGET)


@pytest.mark.parametrize("body", [b"{}", b'{"rev":7}', b'{"rev":"zzzzzzzzzzzzz"}', b"x"])
async def test_a_rev_that_is_none_is_not_taken(
    pds: FakePds, client: PdsClient, body: bytes
) -> None:
    pds.fail(LATEST, raw(200, body))
    with pytest.raises(PdsUnavailableError):
        await client.latest_rev(pds.url, ALICE)


async def test_a_wrong_password_is_refused_without_repeating_it(
    pds: FakePds, client: PdsClient
) -> None:
    with pytest.raises(PdsRefusedError) as caught:
        await client.create_session(pds.url, ALICE, "wrong-pass-word-here")
    assert str(caught.value) == "AuthenticationRequired: Invalid identifier or password"


async def test_what_a_pds_says_is_cut_short_and_printable(pds: FakePds, client: PdsClient) -> None:
    error = await failure(pds, client, says(400, "E" * 5000, "\x1b[2J" + "m\n" * 5000))
    assert str(error).isprintable()
    assert len(str(error)) <= 2 * module.MAX_MESSAGE + 2


async def test_nothing_answers_there(client: PdsClient, pds: FakePds) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for _ in range(2):
        with pytest.raises(PdsUnavailableError, match="no answer: unreachable"):
            await client.latest_rev(f"http://127.0.0.1:{port}", ALICE)
        server.close()


def test_tokens_are_not_shown() -> None:
    shown = repr(Tokens(ALICE, None, "secret-a", "secret-r"))
    assert "secret" not in shown
