"""A proven copy of a repo makes the index right, and never takes back what is newer."""

import asyncio
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.proof.repo import Contents
from indexer.records import Scope
from indexer.rules import projection
from indexer.rules.projection import Change, Desynchronize
from indexer.store import invites, repos, resyncs
from indexer.stream.events import Account, Rejected, VerifiedCommit, VerifiedSync
from tests.support.frames import (
    ALICE,
    BOB,
    CREATED,
    INVITE,
    SPACE,
    TIME,
    VERIFICATION,
    block,
    cid_text,
    hash_of,
    invite,
    space,
    tid,
    verification,
)
from tests.support.index_file import RELAY, Index, index, opened
from tests.support.invariants import nothing_revoked_lives
from tests.support.streamed_repo import Owner
from xrpc.errors import NotFoundError
from xrpc.methods.verifications import _Seen

__all__ = ["index"]  # fixtures

GARDEN, ONE, TWO = f"{SPACE}/garden", f"{INVITE}/one", f"{INVITE}/two"
CHECK, OTHER_CHECK = f"{VERIFICATION}/3k", f"{VERIFICATION}/3l"
POST = "app.bsky.feed.post/3k"
GARDEN_URI = f"at://{ALICE}/{GARDEN}"


@pytest.fixture
def owner() -> Owner:
    return Owner()


async def reconcile(index: Index, contents: Contents) -> tuple[bool, list[str]]:
    async with index.db.transaction() as tx:
        is_whole, rejected = await index.projection.reconcile(tx, contents, index.now)
        return is_whole, list(rejected)


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
        await resyncs.claim(tx, ALICE, 0)

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


# --- revocations ---


async def test_a_revoked_verification_that_the_copy_has_stays_revoked_and_is_asked_for_again(
    index: Index, owner: Owner
) -> None:
    uri = owner.uri(CHECK)
    await index.apply(owner.wrote({CHECK: verification()}))
    await index.revoke(uri, reason="because")
    deleted = owner.wrote({CHECK: None})
    await index.acknowledge(uri, deleted.rev)
    await index.apply(deleted)
    deletion = await index.deletion(uri)
    assert deletion is not None
    assert deletion["state"] == "confirmed"
    (first,) = (await index.stones(uri)).values()

    owner.wrote({CHECK: verification()})  # a backup was restored
    index.now += 5_000
    assert await reconcile(index, owner.copy()) == (True, [])

    row = await index.row("verifications", uri)
    assert row is not None
    assert (row["revoked"], row["rev"]) == (1, owner.rev)
    deletion = await index.deletion(uri)
    assert deletion is not None
    assert (deletion["state"], deletion["record_rev"]) == ("pending", owner.rev)
    (stone,) = (await index.stones(uri)).values()
    told = ("cause", "actor", "reason", "created_at")
    assert [stone[name] for name in told] == [first[name] for name in told]
    assert await index.rows("audit") != []


async def test_a_revoked_verification_that_is_known_by_its_tombstone_alone_is_born_dead(
    index: Index, owner: Owner
) -> None:
    owner.wrote({CHECK: verification()})
    assert owner.rev
    await index.revoke(owner.uri(CHECK), seen=_Seen(cid_text(block(verification())), owner.rev))
    owner.wrote({POST: {}})
    await reconcile(index, owner.copy())
    assert not await index.is_live("verifications", owner.uri(CHECK))
    deletion = await index.deletion(owner.uri(CHECK))
    assert deletion is not None
    assert deletion["state"] == "pending"


async def test_a_copy_from_before_the_deletion_neither_revives_nor_publishes(
    index: Index, owner: Owner
) -> None:
    uri = owner.uri(CHECK)
    await index.apply(owner.wrote({CHECK: verification(), GARDEN: space()}))
    await index.revoke(uri)
    copy = replace(owner.copy(), rev=tid(1_000))
    owner.number = 2_000
    deleted = owner.wrote({CHECK: None})
    await index.acknowledge(uri, deleted.rev)

    await reconcile(index, copy)

    assert not await index.is_live("verifications", uri)
    deletion = await index.deletion(uri)
    assert deletion is not None
    assert (deletion["state"], deletion["commit_rev"]) == ("sent", deleted.rev)


async def test_a_deletion_that_the_stream_did_not_show_is_confirmed_by_the_copy(
    index: Index, owner: Owner
) -> None:
    await index.apply(
        owner.wrote({GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: verification()})
    )
    await index.revoke_token(GARDEN_URI)
    await index.revoke(owner.uri(CHECK))
    await index.block(ALICE)
    owner.wrote({ONE: None, CHECK: None})

    await reconcile(index, owner.copy())

    for uri in (owner.uri(ONE), owner.uri(CHECK)):
        deletion = await index.deletion(uri)
        assert deletion is not None
        assert deletion["state"] == "confirmed"
        (stone,) = (await index.stones(uri)).values()
        assert (stone["cause"], stone["rev"]) == ("revoked", owner.rev)


async def test_a_deletion_of_what_is_here_by_its_outbox_row_alone_is_confirmed(
    index: Index, owner: Owner
) -> None:
    owner.wrote({CHECK: verification()})
    assert owner.rev
    await index.revoke(owner.uri(CHECK), seen=_Seen(cid_text(block(verification())), owner.rev))
    owner.wrote({CHECK: None})
    await reconcile(index, owner.copy())
    deletion = await index.deletion(owner.uri(CHECK))
    assert deletion is not None
    assert deletion["state"] == "confirmed"


async def test_a_revoked_token_in_a_record_that_only_the_copy_has_is_born_dead(
    index: Index, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "RECONCILE_CHUNK", 1)
    await index.apply(owner.wrote({GARDEN: space(), ONE: invite(GARDEN_URI)}))
    await index.revoke_token(GARDEN_URI)
    owner.wrote({ONE: None, TWO: invite(GARDEN_URI), f"{INVITE}/x": invite(GARDEN_URI, "other")})

    await reconcile(index, owner.copy())

    two = await index.row("invites", owner.uri(TWO))
    assert two is not None
    assert two["revoked"] == 1
    deletion = await index.deletion(owner.uri(TWO))
    assert deletion is not None
    assert (deletion["state"], deletion["record_rev"]) == ("pending", owner.rev)
    assert await index.is_live("invites", owner.uri(f"{INVITE}/x"))


@pytest.mark.parametrize("way", ["stream", "replay", "copy"])
async def test_an_invite_that_was_created_and_revoked_here_before_it_was_seen_comes_dead(
    index: Index, owner: Owner, way: str
) -> None:
    uri = owner.uri(ONE)
    await index.apply(owner.wrote({GARDEN: space()}))
    await index.create_invite(GARDEN_URI, uri)
    assert await index.revoke_token(GARDEN_URI)
    asked = await index.deletion(uri)
    assert asked is not None
    assert (asked["state"], asked["record_rev"]) == ("pending", "")
    index.now += 1
    created = owner.wrote({ONE: invite(GARDEN_URI)})

    async def show() -> None:
        if way == "copy":
            await reconcile(index, owner.copy())
        else:
            await (index.apply if way == "stream" else index.replay)(created)

    await show()

    row = await index.row("invites", uri)
    assert row is not None
    assert (row["revoked"], row["rev"]) == (1, owner.rev)
    asked = await index.deletion(uri)
    assert asked is not None
    assert (asked["state"], asked["record_rev"]) == ("pending", owner.rev)
    stones = await index.stones(uri)
    assert {(stone["actor"], stone["created_at"]) for stone in stones.values()} == {
        (ALICE, index.now - 1)
    }
    before = await index.dump()
    await show()
    await index.replay(created)
    assert await index.dump() == before


async def test_an_invite_of_an_account_that_was_deleted_unseen_is_revoked_for_when_it_comes_back(
    index: Index, owner: Owner
) -> None:
    uri = owner.uri(ONE)
    await index.apply(owner.wrote({GARDEN: space()}))
    await index.create_invite(GARDEN_URI, uri)
    owner.wrote({ONE: invite(GARDEN_URI)})
    await index.apply(Account(10, TIME, ALICE, active=False, status="deleted"))

    assert await index.revoke_token(GARDEN_URI)
    assert await index.deletion(uri) is None  # there is no repo to delete it from

    await index.apply(Account(11, TIME, ALICE, active=True, status=None))
    await reconcile(index, owner.copy())
    assert not await index.is_live("invites", uri)
    assert (await index.deletion(uri) or {})["state"] == "pending"


async def test_a_copy_from_before_an_invite_was_written_does_not_end_its_revocation(
    index: Index, owner: Owner
) -> None:
    uri = owner.uri(ONE)
    await index.apply(owner.wrote({GARDEN: space()}))
    copy = owner.copy()
    await index.create_invite(GARDEN_URI, uri)
    created = owner.wrote({ONE: invite(GARDEN_URI)})
    await index.revoke_token(GARDEN_URI)

    await reconcile(index, copy)
    await index.apply(created)

    assert not await index.is_live("invites", uri)
    asked = await index.deletion(uri)
    assert asked is not None
    assert (asked["state"], asked["record_rev"]) == ("pending", created.rev)


async def test_a_record_that_comes_after_its_deletion_was_acknowledged_is_not_asked_for_again(
    index: Index, owner: Owner
) -> None:
    uri = owner.uri(ONE)
    await index.apply(owner.wrote({GARDEN: space()}))
    await index.create_invite(GARDEN_URI, uri)
    created = owner.wrote({ONE: invite(GARDEN_URI)})
    await index.revoke_token(GARDEN_URI)
    deleted = owner.wrote({ONE: None})
    await index.acknowledge(uri, deleted.rev)

    await index.apply(created)
    assert not await index.is_live("invites", uri)
    assert (await index.deletion(uri) or {})["state"] == "sent"
    await index.apply(deleted)
    assert (await index.deletion(uri) or {})["state"] == "confirmed"
    await reconcile(index, owner.copy())
    before = await index.dump()
    await index.replay(created, deleted)
    await reconcile(index, owner.copy())
    assert await index.dump() == before


async def test_a_deletion_that_a_person_gave_up_is_not_asked_for_again(
    index: Index, owner: Owner
) -> None:
    uri = owner.uri(CHECK)
    await index.apply(owner.wrote({CHECK: verification()}))
    await index.revoke(uri)
    await index.drop(uri)
    owner.wrote({POST: {}})
    await reconcile(index, owner.copy())
    deletion = await index.deletion(uri)
    assert deletion is not None
    assert deletion["state"] == "dropped"
    assert not await index.is_live("verifications", uri)


# --- where the repo stands ---


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


async def test_a_copy_brings_nothing_back_of_an_account_that_was_deleted_meanwhile(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: space(), CHECK: verification()}))
    owner.wrote({ONE: invite(GARDEN_URI), POST: {}})
    copy = owner.copy()
    await index.apply(Account(90, TIME, ALICE, active=False, status="deleted"))
    before = await index.dump()

    await reconcile(index, copy)

    assert await index.dump() == before
    assert await index.rows("invites") == await index.rows("spaces") == []


@pytest.mark.parametrize(
    ("table", "path", "record"),
    [
        ("invites", ONE, invite(GARDEN_URI)),
        ("verifications", CHECK, verification()),
        ("spaces", GARDEN, space()),
    ],
)
async def test_what_a_returned_account_deletes_while_its_copy_is_under_way_stays_deleted(
    index: Index, owner: Owner, table: str, path: str, record: dict[str, Any]
) -> None:
    await index.apply(owner.wrote({path: record}))
    await leave_and_return(index)
    copy = owner.copy()
    await index.apply(owner.wrote({path: None}))

    assert await reconcile(index, copy) == (True, [])

    assert await index.row(table, owner.uri(path)) is None


@pytest.mark.parametrize("when", ["before", "missed", "after"])
async def test_the_invites_of_a_space_that_ended_are_dead_though_its_account_left_and_came_back(
    index: Index, owner: Owner, when: str
) -> None:
    await index.apply(owner.wrote({GARDEN: space(), ONE: invite(GARDEN_URI)}))
    if when == "after":
        await leave_and_return(index)
    ended = owner.wrote({GARDEN: None})
    if when != "missed":
        await index.apply(ended)
    again = owner.wrote({GARDEN: space(), TWO: invite(GARDEN_URI, "two")})  # as it was
    await index.apply(again)
    if when != "after":
        await leave_and_return(index)
    if when == "missed":
        await index.replay(ended)

    assert await reconcile(index, owner.copy()) == (True, [])

    lets_in = [
        bool(await invites.living_with_token(index.db, hash_of(token), ALICE))
        for token in ("token", "two")
    ]
    assert lets_in == [False, True]


async def test_no_copy_from_before_its_deletion_makes_an_account_whole(
    index: Index, owner: Owner
) -> None:
    owner.wrote({CHECK: verification()})  # never seen
    await index.apply(owner.wrote({GARDEN: space()}))
    copy = owner.copy()
    await index.apply(owner.wrote({ONE: invite(GARDEN_URI)}))
    await index.apply(Account(90, TIME, ALICE, active=False, status="deleted"))
    await index.apply(Account(91, TIME, ALICE, active=False, status="deactivated"))

    assert await reconcile(index, copy) == (False, [])

    await index.apply(Account(92, TIME, ALICE, active=True, status=None))
    assert (await index.repo())["whole_rev"] is None  # or it would not be fetched


@pytest.mark.parametrize("between", [invite(GARDEN_URI, "two"), b"unreadable"])
async def test_what_a_returned_account_writes_anew_as_it_once_was_takes_the_place_of_what_was_since(
    index: Index, owner: Owner, between: Any
) -> None:
    await index.apply(owner.wrote({GARDEN: space(), ONE: invite(GARDEN_URI)}))
    await leave_and_return(index)
    await index.apply(owner.wrote({ONE: between}))
    owner.wrote({ONE: invite(GARDEN_URI)})  # missed

    assert await reconcile(index, owner.copy()) == (True, [])

    lets_in = [
        bool(await invites.living_with_token(index.db, hash_of(token), ALICE))
        for token in ("token", "two")
    ]
    assert lets_in == [True, False]


async def test_a_deletion_is_not_published_when_what_was_revoked_is_gone_with_its_account(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: space(), ONE: b"unreadable"}))
    await index.apply(owner.wrote({ONE: invite(GARDEN_URI)}))
    await index.revoke_token(GARDEN_URI)
    await leave_and_return(index)
    owner.wrote({ONE: b"unreadable"})  # missed

    await reconcile(index, owner.copy())

    deletion = await index.deletion(owner.uri(ONE))
    assert deletion is not None
    assert deletion["state"] == "confirmed"


async def leave_and_return(index: Index) -> None:
    await index.apply(Account(90, TIME, ALICE, active=False, status="deleted"))
    await index.apply(Account(91, TIME, ALICE, active=True, status=None))
    async with index.db.transaction() as tx:
        await resyncs.claim(tx, ALICE, 0)


async def test_an_inactive_repo_is_brought_up_to_date_and_stays_hidden(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: space()}))
    await index.apply(Account(90, TIME, ALICE, active=False, status="deactivated"))
    owner.wrote({CHECK: verification()})
    await reconcile(index, owner.copy())
    assert (await index.repo())["hosting"] == "deactivated"


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


# --- whatever happened ---

PATHS = [GARDEN, ONE, TWO, CHECK, OTHER_CHECK, POST]
RECORDS: dict[str, list[Any]] = {
    GARDEN: [space(), space(name="Yard"), {"$type": SPACE}],
    ONE: [invite(GARDEN_URI), invite(GARDEN_URI, "x"), invite(f"at://{BOB}/{GARDEN}")],
    TWO: [invite(GARDEN_URI), invite(GARDEN_URI, "x"), b"unreadable"],
    CHECK: [verification(), verification(displayName="Caroline"), {"x": 1}],
    OTHER_CHECK: [verification(), verification(displayName="Caroline")],
    POST: [{"text": CREATED}],
}
INVALID = {block({"$type": SPACE}), block({"x": 1}), b"unreadable"}
TABLES = ("spaces", "invites", "untrusted_invites", "verifications")
STEPS = ["write"] * 6 + ["miss"] * 3 + ["copy"] * 3 + ["reconcile"] * 3
STEPS += ["reject", "again", "late", "sync", "blind", "account", "ask"]
REVOCATIONS = ["revoke token", "revoke", "revoke", "publish", "publish"]


class Life:
    """What becomes of one repo, what of that an index comes to know, and what is revoked there."""

    def __init__(self, index: Index, rng: Random) -> None:
        self.index = index
        self.rng = rng
        self.owner = Owner()
        self.commits: list[VerifiedCommit] = []
        self.stood: dict[str, set[tuple[str, str]]] = {}  # URI and CID of valid records, by rev
        self.was_deleted = False
        self._known: list[Change] = []
        self._copies: list[Contents] = []  # under way
        self._seqs = count(1_000)

    async def step(self, step: str) -> None:  # noqa: PLR0912 (a list of what may happen)
        owner, rng = self.owner, self.rng
        match step:
            case "write":
                await self._show(self._commit(self._changes()))
            case "miss":
                self._commit(self._changes())
            case "reject":
                rev = self._commit(self._changes()).rev
                await self._show(Rejected(next(self._seqs), TIME, "bad_block", ALICE, rev))
            case "again" if self._known:
                first = rng.randrange(len(self._known))
                await self.index.apply(*self._known[first:][:3])
            case "late" if self.commits:
                await self.index.apply(rng.choice(self.commits))
            case "copy" if owner.rev:
                self._copies.append(owner.copy())
            case "reconcile" if self._copies:
                copy = self._copies.pop(rng.randrange(len(self._copies)))
                await reconcile(self.index, copy)
            case "sync" if owner.rev:
                copy = owner.copy()
                await self._show(VerifiedSync(next(self._seqs), ALICE, copy.rev, copy.data))
            case "blind":
                await self.index.apply(Desynchronize())
            case "account":
                status = rng.choice((None, None, "deactivated", "deleted"))
                await self._account(status)
            case "ask" if owner.rev:
                # As a resync does before it fetches: is there anything newer?
                repo = (await repos.load(self.index.db, [ALICE])).get(ALICE)
                if repo is not None and repo.hosting == "active" and repo.sync != "synchronized":
                    async with self.index.db.transaction() as tx:
                        await resyncs.claim(tx, ALICE, 0)
                        if repo.whole_rev == repo.rev == owner.rev:
                            await resyncs.mark_whole(tx, ALICE, owner.rev)
                        await resyncs.end(tx, ALICE, again=repo.whole_rev != owner.rev)
            case "revoke token":
                with suppress(NotFoundError):
                    await self.index.revoke_token(GARDEN_URI, rng.choice(("token", "x")))
            case "revoke":
                uri = owner.uri(rng.choice((CHECK, OTHER_CHECK)))
                if await self.index.row("verifications", uri):
                    await self.index.revoke(uri)
            case "publish":
                await self._publish()

    async def end(self) -> None:
        """Let a last copy come, of an account that is active."""
        if self.owner.rev is None:
            self._commit({})
        await self._account(None)
        is_whole, _ = await reconcile(self.index, self.owner.copy())
        assert is_whole

    async def _account(self, status: str | None) -> None:
        active = status is None
        self.was_deleted |= status == "deleted"
        await self._show(Account(next(self._seqs), TIME, ALICE, active=active, status=status))

    async def _show(self, change: Change) -> None:
        self._known.append(change)
        await self.index.apply(change)

    def _commit(self, changes: dict[str, Any]) -> VerifiedCommit:
        commit = self.owner.wrote(changes)
        self.commits.append(commit)
        copied = self.owner.copy().records.items()
        self.stood[commit.rev] = {
            (self.owner.uri(path), cid) for path, (cid, data) in copied if data not in INVALID
        }
        return commit

    def _changes(self) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for path in self.rng.sample(PATHS, self.rng.choice((1, 1, 2, 3))):
            is_deletion = path in self.owner.records and self.rng.random() < 0.45
            changes[path] = None if is_deletion else self.rng.choice(RECORDS[path])
        return changes

    async def _publish(self) -> None:
        """Do what the publisher does, and perhaps miss what the stream shows of it."""
        for row in await self.index.rows("outbox", state="pending"):
            path = row["uri"].removeprefix(f"at://{ALICE}/")
            if path in self.owner.records:
                deletion = self._commit({path: None})
                await self.index.acknowledge(row["uri"], deletion.rev)
                if self.rng.random() < 0.5:
                    await self._show(deletion)


async def live(index: Index) -> set[tuple[str, str, str]]:
    """Return each table, URI and CID of what is live."""
    return {
        (table, row["uri"], row["cid"])
        for table in TABLES
        for row in await index.rows(table)
        if not row.get("revoked")
    }


PROFILE = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(st.randoms(use_true_random=True), st.integers(2, 30))
@PROFILE
def test_after_a_last_copy_it_is_as_if_nothing_had_been_missed(rng: Random, steps: int) -> None:
    async def compare(directory: Path) -> None:
        async with opened(directory, "part.db") as index, opened(directory, "all.db") as witness:
            life = Life(index, rng)
            for _ in range(steps):
                await life.step(rng.choice(STEPS))
                for state in await index.rows("repos", sync="synchronized", hosting="active"):
                    # And before that: what is said to be whole is.
                    here = {(uri, cid) for _, uri, cid in await live(index)}
                    assert here == life.stood[state["rev"]]
            await life.end()
            await witness.apply(*life.commits)
            assert await live(index) == await live(witness)
            state, expected = await index.repo(), await witness.repo()
            for name in ("rev", "data", "sync", "whole_rev"):
                assert state[name] == expected[name]

    with TemporaryDirectory() as directory:
        asyncio.run(compare(Path(directory)))


@given(st.randoms(use_true_random=True), st.integers(4, 30))
@PROFILE
def test_whatever_a_copy_has_nothing_revoked_lives_and_all_else_does(
    rng: Random, steps: int
) -> None:
    async def compare(directory: Path) -> None:
        async with opened(directory, "part.db") as index, opened(directory, "all.db") as witness:
            life = Life(index, rng)
            for _ in range(steps):
                await life.step(rng.choice(STEPS + REVOCATIONS * 2))
                await nothing_revoked_lives(index)
            await life.end()
            await nothing_revoked_lives(index)
            await witness.apply(*life.commits)
            there, here = await live(witness), await live(index)
            assert here <= there
            for table, uri, cid in there - here:
                stone = (await index.stones(uri))[cid]
                assert stone["cause"] == "revoked"
                row = await index.row(table, uri)
                if row is None and life.was_deleted:
                    continue  # its account was deleted: what is left of it is the tombstone
                assert row is not None
                assert (row["cid"], row["revoked"]) == (cid, 1)
                deletion = await index.deletion(uri)
                assert deletion is not None
                assert deletion["state"] == "pending"

    with TemporaryDirectory() as directory:
        asyncio.run(compare(Path(directory)))
