"""An invite is its owner's: no copy, and no order that a stranger chooses, leads a guest astray."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.rules.projection import Desynchronize, Projection
from indexer.store import backfills, invite_tokens
from indexer.stream.events import Write
from tests.support.fake_pds import cid_of
from tests.support.frames import block
from tests.support.guests import HASH, REDEEM, TOKEN, may_see, members, redeem, said
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    CREATED_AT,
    INVITE,
    RELAY,
    REVOKE_INVITE,
    SPACE,
    VERIFICATION,
    World,
    did,
    make_world,
)
from xrpc.publishing import publisher
from xrpc.tokens import hash_of, new_token

REFUSED = (400, "InvalidInvite")
UNKNOWN = "there is no such invite"
ASK_AGAIN = "nobody can tell any more whose invite this is; ask for a new one"
WAIT = "it is still being found out whose invite this is; try again later"
COPIER = did("aaacopier")  # before the others in every index


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path, relay=f"wss://{RELAY}") as made, made.serving():
        for account in (ALICE, BOB, COPIER):
            await made.account(account)
        made.name(CAROL, "https://pds.test")
        yield made


async def why(world: World, token: str = TOKEN) -> str:
    answer = await world.call(CAROL, REDEEM, {"token": token})
    assert said(answer) == REFUSED
    return str(answer.json()["message"])


async def invite(world: World, space: str, token: str, **more: str) -> None:
    await world.invite(space, hash_of(token), f"with-{hash_of(token)[:8]}", **more)


async def revoke(world: World, space: str, token: str) -> int:
    body = {"spaceUri": space, "tokenHash": hash_of(token)}
    return (await world.call(space.split("/")[2], REVOKE_INVITE, body)).status_code


async def miss(world: World) -> None:
    """Let events be missed: the network is to be searched again."""
    async with world.db.transaction() as tx:
        await world.projection.apply(tx, [Desynchronize()], world.now)


async def search(world: World) -> None:
    """Let a search come to its end."""
    async with world.db.transaction() as tx:
        await invite_tokens.decide_all(tx)
        await backfills.settle(tx, RELAY)


# --- tokens that are made here ---


@pytest.mark.parametrize("first", [True, False])
async def test_a_copied_hash_of_a_bound_token_is_worthless_whoever_is_first(
    world: World, first: bool
) -> None:
    space, trap = await world.space(ALICE), await world.space(COPIER)
    token = new_token(space)  # perhaps by another Rescind: nothing was noted of it here
    if first:
        await invite(world, trap, token)
        assert await why(world, token) == UNKNOWN
        await invite(world, space, token)
    else:
        await invite(world, space, token)
        await invite(world, trap, token)

    assert await redeem(world, CAROL, token) == (200, space)

    assert await members(world, trap) == []


async def test_a_bound_token_needs_no_search_and_counts_while_one_goes_on(world: World) -> None:
    await miss(world)
    space, trap = await world.space(ALICE), await world.space(COPIER)
    token = new_token(space)
    await invite(world, trap, token)
    await invite(world, space, token)
    assert await redeem(world, CAROL, token) == (200, space)


async def test_a_bound_token_never_falls_to_a_copier_when_its_owner_revokes_or_deletes(
    world: World,
) -> None:
    space, trap = await world.space(ALICE), await world.space(COPIER)
    revoked, deleted = new_token(space), new_token(space)
    for token in (revoked, deleted):
        await invite(world, space, token)
        await invite(world, trap, token)
    assert await revoke(world, space, revoked) == 200
    await world.erase(f"at://{ALICE}/{INVITE}/with-{hash_of(deleted)[:8]}")

    assert await why(world, revoked) == "this invite was revoked"
    assert await why(world, deleted) == UNKNOWN
    assert await members(world, trap) == []


async def test_a_bound_token_does_not_even_lead_to_another_space_of_its_owner(
    world: World,
) -> None:
    space, other = await world.space(ALICE), await world.space(ALICE, "other")
    token = new_token(space)
    await world.invite(other, hash_of(token), "wrong", kind="read-join")
    assert await why(world, token) == UNKNOWN
    assert not await may_see(world, other, None, token)
    await world.invite(space, hash_of(token), "right")
    assert await redeem(world, CAROL, token) == (200, space)


async def test_what_begins_with_the_mark_is_never_taken_for_a_token_made_elsewhere(
    world: World,
) -> None:
    space = await world.space(ALICE)
    for token in ("rescind1", "rescind1" + TOKEN, new_token(space)[:-1]):
        await invite(world, space, token, kind="read-join")
        assert await why(world, token) == UNKNOWN
        assert not await may_see(world, space, None, token)


async def test_a_thousand_copies_hide_nothing(world: World) -> None:
    space = await world.space(ALICE)
    token = new_token(space)
    copies = {
        f"{INVITE}/{n}": {"space": f"at://{COPIER}/{SPACE}/{n}", "tokenHash": hash_of(token)}
        for n in range(1_100)
    }
    writes = [
        Write("create", *path.split("/"), cid_of(path), None, block({
            "$type": INVITE, "createdAt": CREATED_AT, **record,
        }))
        for path, record in copies.items()
    ]  # fmt: skip
    await world.show(COPIER, "2222222222222", None, *writes)
    await invite(world, space, token)
    assert await redeem(world, CAROL, token) == (200, space)


# --- tokens that are made elsewhere ---


async def test_who_is_listed_first_in_the_first_search_decides_nothing(world: World) -> None:
    await miss(world)  # as on a fresh index: nothing is known of the network
    space, trap = await world.space(ALICE), await world.space(COPIER)
    await invite(world, trap, TOKEN)
    assert await why(world) == WAIT
    await invite(world, space, TOKEN)
    assert await why(world) == WAIT

    await search(world)

    assert await why(world) == ASK_AGAIN
    assert await members(world, trap) == await members(world, space) == []


async def test_who_alone_has_an_invite_when_the_first_search_ends_is_its_owner(
    world: World,
) -> None:
    await miss(world)
    space, trap = await world.space(ALICE), await world.space(COPIER)
    await invite(world, space, TOKEN)
    await search(world)
    await invite(world, trap, TOKEN)
    assert await redeem(world, CAROL) == (200, space)
    await miss(world)  # another search changes nothing of what was decided
    await search(world)
    assert await redeem(world, did("operator")) == (200, space)


@pytest.mark.parametrize("copier", [COPIER, BOB])  # before the owner in an index, and behind
async def test_what_is_found_otherwise_decides_nothing_and_is_in_the_way_of_copiers(
    world: World, copier: str
) -> None:
    space, trap = await world.space(ALICE), await world.space(copier)
    played = Projection(world.services.scope, RELAY, is_replay=True)
    live, world.projection = world.projection, played
    await invite(world, space, TOKEN)
    world.projection = live
    assert await why(world) == ASK_AGAIN

    await invite(world, trap, TOKEN)

    assert await why(world) == ASK_AGAIN
    assert await members(world, trap) == []


async def test_the_owner_counts_when_the_stream_shows_again_what_a_replay_found(
    world: World,
) -> None:
    space = await world.space(ALICE)
    played = Projection(world.services.scope, RELAY, is_replay=True)
    live, world.projection = world.projection, played
    await invite(world, space, TOKEN)
    world.projection = live
    await world.invite(space, HASH, "again")
    assert await redeem(world, CAROL) == (200, space)


async def test_the_stream_counts_also_where_a_copy_of_the_repo_was_faster(world: World) -> None:
    space = await world.space(ALICE)
    record = {"$type": INVITE, "createdAt": CREATED_AT, "space": space, "tokenHash": HASH}
    cid, rev = world.pds.write(ALICE, f"{INVITE}/one", record)
    write = Write("create", INVITE, "one", cid, None, block(record))
    live, world.projection = (
        world.projection, Projection(world.services.scope, RELAY, is_replay=True)
    )  # fmt: skip
    await world.show(ALICE, rev, None, write)
    world.projection = live
    assert await why(world) == ASK_AGAIN

    await world.show(ALICE, rev, None, write)

    assert await redeem(world, CAROL) == (200, space)


async def test_another_relay_is_searched_before_what_it_shows_decides(world: World) -> None:
    space, trap = await world.space(ALICE), await world.space(COPIER)
    async with world.db.transaction() as tx:
        await backfills.begin(tx, "other.test", [SPACE, INVITE, VERIFICATION])
    world.projection = Projection(world.services.scope, "other.test")
    await invite(world, trap, TOKEN)
    assert await why(world) == ASK_AGAIN
    await invite(world, space, TOKEN)
    async with world.db.transaction() as tx:
        await invite_tokens.decide_all(tx)
        await backfills.settle(tx, "other.test")
    assert await why(world) == ASK_AGAIN


async def test_the_revocation_of_a_copy_kills_nothing_but_the_copy(world: World) -> None:
    space, trap = await world.space(ALICE), await world.space(COPIER)
    for token in (new_token(space), TOKEN):
        await invite(world, space, token)
        await invite(world, trap, token)
        assert await revoke(world, trap, token) == 200
        assert (await redeem(world, CAROL, token))[0] == 200
        assert await revoke(world, space, token) == 200
        assert await why(world, token) == "this invite was revoked"


async def test_a_token_reads_no_space_but_that_to_which_it_belongs(world: World) -> None:
    space, trap = await world.space(ALICE), await world.space(COPIER)
    for token in (new_token(space), TOKEN):
        await invite(world, space, token, kind="read")
        await invite(world, trap, token, kind="read")
        assert await may_see(world, space, None, token)
        assert not await may_see(world, trap, None, token)
    await revoke(world, space, TOKEN)
    assert not await may_see(world, trap, None, TOKEN)
