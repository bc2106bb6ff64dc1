"""Who is told to come again is told when, in words: a PDS that proxies passes on no header."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.xrpc_world import ALICE, BOB, STRANGER, World, eventually, make_world
from xrpc.methods.table import METHODS, Method

LIST_SPACES = "rsvp.atmo.space.listSpaces"
GET_SPACE = "rsvp.atmo.space.getSpace"


def told(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and the name; the header and the sentence must name the same seconds."""
    found = re.search(r"try again in (\d+) s$", answer.json()["message"])
    assert found is not None, answer.text
    assert answer.headers["retry-after"] == found[1]
    return answer.status_code, answer.json()["error"]


TOO_MANY = (429, "RateLimitExceeded")
NO_ROOM = (503, "NotEnoughResources")


async def test_an_account_is_told_when_it_may_call_again(tmp_path: Path) -> None:
    async with make_world(tmp_path, rate_limit=1, rate_window=90) as world, world.serving():
        await world.account(ALICE, session=False)
        assert (await world.ask(ALICE, LIST_SPACES)).status_code == 200
        answer = await world.ask(ALICE, LIST_SPACES)
        assert told(answer) == TOO_MANY
        assert answer.headers["retry-after"] == "90"


async def test_an_address_is_told_when_it_may_call_again(tmp_path: Path) -> None:
    async with make_world(tmp_path, rate_limit_address=1, rate_window=90) as world, world.serving():
        space = await world.space(await world.account(ALICE, session=False))
        for caller in (None, BOB):  # as nobody, and with a token that is not looked at any more
            await world.ask(None, GET_SPACE, uri=space, inviteToken="x")
            answer = await world.ask(caller, GET_SPACE, uri=space, inviteToken="x")
            assert told(answer) == TOO_MANY


@asynccontextmanager
async def crowded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> AsyncIterator[tuple[World, Callable[[str], Awaitable[None]]]]:
    """Give a service whose calls don't end, and what brings one of a caller under way."""
    gate, began = asyncio.Event(), []

    async def wait(*_: object) -> dict[str, Any]:
        began.append(None)
        await gate.wait()
        return {"spaces": []}

    async with make_world(folder, **settings) as world, world.serving():
        calls: list[asyncio.Task[httpx.Response]] = []

        async def begin(caller: str) -> None:
            calls.append(asyncio.create_task(world.ask(caller, LIST_SPACES)))

            async def is_there() -> bool:
                return len(began) == len(calls)

            await eventually(is_there)

        for did in (ALICE, BOB):
            await world.account(did, session=False)
            assert (await world.ask(did, "rsvp.atmo.space.listSpaces")).status_code == 200
        monkeypatch.setitem(METHODS, LIST_SPACES, Method(wait))
        try:
            yield world, begin
        finally:
            gate.set()
            await asyncio.gather(*calls)


async def test_who_has_too_many_calls_under_way_is_told_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crowded(tmp_path, monkeypatch, max_requests=4) as (world, begin):
        await begin(ALICE)
        assert told(await world.ask(ALICE, LIST_SPACES)) == TOO_MANY


async def test_when_there_are_too_many_calls_it_is_told_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crowded(tmp_path, monkeypatch, max_requests=4) as (world, begin):
        strangers = [f"did:plc:{letter * 24}" for letter in "bcde"]
        for did in (*strangers, STRANGER):
            world.name(did, "https://pds.test")
        await begin(ALICE)
        for did in strangers[:3]:
            await begin(did)
        assert told(await world.ask(BOB, LIST_SPACES)) == NO_ROOM


async def test_who_finds_too_many_connections_is_told_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crowded(tmp_path, monkeypatch, max_connections=1) as (world, begin):
        await begin(ALICE)
        port = int(world.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1\r\n" in head + b"\r\n"
    assert json.loads(body)["message"].endswith("; try again in 1 s")
