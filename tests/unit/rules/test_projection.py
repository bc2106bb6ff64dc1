"""What a proven event does to the index, on a real file: by revision, and once."""

import asyncio
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from indexer.rules import projection
from indexer.rules.projection import Change, Desynchronize, Projection
from indexer.store import invites, spaces, verifications
from indexer.stream.events import Account
from tests.support.frames import (
    ALICE,
    BOB,
    INVITE,
    NOW,
    SCOPE,
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
from tests.support.index_file import RELAY, Index, Repo, index, opened
from xrpc.methods.verifications import _Seen

__all__ = ["index"]  # fixtures

GARDEN = f"{SPACE}/garden"
GARDEN_URI = f"at://{ALICE}/{GARDEN}"
ONE = f"{INVITE}/one"
TWO = f"{INVITE}/two"
CHECK = f"{VERIFICATION}/3k"
CHECK_URI = f"at://{ALICE}/{CHECK}"

TEXT = verification()
OTHER = verification(displayName="Caroline")


@pytest.fixture
def repo() -> Repo:
    return Repo()


def cid(record: Any) -> str:
    return cid_text(block(record))


# --- records ---


async def test_a_created_record_is_indexed_an_update_replaces_it_and_a_deletion_removes_it(
    index: Index, repo: Repo
) -> None:
    created = repo.commit({GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: TEXT})
    await index.apply(created)
    assert await index.row("spaces", GARDEN_URI) == {
        "uri": GARDEN_URI,
        "did": ALICE,
        "cid": cid(space()),
        "rev": created.rev,
        "revoked": 0,
        "name": "Garden",
        "description": None,
        "created_at": 1_769_860_800_000,
    }
    assert await index.is_live("invites", repo.uri(ONE))
    assert await index.is_live("verifications", CHECK_URI)

    updated = repo.commit(
        {GARDEN: space(name="Yard"), ONE: invite(GARDEN_URI, "new"), CHECK: OTHER}
    )
    await index.apply(updated)
    garden = await index.row("spaces", GARDEN_URI)
    assert garden is not None
    assert (garden["name"], garden["rev"]) == ("Yard", updated.rev)
    one = await index.row("invites", repo.uri(ONE))
    assert one is not None
    assert one["token_hash"] == hash_of("new")
    check = await index.row("verifications", CHECK_URI)
    assert check is not None
    assert check["display_name"] == "Caroline"

    deleted = repo.commit({GARDEN: None, ONE: None, CHECK: None})
    await index.apply(deleted)
    for table in ("spaces", "invites", "verifications"):
        assert await index.rows(table) == []
    stones = await index.stones(repo.uri(ONE))
    (stone,) = stones.values()
    assert (stone["cause"], stone["rev"], stone["actor"]) == ("deleted", deleted.rev, None)
    assert (stone["space_uri"], stone["token_hash"]) == (GARDEN_URI, hash_of("new"))
    state = await index.repo()
    assert (state["rev"], state["data"], state["sync"]) == (repo.rev, repo.data, "synchronized")


@pytest.mark.parametrize("sync", ["synchronized", "pending", "desynchronized"])
async def test_an_older_revision_changes_nothing(index: Index, repo: Repo, sync: str) -> None:
    commits = [
        repo.commit({CHECK: TEXT, GARDEN: space()}),
        repo.commit({CHECK: OTHER, ONE: invite(GARDEN_URI)}),
        repo.commit({GARDEN: None, ONE: b"unreadable"}),
        repo.commit({ONE: None}),
    ]
    await index.apply_each(*commits)
    async with index.db.transaction() as tx:
        await tx.execute("update repos set sync = :sync", {"sync": sync})
    before = await index.dump()
    for old in (commits[:1], commits[1:2], commits[::-1], commits):
        await index.apply(*old)
        assert await index.dump() == before


async def test_a_record_that_does_not_fit_is_counted_and_removes_what_stood_there(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: TEXT}))
    broken = repo.commit({GARDEN: space(name=5), ONE: b"unreadable", CHECK: {}})
    assert await index.apply(broken) == ["invalid_record"] * 3
    for table in ("spaces", "invites", "verifications"):
        assert await index.rows(table) == []
    stones = await index.stones(CHECK_URI)
    assert {stone["cause"] for stone in stones.values()} == {"replaced"}
    assert set(stones) == {cid(TEXT), cid({})}
    again = repo.commit({CHECK: TEXT})
    assert await index.apply(again) == []
    assert await index.is_live("verifications", CHECK_URI)


async def test_a_record_that_never_fitted_is_not_indexed(index: Index, repo: Repo) -> None:
    assert await index.apply(repo.commit({CHECK: {"$type": VERIFICATION}})) == ["invalid_record"]
    assert await index.rows("verifications") == []
    assert (await index.repo())["sync"] == "synchronized"


async def test_one_content_at_many_paths_is_many_records(index: Index, repo: Repo) -> None:
    paths = [f"{VERIFICATION}/{n}" for n in range(5)]
    await index.apply(repo.commit(dict.fromkeys(paths, TEXT)))
    assert await verifications.count_live(index.db) == 5
    broken = repo.commit({path: {"$type": VERIFICATION} for path in paths})
    assert await index.apply(broken) == ["invalid_record"] * 5


async def test_a_deletion_of_what_was_never_seen_holds_against_the_late_create(
    index: Index, repo: Repo
) -> None:
    create, delete = repo.commit({CHECK: TEXT}), repo.commit({CHECK: None})
    await index.apply(delete)
    assert (await index.stones(CHECK_URI))[cid(TEXT)]["rev"] == delete.rev
    await index.apply(create)
    assert await index.rows("verifications") == []


async def test_a_deletion_of_what_is_gone_already_holds_against_a_late_put_back(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({CHECK: TEXT}), repo.commit({CHECK: None}))
    back, gone_again = repo.commit({CHECK: OTHER}), repo.commit({CHECK: None})
    await index.apply(gone_again)
    await index.apply(back)
    assert await index.rows("verifications") == []


async def test_records_that_are_slow_to_check_leave_turns_to_others(
    index: Index, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "TURN", 0.0)
    hostile = {f"{VERIFICATION}/{n}": verification(x=[[n]] + [[]] * 60_000) for n in range(20)}
    turns = 0  # that others had to wait for: one a record, and not one for all

    async def wait_in_turn() -> None:
        nonlocal turns
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            turns += time.perf_counter() - before > 0.001

    waiting = asyncio.create_task(wait_in_turn())
    await index.apply(repo.commit(hostile))
    waiting.cancel()
    assert turns >= 15


# --- whose invites count ---


async def test_a_strangers_invite_lies_apart_and_never_counts(index: Index) -> None:
    stranger = Repo(BOB)
    await index.apply(stranger.commit({ONE: invite(GARDEN_URI)}))
    assert await index.rows("invites") == []
    (row,) = await index.rows("untrusted_invites")
    assert (row["did"], row["space_uri"]) == (BOB, GARDEN_URI)
    assert await invites.count_live(index.db) == 0
    async with index.db.transaction() as tx:
        assert await invites.with_token(tx, GARDEN_URI, hash_of("token")) == []


@pytest.mark.parametrize("apart", [True, False])
async def test_an_invite_changes_its_place_when_its_space_changes(
    index: Index, repo: Repo, apart: bool
) -> None:
    theirs = f"at://{BOB}/{SPACE}/yard"
    changes = [repo.commit({ONE: invite(uri)}) for uri in (theirs, GARDEN_URI, theirs, GARDEN_URI)]
    places = [("untrusted_invites", "invites"), ("invites", "untrusted_invites")] * 2
    if not apart:
        changes, places = changes[:3], places[2:3]
        await index.apply(*changes)
        changes = []
    for change in changes:
        here, there = places.pop(0)
        await index.apply(change)
        assert len(await index.rows(here)) == 1
        assert await index.rows(there) == []
    for here, there in places:
        assert len(await index.rows(here)) == 1
        assert await index.rows(there) == []


async def test_a_strangers_invite_is_deleted_by_its_repo_and_stays_so(index: Index) -> None:
    stranger = Repo(BOB)
    create, delete = stranger.commit({ONE: invite(GARDEN_URI)}), stranger.commit({ONE: None})
    await index.apply_each(create, delete)
    async with index.db.transaction() as tx:
        await tx.execute("update repos set sync = 'desynchronized'")
    await index.apply_each(create)
    assert await index.rows("untrusted_invites") == []
    (stone,) = (await index.stones(stranger.uri(ONE))).values()
    assert (stone["space_uri"], stone["token_hash"]) == (None, None)


async def test_a_revoked_token_of_a_space_says_nothing_of_a_strangers_record(index: Index) -> None:
    owner, stranger = Repo(), Repo(BOB)
    await index.apply(owner.commit({GARDEN: space(), ONE: invite(GARDEN_URI)}))
    await index.revoke_token(GARDEN_URI)
    await index.apply(stranger.commit({ONE: invite(GARDEN_URI)}))
    assert await index.deletion(stranger.uri(ONE)) is None
    assert len(await index.rows("untrusted_invites")) == 1


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


async def deletion(index: Index, uri: str = CHECK_URI) -> dict[str, Any]:
    row = await index.deletion(uri)
    assert row is not None
    return row


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


# --- accounts ---

EVERYTHING = {GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: TEXT}


async def shown(index: Index) -> list[int]:
    return [await table.count_live(index.db) for table in (spaces, invites, verifications)]


@pytest.mark.parametrize(
    ("status", "hosting"),
    [
        ("deactivated", "deactivated"),
        ("suspended", "suspended"),
        ("takendown", "takendown"),
        (None, "inactive"),
        ("throttled", "inactive"),
        ("active", "inactive"),
    ],
)
async def test_an_inactive_account_is_hidden_and_shown_again_when_it_is_back(
    index: Index, repo: Repo, status: str | None, hosting: str
) -> None:
    await index.apply(repo.commit(EVERYTHING))
    await index.revoke(CHECK_URI)
    await index.apply(repo.account(False, status))
    assert (await index.repo())["hosting"] == hosting
    assert await shown(index) == [0, 0, 0]
    assert len(await index.rows("spaces")) == 1
    await index.apply(repo.account(True))
    assert await shown(index) == [1, 1, 0]
    state = await index.repo()
    assert (state["hosting"], state["sync"]) == ("active", "desynchronized")


async def test_the_token_of_an_account_that_was_deleted_can_be_revoked_whatever_was_missed(
    index: Index, repo: Repo
) -> None:
    repo.commit({GARDEN: space(), ONE: invite(GARDEN_URI)})  # never seen
    await index.apply(repo.commit({ONE: None}))
    await index.apply(repo.commit({GARDEN: space(name="Yard"), ONE: invite(GARDEN_URI)}))
    await index.apply(repo.account(False, "deleted"))
    assert await index.revoke_token(GARDEN_URI)


async def test_a_deleted_account_leaves_tombstones_and_nothing_else(
    index: Index, repo: Repo
) -> None:
    commit = repo.commit({**EVERYTHING, TWO: invite(f"at://{BOB}/{SPACE}/x")})
    await index.apply(commit)
    await index.revoke(CHECK_URI, reason="spam")
    await index.apply(repo.account(False, "deleted"))
    for table in ("spaces", "invites", "untrusted_invites", "verifications"):
        assert await index.rows(table) == []
    causes = {row["uri"]: row["cause"] for row in await index.rows("tombstones")}
    assert causes == {
        GARDEN_URI: "purged",
        repo.uri(ONE): "purged",
        repo.uri(TWO): "purged",
        CHECK_URI: "revoked",
    }
    before = await index.dump()
    async with index.db.transaction() as tx:
        await tx.execute("update repos set sync = 'desynchronized'")
    await index.apply(commit)
    async with index.db.transaction() as tx:
        await tx.execute("update repos set sync = 'synchronized'")
    assert await index.dump() == before


@pytest.mark.parametrize("apart", [True, False])
async def test_a_deleted_account_loses_what_it_wrote_in_the_same_batch(
    index: Index, repo: Repo, apart: bool
) -> None:
    changes: list[Change] = [
        repo.commit(EVERYTHING),
        repo.account(False, "deleted"),
        repo.account(True),
        repo.commit({CHECK: OTHER}),
    ]
    await (index.apply_each if apart else index.apply)(*changes)
    assert await shown(index) == [0, 0, 1]


async def test_active_decides_whatever_the_status_says(index: Index, repo: Repo) -> None:
    await index.apply(repo.commit(EVERYTHING))
    await index.apply(repo.account(True, "deleted"))
    assert await shown(index) == [1, 1, 1]


async def test_older_account_events_of_the_same_relay_change_nothing(
    index: Index, repo: Repo
) -> None:
    events: list[Change] = [
        repo.commit(EVERYTHING),
        repo.account(False, "deactivated"),
        repo.account(True),
    ]
    await index.apply_each(*events)
    before = await index.dump()
    await index.apply_each(*events[1:], *events)
    await index.apply(*reversed(events))
    assert await index.dump() == before


async def test_an_account_event_from_before_the_first_commit_is_old(index: Index) -> None:
    seqs = count(1)
    repo = Repo(seqs=seqs)
    old = repo.account(False, "deleted")
    await index.apply(repo.commit(EVERYTHING))
    await index.apply(old)
    assert await shown(index) == [1, 1, 1]


async def test_an_account_event_from_before_the_first_commit_is_old_also_for_a_known_repo(
    index: Index, repo: Repo
) -> None:
    old = repo.account(False, "takendown")
    create = repo.commit(EVERYTHING)
    await index.revoke(CHECK_URI, seen=_Seen(cid(TEXT), create.rev))  # a caller was first
    await index.apply_each(create, old)
    assert (await index.repo())["hosting"] == "active"


async def test_what_was_rejected_before_an_account_was_put_away_puts_it_in_no_doubt(
    index: Index, repo: Repo
) -> None:
    forged = repo.rejected(None)
    await index.apply_each(repo.commit(EVERYTHING), repo.account(False, "deactivated"))
    before = await index.dump()
    await index.apply(forged)
    assert await index.dump() == before
    await index.apply(repo.rejected(None))
    assert (await index.repo())["sync"] == "desynchronized"


async def test_account_events_of_two_relays_are_ordered_by_their_time(
    index: Index, repo: Repo
) -> None:
    other = Projection(SCOPE, "other.test")

    async def from_other(event: Account) -> None:
        async with index.db.transaction() as tx:
            await other.apply(tx, [event], NOW)

    early, late = TIME.replace(":20", ":19"), TIME.replace(":20", ":21")
    await index.apply(repo.commit(EVERYTHING), repo.account(False, "suspended"))
    await from_other(repo.account(True, seq=9_999, time=early))
    assert (await index.repo())["hosting"] == "suspended"
    await from_other(repo.account(True, seq=1, time=late))
    assert (await index.repo())["hosting"] == "active"


@pytest.mark.parametrize("late", ["2026-09-21T14:13:20Z", "2026-09-21T16:13:20+02:00", None, "x"])
async def test_times_of_two_relays_are_compared_and_not_their_spelling(
    index: Index, repo: Repo, late: str | None
) -> None:
    await index.apply(repo.commit(EVERYTHING, time=TIME.replace("000Z", "001Z")))
    async with index.db.transaction() as tx:
        await Projection(SCOPE, "other.test").apply(
            tx, [repo.account(False, "suspended", time=late)], NOW
        )
    assert (await index.repo())["hosting"] == "active"


async def test_a_relay_whose_clock_runs_ahead_does_not_silence_the_others(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit(EVERYTHING))
    await index.apply(repo.account(False, "suspended", time="9999-01-01T00:00:00Z"))
    async with index.db.transaction() as tx:
        back = repo.account(True, time=TIME.replace(":20", ":21"))
        await Projection(SCOPE, "other.test").apply(tx, [back], NOW + 2_000)
    assert (await index.repo())["hosting"] == "active"


async def test_a_relay_that_numbers_anew_is_heard_again(index: Index, repo: Repo) -> None:
    await index.apply(repo.commit(EVERYTHING, seq=9_000), repo.account(True, seq=9_001))
    later = TIME.replace(":20", ":21")
    gone = repo.account(False, "deleted", seq=5, time=later)
    await index.apply(gone)
    assert await shown(index) == [1, 1, 1]  # in the sequence that we know, that is old
    await index.apply(Desynchronize(renumbered=True), gone)
    assert await shown(index) == [0, 0, 0]


# --- the chain of revisions ---


@pytest.mark.parametrize(
    "gap",
    [
        {"since": tid(77)},
        {"since": None},
        {"prev_data": cid("another root")},
        {"since": tid(77), "prev_data": cid("another root")},
    ],
)
async def test_a_gap_in_the_chain_makes_a_repo_desynchronized(
    index: Index, repo: Repo, gap: dict[str, Any]
) -> None:
    await index.apply(repo.commit(EVERYTHING))
    await index.apply(repo.commit({CHECK: OTHER}, **gap))
    state = await index.repo()
    assert (state["sync"], state["rev"], state["data"]) == ("desynchronized", repo.rev, repo.data)
    await index.apply(repo.commit({}))
    assert (await index.repo())["sync"] == "desynchronized"  # until it is rebuilt
    row = await index.row("verifications", CHECK_URI)
    assert row is not None
    assert row["display_name"] == "Caroline"  # what is proven counts all the same


async def test_a_host_of_the_old_form_that_names_no_prev_data_leaves_no_gap(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit(EVERYTHING, prev_data=None))
    await index.apply(repo.commit({CHECK: OTHER}, prev_data=None))
    assert (await index.repo())["sync"] == "synchronized"


async def test_a_repo_that_is_met_in_the_middle_of_its_life_is_pending(
    index: Index, repo: Repo
) -> None:
    repo.commit({GARDEN: space()})
    await index.apply(repo.commit({CHECK: TEXT}))
    assert (await index.repo())["sync"] == "pending"
    assert await index.is_live("verifications", CHECK_URI)


async def test_a_commit_in_the_middle_that_names_no_since_does_not_make_a_repo_whole(
    index: Index, repo: Repo
) -> None:
    repo.commit(EVERYTHING)
    await index.apply(repo.commit({CHECK: OTHER}, since=None))
    assert (await index.repo())["sync"] == "pending"


async def test_a_part_of_the_past_played_into_a_repo_in_doubt_takes_nothing_away(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit({CHECK: TEXT}))
    gone, _ = repo.commit({CHECK: None}), repo.commit({CHECK: TEXT})
    async with index.db.transaction() as tx:  # as a copy that has it unchanged, and then a gap
        await tx.execute(
            "update repos set rev = :rev, whole_rev = :rev, sync = 'desynchronized'",
            {"rev": repo.rev},
        )
    await index.apply(gone)
    assert await index.is_live("verifications", CHECK_URI)


async def test_the_past_of_a_pending_repo_can_be_played_later(index: Index, repo: Repo) -> None:
    past = [repo.commit({GARDEN: space()}), repo.commit({CHECK: TEXT, ONE: invite(GARDEN_URI)})]
    await index.apply(repo.commit({CHECK: OTHER}), repo.commit({ONE: None}))
    await index.apply(*past)
    assert await shown(index) == [1, 0, 1]
    check = await index.row("verifications", CHECK_URI)
    assert check is not None
    assert check["cid"] == cid(OTHER)
    assert (await index.repo())["rev"] == repo.rev


async def test_a_sync_to_where_the_repo_stands_changes_nothing(index: Index, repo: Repo) -> None:
    await index.apply(repo.commit(EVERYTHING))
    before = await index.dump()
    await index.apply(repo.sync())
    assert await index.dump() == before


async def test_a_sync_to_another_state_makes_a_repo_desynchronized(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit(EVERYTHING))
    sync = repo.sync(cid("another root"), repo.later())
    await index.apply(sync)
    state = await index.repo()
    assert (state["sync"], state["rev"], state["data"]) == ("desynchronized", sync.rev, sync.data)


async def test_a_sync_to_a_later_rev_of_the_same_state_is_no_gap(index: Index, repo: Repo) -> None:
    await index.apply(repo.commit(EVERYTHING))
    sync = repo.sync(rev=repo.later())
    await index.apply(sync)
    state = await index.repo()
    assert (state["sync"], state["rev"]) == ("synchronized", sync.rev)


async def test_a_sync_to_another_state_at_the_same_rev_makes_a_repo_desynchronized(
    index: Index, repo: Repo
) -> None:
    commit = repo.commit(EVERYTHING)
    await index.apply(commit)
    other = repo.sync(cid("another root"))
    await index.apply(other)
    before = await index.dump()
    assert (await index.repo())["sync"] == "desynchronized"
    await index.apply(commit, other)
    assert await index.dump() == before


async def test_an_old_sync_changes_nothing(index: Index, repo: Repo) -> None:
    await index.apply(repo.commit({GARDEN: space()}))
    old = repo.sync(cid("another root"), repo.rev)
    await index.apply(repo.commit({CHECK: TEXT}))
    before = await index.dump()
    await index.apply(old)
    assert await index.dump() == before


async def test_a_rejected_commit_makes_its_repo_desynchronized_once(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit(EVERYTHING))
    rejected = repo.rejected(tid(0))
    await index.apply(rejected)
    assert (await index.repo())["sync"] == "synchronized"  # it lies behind us
    await index.apply(repo.rejected(repo.later()))
    assert (await index.repo())["sync"] == "desynchronized"


async def test_a_rejected_commit_of_an_unknown_repo_names_a_repo_to_rebuild(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.rejected(None))
    state = await index.repo()
    assert (state["sync"], state["rev"], state["hosting"]) == ("desynchronized", None, "active")
    assert state["hosting_relay"] == RELAY


async def test_a_rejected_frame_that_names_nobody_concerns_no_repo(
    index: Index, repo: Repo
) -> None:
    await index.apply(replace(repo.rejected(None), did=None))
    assert await index.rows("repos") == []


async def test_what_was_missed_makes_every_repo_desynchronized_but_the_deleted(
    index: Index,
) -> None:
    seqs = count(1)
    alice, bob = Repo(seqs=seqs), Repo(BOB, seqs)
    await index.apply(alice.commit(EVERYTHING), bob.commit({CHECK: TEXT}))
    await index.apply(bob.account(False, "deleted"))
    await index.apply(Desynchronize())
    assert (await index.repo())["sync"] == "desynchronized"
    assert (await index.repo(BOB))["sync"] == "synchronized"


def story() -> list[Change]:
    """Return one history with something of everything."""
    seqs = count(1)
    alice, bob = Repo(seqs=seqs), Repo(BOB, seqs)
    theirs = f"at://{BOB}/{SPACE}/yard"
    return [
        alice.commit({GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: TEXT}),
        bob.commit({ONE: invite(GARDEN_URI), CHECK: TEXT}),
        alice.commit({ONE: invite(theirs), TWO: invite(GARDEN_URI, "two")}),
        bob.commit({ONE: None, f"{SPACE}/yard": space()}),
        alice.account(False, "deactivated"),
        alice.commit({CHECK: b"unreadable", ONE: invite(GARDEN_URI, "three")}),
        bob.account(False, "deleted"),
        Desynchronize(),
        bob.account(True),
        alice.account(True),
        bob.commit({CHECK: OTHER, ONE: invite(theirs)}),
        alice.sync(cid("another root"), alice.later()),
        alice.commit({CHECK: OTHER, TWO: None}),
        bob.rejected(bob.later()),
        bob.commit({ONE: None}),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
async def test_one_batch_and_many_give_the_same_index(tmp_path: Path, size: int) -> None:
    changes = story()
    dumps = []
    for step in (len(changes), size):
        async with opened(tmp_path, f"{step}.db") as index:
            for first in range(0, len(changes), step):
                await index.apply(*changes[first : first + step])
            dumps.append(await index.dump())
    assert dumps[0] == dumps[1]
