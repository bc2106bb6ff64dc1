"""A repo is out of step once anything of it was missed, and never without that."""

from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from indexer.rules.projection import Desynchronize
from tests.support.alices_records import (
    CHECK,
    CHECK_URI,
    EVERYTHING,
    GARDEN,
    GARDEN_URI,
    ONE,
    OTHER,
    TEXT,
    cid,
    shown,
)
from tests.support.frames import BOB, invite, space, tid
from tests.support.index_file import RELAY, Index, Repo, index, repo

__all__ = ["index", "repo"]  # fixtures


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
