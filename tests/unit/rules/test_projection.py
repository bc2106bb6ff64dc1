"""What a proven event does to the index, on a real file: by revision, and once."""

import asyncio
import time
from itertools import count
from pathlib import Path

import pytest

from indexer.rules.projection import Change, Desynchronize
from indexer.store import invites, verifications
from tests.support.alices_records import (
    CHECK,
    CHECK_URI,
    GARDEN,
    GARDEN_URI,
    ONE,
    OTHER,
    TEXT,
    TWO,
    cid,
)
from tests.support.frames import (
    ALICE,
    BOB,
    SPACE,
    VERIFICATION,
    hash_of,
    invite,
    space,
    verification,
)
from tests.support.index_file import Index, Repo, index, opened, repo

__all__ = ["index", "repo"]  # fixtures

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
    monkeypatch.setattr("indexer.turns.TURN", 0.0)
    hostile = {f"{VERIFICATION}/{n}": verification(x=[[n]] + [[]] * 19_000) for n in range(20)}
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


# --- batches ---


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
