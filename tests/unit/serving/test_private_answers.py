"""No cache keeps what is said to one caller, be it an answer or a refusal."""

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from indexer.lexicon.interpreter import Lexicons
from tests.support.method_cases import CASES, TOKEN, Asked, joined
from tests.support.xrpc_world import ALICE, BOB, CAROL, REVOKE_INVITE, World, make_world
from xrpc.methods.table import METHODS, Method
from xrpc.serving import endpoint as module

LEXICONS = Lexicons.load(files("xrpc") / "lexicons")
LIST_SPACES = "rsvp.atmo.space.listSpaces"
GET_SPACE = "rsvp.atmo.space.getSpace"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path, verifier=CAROL) as made, made.serving():
        for did in (ALICE, BOB, CAROL):
            await made.account(did)
        async with made.streaming():
            yield made


def is_private(answer: httpx.Response) -> bool:
    return answer.headers.get_list("cache-control") == ["no-store"]


async def ask(world: World, nsid: str, asked: Asked) -> httpx.Response:
    """Call a method as its kind is called."""
    if LEXICONS.kind(nsid) == "query":
        return await world.ask(asked.caller, nsid, **asked.given)
    return await world.call(asked.caller, nsid, asked.given)


@pytest.mark.parametrize("nsid", METHODS)
async def test_what_a_method_answers_is_for_its_caller_alone(world: World, nsid: str) -> None:
    answer = await ask(world, nsid, await CASES[nsid].works(world))
    assert answer.status_code == 200
    assert is_private(answer)


@pytest.mark.parametrize(
    ("nsid", "error"), [(nsid, error) for nsid in METHODS for error in CASES[nsid].fails]
)
async def test_how_a_method_refuses_is_for_its_caller_alone(
    world: World, nsid: str, error: str
) -> None:
    answer = await ask(world, nsid, await CASES[nsid].fails[error](world))
    assert answer.json()["error"] == error
    assert is_private(answer)


async def test_what_an_invite_s_token_shows_is_for_its_holder_alone(world: World) -> None:
    space = await joined(world)
    for token, status in ((TOKEN, 200), ("another", 403)):
        answer = await world.ask(None, GET_SPACE, uri=space, inviteToken=token)
        assert answer.status_code == status
        assert is_private(answer)


async def test_every_refusal_is_kept_by_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> dict[str, Any]:
        raise RuntimeError

    async def sleep(*_: object) -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    token = {"authorization": f"Bearer {world.token(ALICE, REVOKE_INVITE)}"}
    answers = [
        await world.request("POST", f"/xrpc/{REVOKE_INVITE}", json={}),  # 401
        await world.request("POST", f"/xrpc/{REVOKE_INVITE}", content=b"{", headers=token),  # 400
        await world.request("GET", f"/xrpc/{REVOKE_INVITE}"),  # 405
        await world.request("GET", "/xrpc/com.example.unknown"),  # 501
        await world.request("GET", f"/xrpc/{LIST_SPACES}?x={'x' * 20_000}"),  # 400
        await world.request("GET", f"/xrpc/{LIST_SPACES}?x={'x' * 40_000}"),  # 431
        await world.request("POST", f"/xrpc/{REVOKE_INVITE}", content=b"x" * 300_000),  # 413
        await world.request("GET", "/nowhere"),  # 404
        await world.request("DELETE", "/"),  # 405
        await world.request("PUT", "/xrpc/_health"),  # 405
    ]
    monkeypatch.setitem(METHODS, LIST_SPACES, Method(fail))
    answers.append(await world.ask(ALICE, LIST_SPACES))
    assert [answer.status_code for answer in answers] == [
        401, 400, 405, 501, 400, 431, 413, 404, 405, 405, 500,
    ]  # fmt: skip
    assert all(map(is_private, answers))


async def test_what_is_everybody_s_may_be_kept(world: World) -> None:
    for path in ("/", "/.well-known/did.json", f"/lexicons/{REVOKE_INVITE}.json"):
        answer = await world.request("GET", path)
        assert answer.status_code == 200
        assert "cache-control" not in answer.headers


async def test_what_is_refused_for_want_of_time_or_room_is_kept_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def wait(*_: object) -> dict[str, Any]:
        await gate.wait()
        return {"spaces": []}

    monkeypatch.setitem(METHODS, LIST_SPACES, Method(wait))
    async with make_world(tmp_path, request_timeout=0.05) as world, world.serving():
        await world.account(ALICE, session=False)
        late = await world.ask(ALICE, LIST_SPACES)
        monkeypatch.setattr(module.Endpoint, "_check_room", _no_room)
        crowded = await world.ask(ALICE, LIST_SPACES)
    assert (late.status_code, crowded.status_code) == (504, 503)
    assert is_private(late)
    assert is_private(crowded)


def _no_room(_: object) -> None:
    raise module.NotEnoughResourcesError("too many calls are under way")
