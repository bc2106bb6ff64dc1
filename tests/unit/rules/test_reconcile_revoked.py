"""A copy neither revives what is revoked here nor ends its revocation."""

from dataclasses import replace

import pytest

from indexer.rules import projection
from indexer.stream.events import Account
from tests.support.alices_records import CHECK, GARDEN, GARDEN_URI, ONE, POST, TWO
from tests.support.frames import (
    ALICE,
    INVITE,
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
from xrpc.methods.verifications import _Seen

__all__ = ["index", "owner"]  # fixtures


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
