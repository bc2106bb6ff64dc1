"""Guests with tokens, and owners who make and revoke them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.store import invite_tokens
from tests.support.guests import REDEEM, TOKEN
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    INVITE,
    REVOKE_INVITE,
    World,
    did,
    make_world,
)
from xrpc.publishing import publisher
from xrpc.tokens import hash_of

REFUSED = (400, "InvalidInvite")
DAVE = did("dave")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE)
        await made.account(BOB)
        for caller in (CAROL, DAVE):
            made.name(caller, "https://pds.test")
        yield made


async def mint(world: World, token: str, space: str) -> None:
    """Note what `invite.create` does of a token that it makes."""
    async with world.db.transaction() as tx:
        uri = f"at://{space.split('/')[2]}/{INVITE}/one"
        await invite_tokens.note_created(tx, space, hash_of(token), uri)


async def revoke(world: World, space: str, token: str = TOKEN) -> int:
    body = {"spaceUri": space, "tokenHash": hash_of(token)}
    return (await world.call(space.split("/")[2], REVOKE_INVITE, body)).status_code


async def sentence(world: World, caller: str, token: str = TOKEN) -> str:
    answer = await world.call(caller, REDEEM, {"token": token})
    assert (answer.status_code, answer.json()["error"]) == REFUSED
    return str(answer.json()["message"])
