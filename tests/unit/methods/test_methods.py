"""Every method keeps what its lexicon document says; a method that is added is tested at once."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.support.lexicon_cases import Edge, Fault, example
from tests.support.method_cases import CASES, Asked
from tests.support.served_methods import DESCRIBED, Service, serving
from tests.support.xrpc_world import ALICE, BOB, CAROL, STRANGER
from xrpc.methods.table import METHODS, Method
from xrpc.publishing import publisher
from xrpc.services import Call, Services

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUERIES = [nsid for nsid, document in DESCRIBED.items() if document.is_query]
PROCEDURES = [nsid for nsid in DESCRIBED if nsid not in QUERIES]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for all that is refused, or does nothing."""
    async with serving(tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service of its own, with people, to be changed."""
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with serving(tmp_path) as made, made.world.streaming():
        for account in (ALICE, BOB, CAROL):
            await made.world.account(account)
        yield made


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the handlers, which do no more than to answer what fits."""
    calls: list[dict[str, Any]] = []

    def listener(nsid: str) -> Method:
        async def listen(_: Services, call: Call) -> dict[str, Any]:
            calls.append(call.input)
            made: dict[str, Any] = example(DESCRIBED[nsid].output)
            return made

        return Method(listen, METHODS[nsid].is_open)

    for nsid in DESCRIBED:
        monkeypatch.setitem(METHODS, nsid, listener(nsid))
    return calls


def each_edge() -> list[Any]:
    return [
        pytest.param(nsid, edge, id=f"{nsid}-{edge.about}")
        for nsid, document in DESCRIBED.items()
        for edge in document.edges(document.example())
    ]


def each_fault() -> list[Any]:
    return [
        pytest.param(nsid, fault, id=f"{nsid}-{fault.about}")
        for nsid, document in DESCRIBED.items()
        for fault in document.faults()
    ]


def each_error() -> list[tuple[str, str]]:
    return [(nsid, name) for nsid, document in DESCRIBED.items() for name in document.errors]


# --- who calls, and how ---


@pytest.mark.parametrize("nsid", METHODS)
async def test_a_method_is_called_with_its_verb_only(service: Service, nsid: str) -> None:
    document = DESCRIBED[nsid]
    for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        if verb != document.verb:
            answer = await service.send(verb, nsid)
            assert (answer.status_code, answer.json()["error"]) == (405, "MethodNotAllowed")
            assert answer.headers["allow"] == document.verb


@pytest.mark.parametrize("nsid", METHODS)
async def test_a_method_is_for_a_proven_caller(
    service: Service, nsid: str, heard: list[dict[str, Any]]
) -> None:
    document = DESCRIBED[nsid]
    tokens = {
        "AuthMissing": "Basic YWxpY2U6c2VjcmV0",
        "BadJwt": "Bearer a.b.c",
        "BadJwtLexiconMethod": f"Bearer {service.world.token(STRANGER, 'com.example.other')}",
    }
    for error, token in tokens.items():
        headers = {"authorization": token}
        options = document.options(document.example())
        answer = await service.send(document.verb, nsid, caller=None, headers=headers, **options)
        assert (answer.status_code, answer.json()["error"]) == (401, error)
    assert heard == []


@pytest.mark.parametrize("nsid", METHODS)
async def test_without_a_token_the_least_that_a_method_takes_is_refused(
    service: Service, nsid: str
) -> None:
    document = DESCRIBED[nsid]
    options = document.options(document.example())
    answer = await service.send(document.verb, nsid, caller=None, **options)
    assert (answer.status_code, answer.json()["error"]) == (401, "AuthMissing")


# --- what it takes ---


@pytest.mark.parametrize(("nsid", "edge"), each_edge())
async def test_what_fits_the_document_reaches_the_handler_as_it_is_with_defaults(
    service: Service, heard: list[dict[str, Any]], nsid: str, edge: Edge
) -> None:
    document = DESCRIBED[nsid]
    answer = await service.send(document.verb, nsid, **document.options(edge.given))
    assert answer.status_code == 200, answer.text
    assert heard == [edge.expected]


@pytest.mark.parametrize(("nsid", "fault"), each_fault())
async def test_what_does_not_fit_the_document_is_refused_and_its_place_is_named(
    service: Service, heard: list[dict[str, Any]], nsid: str, fault: Fault
) -> None:
    answer = await service.send(DESCRIBED[nsid].verb, nsid, **fault.options)
    assert (answer.status_code, answer.json()["error"]) == (400, "InvalidRequest")
    place, _, _ = answer.json()["message"].partition(" ")
    assert place == fault.place
    assert heard == []


def bodies(nsid: str) -> Iterator[tuple[str, bytes]]:
    """Yield bodies that are no strict JSON object, each almost a good one."""
    good = json.dumps(DESCRIBED[nsid].example()).encode()
    more = b"{" + b"," * (good != b"{}") + good[1:]

    def also(field: bytes) -> bytes:
        return b"{" + b'"later":' + field + more[1:]

    yield "nothing", b""
    yield "blank", b" "
    yield "half", good[:-1]
    yield "trailing bytes", good + b"x"
    yield "a second value", good + good
    yield "a byte order mark", b"\xef\xbb\xbf" + good
    yield "UTF-16", good.decode().encode("utf-16")
    yield "another encoding", also(b'"\xff"')
    yield "a key twice", also(b'1,"later":1')
    yield "a key twice, within", also(b'{"a":1,"a":1}')
    yield "no number of JSON", also(b"NaN")
    yield "a number beyond all", also(b"1e999")
    yield "a fraction", also(b"0.5")
    yield "an integer beyond 64 bits", also(b"9223372036854775808")
    yield "half a character", also(b'"\\ud800"')
    yield "too deep", also(b"[" * 40 + b"]" * 40)
    yield "far too deep", b"[" * 100_000
    yield "single quotes", good.replace(b'"', b"'") if b'"' in good else b"{'a':1}"
    for value in (b"null", b"true", b"1", b'"x"', b"[]", b"[" + good + b"]"):
        yield value.decode()[:9], value


@pytest.mark.parametrize("nsid", PROCEDURES)
async def test_a_body_is_one_strict_json_object(
    service: Service, heard: list[dict[str, Any]], nsid: str
) -> None:
    headers = {"content-type": "application/json"}
    for about, content in bodies(nsid):
        answer = await service.send("POST", nsid, content=content, headers=headers)
        found = (about, answer.status_code, answer.json()["error"])
        assert found == (about, 400, "InvalidRequest")
    assert heard == []


@pytest.mark.parametrize("nsid", PROCEDURES)
async def test_a_body_may_be_as_long_as_the_limit_and_no_longer(
    service: Service, heard: list[dict[str, Any]], nsid: str
) -> None:
    good = json.dumps(DESCRIBED[nsid].example()).encode()
    headers = {"content-type": "application/json"}
    limit = service.world.settings.max_body
    answer = await service.send("POST", nsid, content=good.ljust(limit), headers=headers)
    assert answer.status_code == 200
    answer = await service.send("POST", nsid, content=good.ljust(limit + 1), headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (413, "PayloadTooLarge")
    assert len(heard) == 1


@pytest.mark.parametrize("nsid", QUERIES)
async def test_parameters_may_be_as_long_as_the_limit_and_no_longer(
    service: Service, heard: list[dict[str, Any]], nsid: str
) -> None:
    good = httpx.QueryParams(DESCRIBED[nsid].options(DESCRIBED[nsid].example())["params"])
    start = f"{good}&later=".removeprefix("&")
    limit = service.world.settings.max_params
    answer = await service.send("GET", nsid, params=start.ljust(limit, "x"))
    assert answer.status_code == 200
    answer = await service.send("GET", nsid, params=start.ljust(limit + 1, "x"))
    assert (answer.status_code, answer.json()["error"]) == (400, "InvalidRequest")
    assert len(heard) == 1


@pytest.mark.parametrize("nsid", PROCEDURES)
async def test_a_body_says_that_it_is_json(
    service: Service, heard: list[dict[str, Any]], nsid: str
) -> None:
    content = json.dumps(DESCRIBED[nsid].example()).encode()
    for media_type in ("", "text/plain", "application/jsonx", "application/cbor", "json"):
        headers = {"content-type": media_type}
        answer = await service.send("POST", nsid, content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "InvalidRequest")
    assert heard == []
    headers = {"content-type": "Application/JSON ; charset=utf-8"}
    answer = await service.send("POST", nsid, content=content, headers=headers)
    assert answer.status_code == 200
    assert len(heard) == 1


# --- what it does ---


@pytest.mark.parametrize("nsid", METHODS)
async def test_a_method_works(fresh: Service, nsid: str) -> None:
    answer = await fresh.ask(nsid, await CASES[nsid].works(fresh.world))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("nsid", "error"), each_error())
async def test_a_method_fails_as_it_declares(fresh: Service, nsid: str, error: str) -> None:
    answer = await fresh.ask(nsid, await CASES[nsid].fails[error](fresh.world))
    assert (answer.status_code != 200, answer.json()["error"]) == (True, error)


@pytest.mark.parametrize("nsid", METHODS)
async def test_whatever_fits_the_document_is_answered_by_it(fresh: Service, nsid: str) -> None:
    """One call after the other, in a world that the calls before have changed."""
    document = DESCRIBED[nsid]
    asked = await CASES[nsid].works(fresh.world)
    known = {"InvalidRequest", *document.errors}
    with capture_logs() as entries:
        for edge in document.edges(asked.given):
            answer = await fresh.ask(nsid, Asked(asked.caller, edge.given))
            assert answer.status_code == 200 or answer.json()["error"] in known, edge.about
    assert [entry for entry in entries if entry["log_level"] in ("error", "critical")] == []
