"""A procedure takes a token once, also over a restart: it is written with what the call does."""

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from indexer.lexicon.interpreter import Lexicons
from indexer.store.db import Database
from tests.support.lexicon_cases import Document
from tests.support.method_cases import CASES, Asked
from tests.support.xrpc_world import ALICE, BOB, CAROL, NOW, World, make_world
from xrpc.auth.callers import Caller
from xrpc.auth.used_tokens import UsedToken
from xrpc.errors import AuthRequiredError, XrpcError
from xrpc.methods.table import METHODS
from xrpc.publishing import publisher
from xrpc.services import Call

LEXICONS = Lexicons.load(files("xrpc") / "lexicons")
PROCEDURES = [nsid for nsid in METHODS if not Document(nsid).is_query]
KEY = b"k" * 32


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path, verifier=CAROL) as made, made.streaming(), made.serving():
        for account in (ALICE, BOB, CAROL):
            await made.account(account)
        yield made


def call(nsid: str, asked: Asked) -> Call:
    """Return a call as it comes to a method, with its token."""
    token = UsedToken(asked.caller, KEY, int(NOW + 120) * 1000)
    given = LEXICONS.input(nsid, asked.given)
    return Call(Caller(asked.caller, token), given, asyncio.get_running_loop().time())


async def answer(world: World, nsid: str, made: Call) -> dict[str, Any]:
    return await METHODS[nsid].handler(world.services, made)


async def keys(world: World) -> list[bytes]:
    return [row["key"] for row in await world.db.all("select key from used_tokens")]


async def effects(world: World) -> dict[str, Any]:
    """Return all that a call can change: the other tables, and the repos."""
    tables = await world.db.all("select name from sqlite_schema where type = 'table'")
    found: dict[str, Any] = {
        name: [tuple(row) for row in await world.db.all(f"select * from {name}")]
        for (name,) in tables
        if name != "used_tokens"
    }
    return found | {"commits": list(world.pds.commits)}


@pytest.mark.parametrize("nsid", PROCEDURES)
async def test_a_method_itself_writes_the_token(world: World, nsid: str) -> None:
    asked = await CASES[nsid].works(world)
    before = await effects(world)
    await answer(world, nsid, made := call(nsid, asked))
    assert KEY in await keys(world)
    assert made.caller.token is not None
    assert made.caller.token.is_written
    assert await effects(world) != before  # else this would show nothing


@pytest.mark.parametrize("nsid", PROCEDURES)
async def test_what_can_not_write_the_token_does_nothing(world: World, nsid: str) -> None:
    asked = await CASES[nsid].works(world)
    async with world.db.transaction() as tx:
        await tx.execute(
            """
            create trigger full before insert on used_tokens
            begin select raise(abort, 'full'); end
            """
        )
    before = await effects(world)
    with pytest.raises(Exception, match="full"):
        await answer(world, nsid, call(nsid, asked))
    assert await effects(world) == before


@pytest.mark.parametrize("nsid", PROCEDURES)
async def test_a_token_that_another_process_used_does_nothing(
    world: World, tmp_path: Path, nsid: str
) -> None:
    asked = await CASES[nsid].works(world)
    made = call(nsid, asked)
    async with await Database.open(tmp_path / "rescind.db") as other, other.transaction() as tx:
        await tx.execute(
            "insert into used_tokens values (:key, :issuer, :ends_at)",
            {"key": KEY, "issuer": asked.caller, "ends_at": int(NOW + 120) * 1000},
        )
    before = await effects(world)
    with pytest.raises(AuthRequiredError) as caught:
        await answer(world, nsid, made)
    assert caught.value.error == "JwtReplayed"
    assert await effects(world) == before


async def post(world: World, nsid: str, asked: Asked, token: str) -> tuple[int, str | None]:
    headers = {"authorization": f"Bearer {token}"}
    response = await world.request("POST", f"/xrpc/{nsid}", json=asked.given, headers=headers)
    return response.status_code, response.json().get("error")


@pytest.mark.parametrize("nsid", PROCEDURES)
async def test_a_restart_takes_no_used_token_again(world: World, nsid: str) -> None:
    asked = await CASES[nsid].works(world)
    token = world.token(asked.caller, nsid)
    assert await post(world, nsid, asked, token) == (200, None)
    # The same again: most have nothing to do then, and some fail. A 200 is a use all the same.
    repeated = world.token(asked.caller, nsid)
    status, _ = await post(world, nsid, asked, repeated)
    async with world.serving():
        assert await post(world, nsid, asked, token) == (401, "JwtReplayed")
        if status == 200:
            assert await post(world, nsid, asked, repeated) == (401, "JwtReplayed")


async def test_a_token_whose_call_was_refused_is_not_written(world: World) -> None:
    for nsid in PROCEDURES:
        for arrange in CASES[nsid].fails.values():
            asked = await arrange(world)
            count = len(await keys(world))
            with pytest.raises(XrpcError):
                await answer(world, nsid, call(nsid, asked))
            assert len(await keys(world)) == count


async def test_a_call_from_the_terminal_has_no_token_to_write(world: World) -> None:
    nsid = "rsvp.atmo.space.invite.revoke"
    asked = await CASES[nsid].works(world)
    given = LEXICONS.input(nsid, asked.given)
    made = Call(Caller(asked.caller), given, asyncio.get_running_loop().time())
    assert await answer(world, nsid, made) == {"ok": True}
    assert await keys(world) == []


def test_no_method_writes_past_its_call() -> None:
    sources = [file for file in (files("xrpc") / "methods").iterdir() if file.name.endswith(".py")]
    assert len(sources) >= 10
    assert not [file.name for file in sources if "services.database" in file.read_text()]
