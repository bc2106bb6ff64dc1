"""Verifications whose deletion a publisher is asked for, and how far it is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fake_pds import DELETE
from tests.support.xrpc_world import World, make_world
from xrpc.publishing import publisher


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path) as made:
        yield made


async def granted(world: World, issuer: str, count: int = 1) -> list[str]:
    """Return verifications that stand in the repo, whose deletion is asked for."""
    uris = [await world.verification(issuer, f"key{number}") for number in range(count)]
    await world.enqueue(*uris)
    return uris


async def state(world: World, uri: str) -> str:
    return (await world.row(uri)).state


async def revoke_in_index(world: World, uri: str) -> None:
    """Lay the tombstone of what stands in the index at this URI."""
    async with world.db.transaction() as tx:
        await tx.execute(
            """
            insert into tombstones (uri, cid, kind, did, rev, cause, actor, created_at)
            select uri, cid, 'verification', did, rev, 'revoked', did, 0 from verifications
            where uri = :uri
            """,
            {"uri": uri},
        )


async def is_state(world: World, uri: str, wanted: str) -> bool:
    return await state(world, uri) == wanted


async def is_busy(world: World) -> bool:
    return world.pds.busy[DELETE] > 0
