"""Calls of `revokeVerifications`, and what they leave behind."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.xrpc_world import ALICE, BOB, CAROL, REVOKE_VERIFICATIONS, World, make_world
from xrpc.methods import verifications
from xrpc.publishing import publisher


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path, verifier=CAROL) as made, made.serving():
        await made.account(ALICE)
        await made.account(BOB, session=False)
        yield made


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time that a call may take."""
    monkeypatch.setattr(verifications, "ANSWER_WITHIN", 0.8)
    monkeypatch.setattr(verifications, "ASK_WITHIN", 0.4)


async def refused(world: World, body: dict[str, Any]) -> str:
    """Return the error's name of a call that is refused as a whole, and did nothing."""
    before = await everything(world)
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, body)
    assert answer.status_code == 400
    assert await everything(world) == before
    return str(answer.json()["error"])


async def everything(world: World) -> list[object]:
    return [
        [tuple(row) for row in await world.db.all(f"select * from {table} order by 1, 2")]
        for table in ("verifications", "tombstones", "outbox", "audit", "repos")
    ]


async def live(world: World) -> set[str]:
    rows = await world.db.all("select uri from verifications where revoked = 0")
    return {row["uri"] for row in rows}


def in_repo(world: World, uri: str) -> bool:
    _, _, repo, collection, rkey = uri.split("/")
    return f"{collection}/{rkey}" in world.pds.repos[repo]


async def is_sent(world: World, uri: str) -> bool:
    return (await world.row(uri)).state in ("sent", "confirmed")
