"""A copy brings back nothing of an account that left, and all of one that is back."""

from typing import Any

import pytest

from indexer.store import invites
from indexer.stream.events import Account
from tests.support.alices_records import CHECK, GARDEN, GARDEN_URI, ONE, POST, TWO
from tests.support.frames import ALICE, TIME, hash_of, invite, space, verification
from tests.support.index_file import Index, index
from tests.support.reconciling import leave_and_return, reconcile
from tests.support.streamed_repo import Owner, owner

__all__ = ["index", "owner"]  # fixtures


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


async def test_an_inactive_repo_is_brought_up_to_date_and_stays_hidden(
    index: Index, owner: Owner
) -> None:
    await index.apply(owner.wrote({GARDEN: space()}))
    await index.apply(Account(90, TIME, ALICE, active=False, status="deactivated"))
    owner.wrote({CHECK: verification()})
    await reconcile(index, owner.copy())
    assert (await index.repo())["hosting"] == "deactivated"
