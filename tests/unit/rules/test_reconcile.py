"""A proven copy of a repo makes the index right, and never takes back what is newer."""

from typing import Any

import pytest

from indexer.records import Scope
from indexer.rules import projection
from indexer.rules.projection import Desynchronize
from indexer.store import invites, resyncs
from tests.support.alices_records import CHECK, GARDEN, GARDEN_URI, ONE, OTHER_CHECK, POST, TWO
from tests.support.frames import (
    ALICE,
    BOB,
    INVITE,
    SPACE,
    VERIFICATION,
    block,
    hash_of,
    invite,
    space,
    verification,
)
from tests.support.index_file import RELAY, Index, index
from tests.support.reconciling import reconcile
from tests.support.streamed_repo import Owner, owner

__all__ = ["index", "owner"]  # fixtures

# --- what the copy says ---


async def test_records_are_created_updated_and_deleted_as_the_copy_has_them(
    index: Index, owner: Owner
) -> None:
    await index.apply(
        owner.wrote({GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: verification()})
    )
    created = owner.rev
    owner.wrote({GARDEN: space(name="Yard"), ONE: None, TWO: invite(GARDEN_URI, "new")})
    owner.wrote({POST: {"text": "not ours"}})

    assert await reconcile(index, owner.copy()) == (True, [])

    garden = await index.row("spaces", GARDEN_URI)
    assert garden is not None
    assert (garden["name"], garden["rev"]) == ("Yard", owner.rev)
    assert await index.row("invites", owner.uri(ONE)) is None
    (stone,) = (await index.stones(owner.uri(ONE))).values()
    assert (stone["cause"], stone["rev"]) == ("deleted", owner.rev)
    assert await index.is_live("invites", owner.uri(TWO))
    check = await index.row("verifications", owner.uri(CHECK))
    assert check is not None
    assert check["rev"] == created  # it is the same: nothing was written
    state = await index.repo()
    assert (state["rev"], state["sync"], state["whole_rev"]) == (
        owner.rev,
        "synchronized",
        owner.rev,
    )
    assert state["data"] == owner.copy().data


async def test_a_repo_that_was_never_seen_is_indexed_whole_and_a_second_copy_changes_nothing(
    index: Index, owner: Owner
) -> None:
    owner.wrote({GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: verification()})
    assert await reconcile(index, owner.copy()) == (True, [])
    for table in ("spaces", "invites", "verifications"):
        assert len(await index.rows(table)) == 1
    before = await index.dump()

    assert await reconcile(index, owner.copy()) == (True, [])

    assert await index.dump() == before


async def test_an_empty_copy_deletes_everything(index: Index, owner: Owner) -> None:
    await index.apply(owner.wrote({GARDEN: space(), ONE: invite(GARDEN_URI)}))
    owner.wrote({GARDEN: None, ONE: None})
    assert await reconcile(index, owner.copy()) == (True, [])
    assert await index.rows("spaces") == await index.rows("invites") == []


async def test_a_copy_of_one_repo_touches_no_other(index: Index, owner: Owner) -> None:
    bob = Owner(BOB)
    await index.apply(bob.wrote({CHECK: verification()}))
    before = await index.row("verifications", bob.uri(CHECK))
    owner.wrote({})
    await reconcile(index, owner.copy())
    assert await index.row("verifications", bob.uri(CHECK)) == before


async def test_what_was_indexed_under_other_settings_is_left_alone(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: space()}))
    others = Scope(frozenset(("org.example.space",)), INVITE, VERIFICATION)
    index.projection = projection.Projection(others, RELAY)
    owner.wrote({GARDEN: None})
    await reconcile(index, owner.copy())
    assert await index.is_live("spaces", GARDEN_URI)


async def test_invalid_records_of_the_copy_are_reported_and_replace_what_stood_there(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({CHECK: verification()}))
    owner.wrote({CHECK: {"$type": VERIFICATION}, ONE: b"unreadable", TWO: block([1])})

    is_whole, rejected = await reconcile(index, owner.copy())

    assert (is_whole, rejected) == (True, ["invalid_record"] * 3)
    assert await index.rows("verifications") == await index.rows("invites") == []
    stones = await index.stones(owner.uri(CHECK))
    assert {stone["cause"] for stone in stones.values()} == {"replaced"}


async def test_a_strangers_invite_of_the_copy_grants_nothing(index: Index, owner: Owner) -> None:
    bob = Owner(BOB)
    await index.apply(owner.wrote({GARDEN: space()}))
    bob.wrote({ONE: invite(GARDEN_URI)})

    await reconcile(index, bob.copy())
    assert await index.rows("invites") == []
    assert len(await index.rows("untrusted_invites")) == 1

    bob.wrote({ONE: invite(f"at://{BOB}/{GARDEN}")})
    await reconcile(index, bob.copy())
    assert await index.is_live("invites", bob.uri(ONE))
    assert await index.rows("untrusted_invites") == []

    bob.wrote({ONE: invite(GARDEN_URI)})
    await reconcile(index, bob.copy())
    bob.wrote({ONE: None})
    await reconcile(index, bob.copy())
    assert await index.rows("invites") == await index.rows("untrusted_invites") == []


async def test_many_records_are_reconciled_chunk_by_chunk(
    index: Index, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "RECONCILE_CHUNK", 7)
    names = {f"{VERIFICATION}/{n:03}": verification(displayName=str(n)) for n in range(50)}
    await index.apply(owner.wrote(names))
    changes: dict[str, Any] = dict.fromkeys(list(names)[::3])
    changes |= {f"{VERIFICATION}/{n}x": verification(displayName=f"{n}x") for n in range(20)}
    changes |= {path: verification(displayName="new") for path in list(names)[1::3]}
    owner.wrote(changes)

    assert await reconcile(index, owner.copy()) == (True, [])

    here = {row["uri"]: row["cid"] for row in await index.rows("verifications")}
    assert here == {owner.uri(path): cid for path, (cid, _) in owner.copy().records.items()}


# --- what is newer here ---


async def test_what_was_written_since_the_copy_wins_over_it(index: Index, owner: Owner) -> None:
    await index.apply(owner.wrote({GARDEN: space(), ONE: invite(GARDEN_URI)}))
    await index.apply(Desynchronize())
    copy = owner.copy()
    later = [
        owner.wrote({GARDEN: space(name="Yard")}),
        owner.wrote({ONE: None}),
        owner.wrote({TWO: invite(GARDEN_URI, "two"), CHECK: verification()}),
        owner.wrote({CHECK: None}),
        owner.wrote({OTHER_CHECK: b"unreadable"}),
    ]
    await index.apply_each(*later)
    before = await index.dump("sync")

    is_whole, _ = await reconcile(index, copy)

    assert is_whole  # it stands at the beginning of what was seen since
    assert await index.dump("sync") == before
    state = await index.repo()
    assert (state["rev"], state["whole_rev"]) == (owner.rev, owner.rev)


async def test_a_deletion_of_what_was_never_seen_wins_over_an_older_copy(
    index: Index, owner: Owner
) -> None:
    owner.wrote({})
    owner.wrote({CHECK: verification(), GARDEN: space()})
    copy = owner.copy()
    await index.apply(owner.wrote({CHECK: None}))
    await index.apply(owner.wrote({GARDEN: {"$type": SPACE}}))

    assert await reconcile(index, copy) == (True, [])

    assert await index.rows("verifications") == await index.rows("spaces") == []


async def test_events_that_come_after_the_copy_are_applied_once_whatever_the_order(
    index: Index, owner: Owner
) -> None:
    early = owner.wrote({GARDEN: space(), CHECK: verification()})
    late = owner.wrote({CHECK: None, ONE: invite(GARDEN_URI)})
    await reconcile(index, owner.copy())
    before = await index.dump()
    await index.apply(early, late)
    assert await index.dump() == before


async def test_an_older_copy_deletes_nothing_that_is_newer(index: Index, owner: Owner) -> None:
    owner.wrote({GARDEN: space()})
    copy = owner.copy()
    await index.apply(owner.wrote({CHECK: verification(), ONE: invite(GARDEN_URI)}))
    await reconcile(index, copy)
    assert await index.is_live("spaces", GARDEN_URI)
    assert await index.is_live("verifications", owner.uri(CHECK))
    assert await index.is_live("invites", owner.uri(ONE))


async def test_a_replay_revives_no_space_that_a_copy_showed_to_be_unreadable_again(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: {"$type": SPACE}, ONE: invite(GARDEN_URI)}))
    missed = owner.wrote({GARDEN: space()})
    owner.wrote({GARDEN: {"$type": SPACE}})  # missed, too
    await reconcile(index, owner.copy())
    async with index.db.transaction() as tx:
        await resyncs.ask(tx, ALICE)
    await index.replay(missed)
    assert await index.row("spaces", GARDEN_URI) is None
    assert not await invites.living_with_token(index.db, hash_of("token"), ALICE)


async def test_a_copy_that_is_older_than_another_brings_nothing_back(
    index: Index, owner: Owner
) -> None:
    owner.wrote({CHECK: verification(), GARDEN: space(), ONE: invite(GARDEN_URI)})
    stale = owner.copy()
    owner.wrote({CHECK: None, ONE: None})  # never seen
    await reconcile(index, owner.copy())
    await index.apply(Desynchronize())
    async with index.db.transaction() as tx:
        await resyncs.claim(tx, [ALICE], 0)

    assert await reconcile(index, stale) == (False, [])

    assert await index.row("verifications", owner.uri(CHECK)) is None
    assert not await invites.living_with_token(index.db, hash_of("token"), ALICE)


async def test_a_copy_from_before_a_space_was_made_does_not_end_it(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({ONE: invite(GARDEN_URI)}))
    await index.apply(Desynchronize())
    copy = owner.copy()
    await index.apply(owner.wrote({GARDEN: space()}))

    assert await reconcile(index, copy) == (True, [])

    assert await invites.living_with_token(index.db, hash_of("token"), ALICE)


async def test_a_space_that_can_not_be_read_does_not_end_again_with_each_copy(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: {"$type": SPACE}}))
    await index.apply(owner.wrote({ONE: invite(GARDEN_URI)}))
    await reconcile(index, owner.copy())
    await index.apply(owner.wrote({GARDEN: space()}))
    assert await invites.living_with_token(index.db, hash_of("token"), ALICE)
