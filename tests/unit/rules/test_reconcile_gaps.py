"""A repo is whole once a copy has all that was missed of it, and not before."""

import asyncio
import tracemalloc
from dataclasses import replace

import pytest

from indexer.rules import projection
from indexer.rules.projection import Desynchronize
from indexer.stream.events import Account, Rejected, VerifiedSync
from tests.support.alices_records import CHECK, GARDEN, GARDEN_URI, ONE, TWO
from tests.support.frames import (
    ALICE,
    SPACE,
    TIME,
    block,
    cid_text,
    invite,
    space,
    tid,
    verification,
)
from tests.support.index_file import Index, index
from tests.support.reconciling import reconcile
from tests.support.streamed_repo import Owner, owner

__all__ = ["index", "owner"]  # fixtures


async def test_a_copy_from_within_the_gap_leaves_the_repo_out_of_step(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: space()}))
    owner.wrote({CHECK: verification()})
    within = owner.copy()
    owner.wrote({CHECK: None})
    at_its_end = owner.copy()
    await index.apply(owner.wrote({ONE: invite(GARDEN_URI)}))
    assert (await index.repo())["sync"] == "desynchronized"

    assert (await reconcile(index, within))[0] is False
    assert (await index.repo())["sync"] == "desynchronized"
    await index.apply(owner.wrote({TWO: invite(GARDEN_URI, "two")}))

    assert (await reconcile(index, at_its_end))[0] is True
    state = await index.repo()
    assert (state["sync"], state["rev"], state["whole_rev"]) == (
        "synchronized",
        owner.rev,
        owner.rev,
    )
    assert await index.rows("verifications") == []
    assert len(await index.rows("invites")) == 2


async def test_with_two_gaps_a_copy_from_between_them_is_not_enough(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: space()}))
    owner.wrote({CHECK: verification()})
    await index.apply(owner.wrote({ONE: invite(GARDEN_URI)}))
    between = owner.copy()
    owner.wrote({CHECK: None})
    await index.apply(owner.wrote({TWO: invite(GARDEN_URI, "two")}))
    assert (await reconcile(index, between))[0] is False
    assert (await reconcile(index, owner.copy()))[0] is True
    assert await index.rows("verifications") == []


@pytest.mark.parametrize("doubt", ["missed", "rejected", "reactivated"])
async def test_once_it_is_in_doubt_a_copy_from_before_what_is_here_settles_nothing(
    index: Index, owner: Owner, doubt: str
) -> None:
    await index.apply(owner.wrote({GARDEN: space()}))
    stale = owner.copy()
    await index.apply(owner.wrote({CHECK: verification()}))
    current = owner.copy()
    match doubt:
        case "missed":
            await index.apply(Desynchronize())
        case "rejected":
            await index.apply(Rejected(50, TIME, "bad_block", ALICE, tid(900)))
        case "reactivated":
            await index.apply(Account(50, TIME, ALICE, active=False, status="deactivated"))
            await index.apply(Account(51, TIME, ALICE, active=True, status=None))
    assert (await index.repo())["sync"] == "desynchronized"

    assert (await reconcile(index, stale))[0] is False
    assert (await index.repo())["sync"] == "desynchronized"
    assert await index.is_live("verifications", owner.uri(CHECK))
    await index.apply(owner.wrote({ONE: invite(GARDEN_URI)}))
    assert (await reconcile(index, current))[0] is True


async def test_from_the_copy_on_the_chain_goes_on(index: Index, owner: Owner) -> None:
    owner.wrote({GARDEN: space()})
    await reconcile(index, owner.copy())
    await index.apply(owner.wrote({CHECK: verification()}))
    state = await index.repo()
    assert (state["sync"], state["whole_rev"]) == ("synchronized", owner.rev)


async def test_a_sync_that_says_something_else_is_settled_by_a_copy_at_its_rev_or_later(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: space()}))
    before = owner.copy()
    owner.wrote({CHECK: verification()})
    at_it = owner.copy()
    await index.apply(VerifiedSync(50, ALICE, at_it.rev, at_it.data))
    await index.apply(owner.wrote({ONE: invite(GARDEN_URI)}))

    assert (await reconcile(index, before))[0] is False
    assert (await reconcile(index, at_it))[0] is True
    assert await index.is_live("verifications", owner.uri(CHECK))


async def test_a_crash_in_the_middle_leaves_nothing_of_the_copy(
    index: Index, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "RECONCILE_CHUNK", 1)
    await index.apply(owner.wrote({GARDEN: space(), CHECK: verification()}))
    owner.wrote({GARDEN: space(name="Yard"), CHECK: None, ONE: invite(GARDEN_URI)})
    before = await index.dump()
    awaits = 0
    while True:
        task = asyncio.create_task(reconcile(index, owner.copy()))
        for _ in range(awaits):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if (after := await index.dump()) != before:
            # It was cancelled when the commit was on its way: then all of it is there.
            assert len(await index.rows("invites")) == 1
            before = after
        awaits += 1
    assert awaits > 5
    assert (await task)[0] is True
    assert await index.rows("verifications") == []


async def test_hostile_records_are_not_held_decoded(index: Index, owner: Owner) -> None:
    # Each takes 60 kB as CBOR, and 4 MB as Python values.
    blocks = [block({"x": [{}] * 60_000, "n": n}) for n in range(20)]
    records = {f"{SPACE}/{n}": (cid_text(data), data) for n, data in enumerate(blocks)}
    owner.wrote({})
    copy = replace(owner.copy(), records=records)
    tracemalloc.start()
    try:
        _, rejected = await reconcile(index, copy)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rejected) == 20
    assert peak < 20_000_000
