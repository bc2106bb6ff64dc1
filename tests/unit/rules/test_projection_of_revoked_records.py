"""What is revoked stays revoked whatever the stream shows, and is deleted from its repo."""

from pathlib import Path
from typing import Any

import pytest

from indexer.store import invites, spaces
from tests.support.alices_records import (
    CHECK,
    CHECK_URI,
    EVERYTHING,
    GARDEN,
    GARDEN_URI,
    ONE,
    OTHER,
    TEXT,
    TWO,
    cid,
    deletion,
)
from tests.support.frames import ALICE, BOB, NOW, SPACE, invite, space
from tests.support.index_file import Index, Repo, index, opened, repo
from xrpc.methods.verifications import _Seen

__all__ = ["index", "repo"]  # fixtures

# --- revoked verifications ---


async def test_a_revoked_record_that_is_put_back_stays_revoked_and_is_deleted_again(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({CHECK: TEXT}))
    await index.revoke(CHECK_URI, actor=BOB, reason="spam")
    deleted = repo.commit({CHECK: None})
    await index.acknowledge(CHECK_URI, deleted.rev)
    await index.apply(deleted)
    assert (await deletion(index))["state"] == "confirmed"

    index.now += 1_000
    back = repo.commit({CHECK: TEXT})
    await index.apply(back)
    assert not await index.is_live("verifications", CHECK_URI)
    row = await deletion(index)
    assert (row["state"], row["record_rev"], row["commit_rev"]) == ("pending", back.rev, None)
    stone = (await index.stones(CHECK_URI))[cid(TEXT)]
    assert (stone["actor"], stone["reason"], stone["created_at"]) == (BOB, "spam", NOW)
    assert stone["rev"] == back.rev


async def test_a_new_version_after_the_acknowledged_deletion_is_a_new_grant(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({CHECK: TEXT}))
    await index.revoke(CHECK_URI)
    deleted = repo.commit({CHECK: None})
    await index.acknowledge(CHECK_URI, deleted.rev)
    await index.apply(deleted)
    await index.apply(repo.commit({CHECK: OTHER}))
    assert await index.is_live("verifications", CHECK_URI)
    assert (await deletion(index))["state"] == "confirmed"
    await index.apply(repo.commit({CHECK: TEXT}))
    assert not await index.is_live("verifications", CHECK_URI)


@pytest.mark.parametrize("state", ["pending", "blocked"])
async def test_an_update_in_flight_does_not_bring_a_revoked_record_back(
    index: Index, repo: Repo, state: str
) -> None:
    await index.apply(repo.commit({CHECK: TEXT}))
    await index.revoke(CHECK_URI, reason="spam")
    if state == "blocked":
        await index.block(ALICE)
    update = repo.commit({CHECK: OTHER})
    await index.apply(update)
    assert not await index.is_live("verifications", CHECK_URI)
    row = await deletion(index)
    assert (row["state"], row["record_rev"]) == (state, update.rev)
    stone = (await index.stones(CHECK_URI))[cid(OTHER)]
    assert (stone["cause"], stone["actor"], stone["reason"]) == ("revoked", ALICE, "spam")


async def test_an_update_that_its_deletion_overtook_does_not_live_either(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({CHECK: TEXT}))
    await index.revoke(CHECK_URI)
    update, deleted = repo.commit({CHECK: OTHER}), repo.commit({CHECK: None})
    await index.acknowledge(CHECK_URI, deleted.rev)
    await index.apply(update)
    assert not await index.is_live("verifications", CHECK_URI)
    await index.apply(deleted)
    assert (await deletion(index))["state"] == "confirmed"


async def test_what_a_person_gave_up_to_delete_stays_revoked_and_is_not_asked_for(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({CHECK: TEXT}))
    await index.revoke(CHECK_URI)
    await index.drop(CHECK_URI)
    await index.apply(repo.commit({CHECK: None}), repo.commit({CHECK: TEXT}))
    assert not await index.is_live("verifications", CHECK_URI)
    assert (await deletion(index))["state"] == "dropped"


@pytest.mark.parametrize("record", [TEXT, OTHER])
async def test_what_was_revoked_before_it_was_indexed_is_born_dead(
    index: Index, repo: Repo, record: dict[str, Any]
) -> None:
    create = repo.commit({CHECK: record})
    await index.revoke(CHECK_URI, seen=_Seen(cid(TEXT), repo.later()))
    await index.apply(create)
    assert not await index.is_live("verifications", CHECK_URI)
    await index.apply(repo.commit({CHECK: OTHER}))  # the deletion is still on its way
    assert not await index.is_live("verifications", CHECK_URI)


async def test_a_deletion_on_the_stream_confirms_the_outbox_and_an_older_one_does_not(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({CHECK: TEXT}))
    older = repo.commit({CHECK: None})
    again = repo.commit({CHECK: OTHER})
    newer = repo.commit({CHECK: None})
    await index.apply(again)
    await index.revoke(CHECK_URI)
    await index.apply(older)
    assert (await deletion(index))["state"] == "pending"
    await index.apply(newer)
    row = await deletion(index)
    assert (row["state"], row["commit_rev"]) == ("confirmed", newer.rev)
    assert not await index.is_live("verifications", CHECK_URI)


async def test_an_unreadable_record_in_its_place_confirms_the_deletion_of_an_invite_alone(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit(EVERYTHING))
    await index.revoke_token(GARDEN_URI)
    await index.revoke(CHECK_URI)
    await index.apply(repo.commit({ONE: {}, CHECK: {}}))
    states = [await index.deletion(uri) for uri in (repo.uri(ONE), CHECK_URI)]
    assert [row and row["state"] for row in states] == ["confirmed", "pending"]


@pytest.mark.parametrize("state", ["pending", "sent", "blocked"])
async def test_the_stream_confirms_a_deletion_from_whatever_state_it_is_in(
    index: Index, repo: Repo, state: str
) -> None:
    await index.apply(repo.commit({CHECK: TEXT}))
    await index.revoke(CHECK_URI)
    gone = repo.commit({CHECK: None})
    if state == "sent":
        await index.acknowledge(CHECK_URI, gone.rev)
    elif state == "blocked":
        await index.block(ALICE)
    await index.apply(gone)
    row = await deletion(index)
    assert (row["state"], row["error"]) == ("confirmed", None)


@pytest.mark.parametrize("blocked", [False, True])
async def test_a_deletion_and_a_put_back_in_one_batch_do_what_they_do_in_two(
    tmp_path: Path, blocked: bool
) -> None:
    dumps = []
    for apart in (False, True):
        repo = Repo()
        async with opened(tmp_path, f"{apart}.db") as index:
            await index.apply(repo.commit({CHECK: TEXT}))
            await index.revoke(CHECK_URI)
            if blocked:
                await index.block(ALICE)
            changes = [repo.commit({CHECK: None}), repo.commit({CHECK: TEXT})]
            await (index.apply_each if apart else index.apply)(*changes)
            dumps.append(await index.dump())
    assert dumps[0] == dumps[1]


# --- revoked tokens ---


async def test_a_revoked_token_kills_every_record_with_it(index: Index, repo: Repo) -> None:
    both = {ONE: invite(GARDEN_URI), TWO: invite(GARDEN_URI, note="again")}
    await index.apply(repo.commit({GARDEN: space(), **both}))
    assert await index.revoke_token(GARDEN_URI)
    for path in (ONE, TWO):
        assert not await index.is_live("invites", repo.uri(path))
        assert (await deletion(index, repo.uri(path)))["state"] == "pending"
    assert await invites.count_live(index.db) == 0


async def test_a_revoked_token_in_a_new_record_is_born_dead(index: Index, repo: Repo) -> None:
    await index.apply(repo.commit({GARDEN: space(), ONE: invite(GARDEN_URI)}))
    await index.revoke_token(GARDEN_URI)
    index.now += 1_000
    await index.apply(repo.commit({TWO: invite(GARDEN_URI, maxUses=5)}))
    assert not await index.is_live("invites", repo.uri(TWO))
    assert (await deletion(index, repo.uri(TWO)))["state"] == "pending"
    (stone,) = (await index.stones(repo.uri(TWO))).values()
    assert (stone["cause"], stone["actor"], stone["created_at"]) == ("revoked", ALICE, NOW)


async def test_a_revoked_token_stays_usable_in_another_space(index: Index, repo: Repo) -> None:
    yard = f"at://{ALICE}/{SPACE}/yard"
    await index.apply(repo.commit({ONE: invite(GARDEN_URI), TWO: invite(yard)}))
    await index.revoke_token(GARDEN_URI)
    assert not await index.is_live("invites", repo.uri(ONE))
    assert await index.is_live("invites", repo.uri(TWO))


async def test_a_deleted_invites_token_can_be_revoked_and_does_not_come_back(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({GARDEN: space(), ONE: invite(GARDEN_URI)}))
    await index.apply(repo.commit({ONE: None}))
    assert await index.revoke_token(GARDEN_URI)
    assert await index.deletion(repo.uri(ONE)) is None  # there is nothing to delete
    await index.apply(repo.commit({ONE: invite(GARDEN_URI)}))
    assert not await index.is_live("invites", repo.uri(ONE))
    assert (await deletion(index, repo.uri(ONE)))["state"] == "pending"


async def test_an_invite_that_carries_another_token_now_is_another_invite(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({GARDEN: space(), ONE: invite(GARDEN_URI)}))
    await index.revoke_token(GARDEN_URI)
    await index.apply(repo.commit({ONE: invite(GARDEN_URI, "other")}))
    assert await index.is_live("invites", repo.uri(ONE))
    assert (await deletion(index, repo.uri(ONE)))["state"] == "confirmed"
    await index.apply(repo.commit({ONE: invite(GARDEN_URI)}))
    assert not await index.is_live("invites", repo.uri(ONE))


async def test_a_space_that_is_deleted_is_still_known(index: Index, repo: Repo) -> None:
    await index.apply(repo.commit({GARDEN: space()}), repo.commit({GARDEN: None}))
    assert await spaces.is_known(index.db, GARDEN_URI)
    assert not await spaces.is_known(index.db, f"{GARDEN_URI}x")
