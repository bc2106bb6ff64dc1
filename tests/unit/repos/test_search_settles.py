"""A search is settled once all that it found is known, and no host can put that off for ever."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.net.guard import guarded_client
from indexer.repos.backfill import Backfiller
from indexer.store import backfills, invite_tokens, repos, resyncs
from indexer.store.db import Database
from tests.support.frames import ALICE, BOB, CAROL, COLLECTIONS
from tests.support.index_file import RELAY, Index, Repo, opened


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    async with opened(tmp_path) as index:
        async with index.db.transaction() as tx:
            await backfills.begin(tx, RELAY, COLLECTIONS)
            for did in (ALICE, BOB):
                await invite_tokens.note(tx, [(f"at://{did}/a.b.c/d", did[-1] * 64)], decide=False)
            await repos.track(tx, [ALICE, BOB])
        yield index


async def end_searches(db: Database) -> None:
    """Let the relay have no more to list."""
    for search in await backfills.load(db, RELAY):
        async with db.transaction() as tx:
            await backfills.advance(tx, RELAY, search, None, 2, 1)


async def fetch(db: Database, did: str, error: str | None = None) -> None:
    """Let one attempt at a repo end."""
    async with db.transaction() as tx:
        await resyncs.claim(tx, [did], 10**15)
        if error is None:
            await tx.execute("update repos set sync = 'synchronized' where did = :d", {"d": did})
            await resyncs.end(tx, did)
        else:
            await resyncs.put_off(tx, did, error, 10**15)


async def is_settled(db: Database) -> bool:
    """Let the daemon look, and return whether it is settled."""
    async with guarded_client(allow_private=True) as client:
        await Backfiller(db, client, relay_url="http://127.0.0.1:1", relay=RELAY).settle()
    owned = await invite_tokens.owned_space(db, ALICE[-1] * 64) is not None
    assert owned == await backfills.is_settled(db, RELAY)
    return owned


async def test_it_waits_for_the_last_page_and_for_each_repo_that_was_found(index: Index) -> None:
    assert not await is_settled(index.db)
    await fetch(index.db, ALICE)
    assert not await is_settled(index.db)
    await end_searches(index.db)
    assert not await is_settled(index.db)
    await fetch(index.db, BOB)
    assert await is_settled(index.db)


async def test_a_host_that_does_not_answer_holds_up_nobody_but_itself(index: Index) -> None:
    await fetch(index.db, ALICE, "no answer")  # before the end of the search
    await end_searches(index.db)
    await fetch(index.db, BOB, "no answer")  # after it
    assert await is_settled(index.db)


async def test_a_host_that_puts_off_and_off_again_is_waited_for_a_few_times(index: Index) -> None:
    async def postpone() -> None:
        async with index.db.transaction() as tx:
            await resyncs.claim(tx, [BOB], 10**15)
            await resyncs.put_off(tx, BOB, "its limits are near", 10**15, counts=False)

    await fetch(index.db, ALICE)
    await postpone()  # before the end of the search: that was no attempt
    await end_searches(index.db)
    for _ in range(backfills.PATIENCE):
        assert not await is_settled(index.db)
        await postpone()
    assert await is_settled(index.db)


async def test_repos_that_come_later_are_not_waited_for(index: Index) -> None:
    await end_searches(index.db)
    for did in (ALICE, BOB):
        await fetch(index.db, did)
    async with index.db.transaction() as tx:
        await repos.track(tx, [CAROL])
    assert await is_settled(index.db)


async def test_a_repo_that_goes_out_of_step_again_and_again_is_not_waited_for(
    index: Index,
) -> None:
    await end_searches(index.db)
    for did in (ALICE, BOB):
        await fetch(index.db, did)
    await index.apply(Repo(BOB).rejected(None))
    assert (await index.repo(BOB))["sync"] == "desynchronized"
    assert await is_settled(index.db)


@pytest.mark.parametrize("status", ["deactivated", "deleted"])
async def test_an_account_that_is_gone_is_not_waited_for(index: Index, status: str) -> None:
    await end_searches(index.db)
    await fetch(index.db, ALICE)
    await index.apply(Repo(BOB).account(False, status))
    assert await is_settled(index.db)


async def test_a_repo_whose_first_commit_comes_by_the_stream_is_whole(index: Index) -> None:
    await end_searches(index.db)
    await fetch(index.db, ALICE)
    await index.apply(Repo(BOB).commit({}))
    assert (await index.repo(BOB))["sync"] == "synchronized"
    assert await is_settled(index.db)


async def test_it_survives_a_restart_between_any_two_steps(tmp_path: Path) -> None:
    async with opened(tmp_path) as index, index.db.transaction() as tx:
        await backfills.begin(tx, RELAY, COLLECTIONS)
        await repos.track(tx, [ALICE])
        await invite_tokens.note(tx, [(f"at://{ALICE}/a.b.c/d", ALICE[-1] * 64)], decide=False)
    async with opened(tmp_path) as index:
        await end_searches(index.db)
        assert not await is_settled(index.db)
    async with opened(tmp_path) as index:
        async with index.db.transaction() as tx:
            await resyncs.release(tx, 1)
            await backfills.begin(tx, RELAY, COLLECTIONS)
        assert not await is_settled(index.db)
        await fetch(index.db, ALICE)
    async with opened(tmp_path) as index:
        assert await is_settled(index.db)
