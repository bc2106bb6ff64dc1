"""What is kept of a person goes when it may; what keeps a revocation true stays."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from indexer.store import members, repos, sessions, tombstones, verifications
from indexer.store.members import Member
from tests.support.command import rescind
from tests.support.frames import hash_of
from tests.support.xrpc_world import ALICE, BOB, CAROL, World, make_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        for did in (ALICE, BOB):
            await made.account(did)
        yield made


async def join(world: World, space: str, did: str) -> None:
    async with world.db.transaction() as tx:
        await members.add(tx, Member(space, did, "3k", hash_of("t"), ALICE, world.now))


async def everything(world: World) -> str:
    names = [row["name"] for row in await world.db.all("select name from sqlite_schema")]
    tables = [name for name in names if not name.startswith(("sqlite_", "counters"))]
    found: list[Any] = []
    for table in tables:
        try:
            found += [tuple(row) for row in await world.db.all(f"select * from {table}")]
        except Exception:  # an index is no table
            continue
    return repr(found)


async def test_an_account_that_its_host_serves_no_more_leaves_its_tombstones(
    world: World,
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, hash_of("token"), note="for Dora only")
    uri = await world.verification(ALICE, name="Dora Dorn")
    async with world.serving():
        await world.revoke(ALICE, uri, reason="Dora Dorn has left")
    await world.verification(ALICE, "two", name="Dora Dorn")
    await join(world, space, BOB)
    async with world.db.transaction() as tx:
        await repos.set_hosting(tx, ALICE, "deactivated", None)
    status, out, _ = await rescind(world, "purge", ALICE, "--reasons")
    assert status == 0
    assert "its session" in out
    assert "why 1 records were revoked" in out
    assert "Dora" not in await everything(world)
    assert await sessions.load(world.db, ALICE) is None
    assert await members.of_space(world.db, space) == []
    [stone] = await tombstones.load(world.db, [uri])
    assert (stone.cause, stone.actor, stone.created_at) == ("revoked", ALICE, world.now)
    [repo] = (await repos.load(world.db, [ALICE])).values()
    assert repo.whole_rev is None  # it comes back whole, if it does


async def test_one_that_is_served_keeps_its_public_records_and_why_unless_it_is_asked_for(
    world: World,
) -> None:
    space = await world.space(BOB)
    uri = await world.verification(ALICE, subject=CAROL)
    kept = await world.verification(ALICE, "two")
    await join(world, space, ALICE)
    async with world.serving():
        await world.revoke(ALICE, uri, reason="an impostor")
    status, out, _ = await rescind(world, "purge", ALICE)
    assert (status, "Its records stay" in out, "1 memberships" in out) == (0, True, True)
    assert len(await verifications.load(world.db, [kept])) == 1
    assert [stone.reason for stone in await world.stones(uri)] == ["an impostor"]
    assert await members.count_joined(world.db, ALICE) == 0


async def test_what_was_said_of_a_subject_can_be_removed_too(world: World) -> None:
    uri = await world.verification(ALICE, subject=CAROL)
    async with world.serving():
        await world.revoke(ALICE, uri, reason="Carol is an impostor")
    assert (await rescind(world, "purge", CAROL, "--reasons"))[0] == 0
    assert [stone.reason for stone in await world.stones(uri)] == [None]
    assert "impostor" not in repr(await world.audit())
