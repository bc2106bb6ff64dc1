"""One hash in several places leads nobody where its owner did not mean it to."""

import pytest

from indexer.stream.events import Write
from tests.support.fake_pds import cid_of
from tests.support.frames import block
from tests.support.guests import HASH, TOKEN, members, redeem, set_account, used
from tests.support.redeeming import DAVE, REFUSED, mint, revoke, sentence, world
from tests.support.xrpc_world import ALICE, BOB, CAROL, CREATED_AT, INVITE, SPACE, World, did

__all__ = ["world"]  # fixtures


async def test_of_two_records_with_one_token_the_newer_counts(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH, "one", kind="read")
    await world.invite(space, HASH, "two", maxUses=1)
    assert await redeem(world, BOB) == (200, space)
    assert await redeem(world, CAROL) == REFUSED
    await world.invite(space, HASH, "one", maxUses=2)
    assert await redeem(world, CAROL) == (200, space)
    assert await used(world, space) == 2


async def test_a_copied_hash_leads_nobody_into_the_copier_s_space(world: World) -> None:
    space = await world.space(ALICE)
    trap = await world.space(BOB)
    await world.invite(space, HASH, maxUses=1)
    await world.invite(trap, HASH)

    assert await redeem(world, CAROL) == (200, space)
    # Nor by waiting until it is used up.
    assert await redeem(world, DAVE) == REFUSED
    assert await members(world, trap) == []


async def test_a_token_made_here_leads_to_where_it_was_made_for(world: World) -> None:
    space = await world.space(ALICE)
    trap = await world.space(BOB)
    await mint(world, TOKEN, space)
    await world.invite(trap, HASH)  # by whom its record reached before us
    await world.invite(space, HASH)

    assert await redeem(world, CAROL) == (200, space)
    # And nowhere else, when that is over.
    await revoke(world, space)
    assert await redeem(world, DAVE) == REFUSED
    assert await members(world, trap) == []


@pytest.mark.parametrize("copies", [1, 1_100])
async def test_a_stranger_gets_nobody_by_what_he_says_of_his_clock_or_by_many_copies(
    world: World, copies: int
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)  # by another service: nothing was minted here
    trapper = did("aaa")  # before all others in every index
    trap = f"at://{trapper}/{SPACE}/trap"
    records = {f"{SPACE}/trap": {}} | {
        f"{INVITE}/{n}": {"space": trap, "tokenHash": HASH} for n in range(copies)
    }
    writes = [
        Write("create", *path.split("/"), cid_of(path), None, block({
            "$type": path.split("/")[0], "createdAt": CREATED_AT, **record,
        }))
        for path, record in records.items()
    ]  # fmt: skip
    await world.show(trapper, "2222222222222", None, *writes)  # the first rev that there can be

    assert await redeem(world, CAROL) == (200, space)
    # Nor when the owner has revoked it, or is away for a while.
    await set_account(world, ALICE, "deactivated")
    assert await redeem(world, DAVE) == REFUSED
    await set_account(world, ALICE, None)
    await revoke(world, space)
    assert await redeem(world, DAVE) == REFUSED
    assert await world.db.all("select * from members where space_uri = :trap", {"trap": trap}) == []


async def test_nobody_is_told_of_a_revocation_that_a_stranger_made_up(world: World) -> None:
    space, trap = await world.space(ALICE), await world.space(BOB)
    await world.invite(space, HASH)
    await world.invite(trap, HASH)
    await revoke(world, trap)
    await world.erase(f"at://{ALICE}/{INVITE}/one")
    assert await sentence(world, CAROL) == "there is no such invite"


async def test_the_same_hash_in_another_space_counts_its_own_uses(world: World) -> None:
    one, two = await world.space(ALICE), await world.space(ALICE, "two")
    await world.invite(one, HASH, "one", maxUses=1)
    await world.invite(two, HASH, "two", maxUses=1)
    assert await redeem(world, BOB) == (200, one)
    await revoke(world, one)
    assert await redeem(world, BOB) == (200, two)
    assert (await members(world, one), await members(world, two)) == ([BOB], [BOB])
