"""The owner sees the invites to a space as they stand, and nobody else does."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from indexer.store import invites as store
from indexer.store import members as members_store
from indexer.store import spaces as spaces_store
from indexer.store.db import Database
from indexer.store.invite_tokens import created_as, is_claimed, owned_space, space_of
from tests.support.guests import HASH, LIST_INVITES, redeem, said
from tests.support.xrpc_world import ALICE, BOB, CREATED_AT, REVOKE_INVITE, SPACE, World, make_world
from xrpc.methods import invites

CREATED_MS = 1_767_225_600_000


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE)
        await made.account(BOB)
        yield made


async def listed(world: World, space: str, **params: Any) -> list[dict[str, Any]]:
    status, body = said(await world.ask(ALICE, LIST_INVITES, spaceUri=space, **params))
    assert status == 200, body
    return list(body["invites"])


async def hashes(world: World, space: str, **params: Any) -> list[str]:
    return [invite["tokenHash"] for invite in await listed(world, space, **params)]


def hash_(number: int) -> str:
    return f"{number:064x}"


def at(second: int) -> str:
    return CREATED_AT.replace("00.000", f"{second:02}.000")


async def test_an_invite_is_shown_with_all_that_it_says(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(
        space, HASH, kind="read-join", maxUses=3, note="for the choir",
        expiresAt="2030-01-01T00:00:00Z",
    )  # fmt: skip
    await redeem(world, BOB)
    assert await listed(world, space) == [
        {
            "tokenHash": HASH,
            "spaceUri": space,
            "kind": "read-join",
            "perms": "write",
            "usedCount": 1,
            "createdBy": ALICE,
            "createdAt": CREATED_MS,
            "expiresAt": 1_893_456_000_000,
            "maxUses": 3,
            "note": "for the choir",
        }
    ]


async def test_what_an_invite_does_not_say_is_not_there(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    [view] = await listed(world, space)
    assert view.keys() == {
        "tokenHash", "spaceUri", "kind", "perms", "usedCount", "createdBy", "createdAt",
    }  # fmt: skip
    assert (view["kind"], view["usedCount"]) == ("join", 0)


async def test_invites_to_this_space_are_shown_the_newest_first(world: World) -> None:
    space, other = await world.space(ALICE), await world.space(ALICE, "party2")
    for number, second in ((1, 10), (2, 30), (3, 20)):
        await world.invite(space, hash_(number), f"r{number}", createdAt=at(second))
    await world.invite(other, hash_(4), "r4")
    await world.invite(space, hash_(5), "r5", owner=BOB)
    assert await hashes(world, space) == [hash_(2), hash_(3), hash_(1)]
    assert await hashes(world, other) == [hash_(4)]


async def test_what_is_expired_or_used_up_is_shown_and_what_is_deleted_is_not(
    world: World,
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, hash_(1), "r1", expiresAt=CREATED_AT)
    await world.invite(space, HASH, "r2", maxUses=1)
    await redeem(world, BOB)
    await world.erase(await world.invite(space, hash_(3), "r3"))
    assert set(await hashes(world, space)) == {hash_(1), HASH}


async def test_revoked_invites_are_shown_when_asked_for_with_when_that_was(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, hash_(1), "r1")
    await world.invite(space, hash_(2), "r2")
    await world.call(ALICE, REVOKE_INVITE, {"spaceUri": space, "tokenHash": hash_(1)})
    revoked_at = world.now
    world.clock.now += 60
    await world.call(ALICE, REVOKE_INVITE, {"spaceUri": space, "tokenHash": hash_(1)})

    assert await hashes(world, space) == [hash_(2)]
    assert await hashes(world, space, includeRevoked="false") == [hash_(2)]
    views = {v["tokenHash"]: v for v in await listed(world, space, includeRevoked="true")}
    assert views.keys() == {hash_(1), hash_(2)}
    assert views[hash_(1)]["revokedAt"] == revoked_at
    assert "revokedAt" not in views[hash_(2)]


async def test_two_records_with_one_token_are_one_invite_as_the_newer_says(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, "one", maxUses=1, createdAt=at(30))
    await world.invite(space, HASH, "two", maxUses=2, createdAt=at(10))
    assert [view["maxUses"] for view in await listed(world, space)] == [2]


async def test_only_the_owner_sees_them(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await redeem(world, BOB)
    answer = await world.ask(BOB, LIST_INVITES, spaceUri=space)
    assert said(answer) == (403, "Forbidden")
    assert HASH not in answer.text


async def test_no_answer_is_longer_than_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invites, "MAX_LISTED", 2)
    space = await world.space(ALICE)
    for number in range(3):
        await world.invite(space, hash_(number), f"r{number}", createdAt=at(number))
    assert await hashes(world, space) == [hash_(2), hash_(1)]


# --- the plans of all queries about spaces, invites and members ---


STEP = re.compile(
    r"SEARCH |SCAN (invites|\(subquery-\d+\))$|CO-ROUTINE |MATERIALIZE |"
    r"(CORRELATED )?SCALAR SUBQUERY"
)


class Explained:
    """A reader that asks how each query would be answered, and answers with nothing."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.plans: list[str] = []

    async def all(self, sql: str, params: Any = {}) -> list[Any]:  # noqa: B006
        rows = await self._db.all(f"explain query plan {sql}", params)
        self.plans += [row["detail"] for row in rows]
        return []

    async def one(self, sql: str, params: Any = {}) -> None:  # noqa: B006
        await self.all(sql, params)


async def test_every_query_searches_an_index_and_sorts_nothing(world: World) -> None:
    uri = f"at://{ALICE}/{SPACE}/party"
    explained = Explained(world.db)
    queries = [
        spaces_store.live(explained, uri),
        spaces_store.of_owner(explained, ALICE, None, "", 50),
        spaces_store.of_owner(explained, ALICE, SPACE, uri, 50),
        store.living_with_token(explained, HASH, ALICE),
        store.living_with_token(explained, HASH, ALICE, uri),
        store.was_revoked(explained, HASH, ALICE),
        store.was_revoked(explained, HASH, ALICE, uri),
        store.of_space(explained, uri, revoked=False, limit=50),
        store.of_space(explained, uri, revoked=True, limit=50),
        members_store.is_member(explained, uri, BOB),
        members_store.of_space(explained, uri),
        members_store.count_of_space(explained, uri),
        members_store.count_joined(explained, BOB),
        members_store.count_added(explained, BOB),
        created_as(explained, uri, HASH),
        owned_space(explained, HASH),
        space_of(explained, HASH, "0" * 32),
        is_claimed(explained, HASH),
    ]
    for owner in (None, ALICE):
        for type_ in (None, SPACE):
            queries.append(spaces_store.of_member(explained, BOB, owner, type_, "", 50))
    for query in queries:
        seen = len(explained.plans)
        await query
        plan = explained.plans[seen:]
        assert plan
        for step in plan:
            assert re.match(STEP, step), plan
            # What is scanned is what a subquery with a limit has found, and nothing else.
            if step == "SCAN invites":
                assert {"CO-ROUTINE invites", "MATERIALIZE invites"} & set(plan), plan
