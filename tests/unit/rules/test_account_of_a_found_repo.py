"""Of a repo that a search found, what comes live is newer, whatever time it bears, if any."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.lexicon.syntax import format_datetime
from indexer.rules.projection import Projection
from indexer.store import repos, resyncs
from tests.support.frames import ALICE, NOW, SCOPE, SPACE, VERIFICATION, space, verification
from tests.support.index_file import RELAY, Index, Repo, opened
from tests.support.streamed_repo import Owner

CHECK = f"{VERIFICATION}/3k"
RECORDS = {f"{SPACE}/garden": space(), CHECK: verification()}
TIMES = {
    "none": None,
    "empty": "",
    "unreadable": "yesterday",
    "a clock 5 s behind": format_datetime(NOW - 5_000),
    "a clock of 1970": format_datetime(0),
    "a clock an hour ahead": format_datetime(NOW + 3_600_000),
}
ANY_TIME = pytest.mark.parametrize("time", TIMES.values(), ids=TIMES)


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    async with opened(tmp_path) as index:
        yield index


async def found(index: Index) -> Repo:
    """Let a search find a repo, and let it be fetched whole; return it, to go on."""
    owner = Owner()
    owner.wrote(RECORDS)
    async with index.db.transaction() as tx:
        await repos.track(tx, [ALICE], NOW)
        await index.projection.reconcile(tx, owner.copy(), NOW)
        await resyncs.end(tx, ALICE)
    repo = Repo()
    copy = owner.copy()
    repo.later()
    repo.rev, repo.data = copy.rev, copy.data
    repo.cids = {path: cid for path, (cid, _) in copy.records.items()}
    return repo


async def hosting(index: Index) -> str:
    return str((await index.repo())["hosting"])


@ANY_TIME
@pytest.mark.parametrize("commits", [0, 10])
async def test_a_deleted_account_is_gone_with_its_records(
    index: Index, time: str | None, commits: int
) -> None:
    repo = await found(index)
    for number in range(commits):
        record = verification(displayName=str(number))
        await index.apply(repo.commit({CHECK: record}, time=time))
    assert (await index.repo())["sync"] == "synchronized"
    await index.apply(repo.account(False, "deleted", time=time))
    assert await hosting(index) == "deleted"
    assert await index.rows("verifications") == await index.rows("spaces") == []


@ANY_TIME
async def test_within_the_stream_the_order_is_that_of_its_seqs(
    index: Index, time: str | None
) -> None:
    repo = await found(index)
    hidden, back = repo.account(False, "takendown", time=time), repo.account(True, time=time)
    for change, state in ((hidden, "takendown"), (back, "active"), (hidden, "active")):
        await index.apply(change)
        assert await hosting(index) == state


@ANY_TIME
async def test_what_its_host_has_answered_meanwhile_does_not_outlast_the_streams_word(
    index: Index, time: str | None
) -> None:
    async with index.db.transaction() as tx:
        await repos.track(tx, [ALICE], NOW)
        await repos.set_hosting(tx, ALICE, "deactivated", None)
    await index.apply(Repo().account(True, time=time))
    assert await hosting(index) == "active"


@pytest.mark.parametrize("time", [None, "", "yesterday"])
async def test_of_two_relays_one_that_names_no_time_has_the_accounts_host_asked(
    index: Index, time: str | None
) -> None:
    repo = await found(index)
    await index.apply(repo.account(True))
    gone = repo.account(False, "deleted", time=time)
    async with index.db.transaction() as tx:
        await Projection(SCOPE, "other.test").apply(tx, [gone], NOW)
    assert await hosting(index) == "active"
    assert await resyncs.due(index.db, NOW, 9) == [ALICE]


async def test_between_two_relays_the_dates_decide(index: Index) -> None:
    repo = await found(index)
    await index.apply(repo.account(True, time=format_datetime(NOW)))
    old = repo.account(False, "takendown", time=format_datetime(NOW - 1))
    async with index.db.transaction() as tx:
        await Projection(SCOPE, "other.test").apply(tx, [old], NOW)
    assert await hosting(index) == "active"


@ANY_TIME
async def test_a_replay_is_still_held_to_what_is_known(index: Index, time: str | None) -> None:
    repo = await found(index)
    if time == TIMES["a clock an hour ahead"]:
        time = format_datetime(NOW - 3_600_000)
    await index.replay(repo.account(False, "deleted", time=time))
    assert await hosting(index) == "active"
    assert (await index.repo())["hosting_relay"] != RELAY
