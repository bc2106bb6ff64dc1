"""A repo that has once sent `prevData` does not stop: a relay that takes it away hides nothing."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from indexer.proof.verify import verify_commit
from indexer.rules.projection import Projection
from indexer.store import resyncs
from indexer.store.db import Database
from indexer.stream.decode import decode
from indexer.stream.events import Commit, Rejected, VerifiedCommit
from tests.support.frames import ALICE, COLLECTIONS, NOW, SCOPE, VERIFICATION, frame, verification
from tests.support.index_file import RELAY, Index, Repo, opened
from tests.support.streamed_repo import Owner

CHECK, OTHER = f"{VERIFICATION}/3k", f"{VERIFICATION}/3l"
URI = f"at://{ALICE}/{CHECK}"


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    async with opened(tmp_path) as index:
        yield index


def without(body: dict[str, Any], *names: str) -> VerifiedCommit | Rejected:
    """Return what is proven of a frame without these fields, and without its deletions."""
    ops = [op for op in body["ops"] if op["action"] != "delete"]
    kept = {name: value for name, value in body.items() if name not in names}
    event = decode(frame("#commit", {**kept, "ops": ops}), COLLECTIONS, {ALICE})
    assert isinstance(event, Commit)
    return verify_commit(event, COLLECTIONS.__contains__, Owner.key.did_key, NOW)


async def test_a_deletion_that_a_relay_takes_out_of_a_commit_puts_its_repo_out_of_step(
    index: Index,
) -> None:
    owner = Owner()
    await index.apply_each(
        owner.wrote({CHECK: verification()}), owner.wrote({OTHER: verification()})
    )
    hidden = without(owner.commit_body(3, {CHECK: None}), "prevData")
    assert isinstance(hidden, VerifiedCommit)  # nothing in it is wrong
    before = await index.repo()
    assert await index.apply(hidden) == ["old_form"]
    state = await index.repo()
    assert (state["sync"], state["rev"]) == ("desynchronized", before["rev"])
    assert await resyncs.due(index.db, NOW, 9) == [ALICE]
    # The copy that is fetched for it tells.
    async with index.db.transaction() as tx:
        await resyncs.claim(tx, ALICE, NOW)
        await index.projection.reconcile(tx, owner.copy(), NOW)
    assert await index.row("verifications", URI) is None
    assert (await index.repo())["sync"] == "synchronized"


async def test_the_mark_outlives_the_process_and_the_fetch(index: Index) -> None:
    owner = Owner()
    await index.apply_each(
        owner.wrote({CHECK: verification()}), owner.wrote({OTHER: verification()})
    )
    async with index.db.transaction() as tx:
        await index.projection.reconcile(tx, owner.copy(), NOW)
    hidden = without(owner.commit_body(3, {CHECK: None}), "prevData")
    assert isinstance(hidden, VerifiedCommit)
    async with await Database.open(index.db.path) as other, other.transaction() as tx:
        assert await Projection(SCOPE, RELAY).apply(tx, [hidden], NOW) == ["old_form"]
    assert (await index.repo())["sync"] == "desynchronized"


async def test_within_one_batch_it_counts_too(index: Index) -> None:
    owner = Owner()
    changes = [owner.wrote({CHECK: verification()}), owner.wrote({OTHER: verification()})]
    hidden = without(owner.commit_body(3, {CHECK: None}), "prevData")
    assert isinstance(hidden, VerifiedCommit)
    assert await index.apply(*changes, hidden) == ["old_form"]
    assert (await index.repo())["sync"] == "desynchronized"


async def test_nor_does_it_help_to_take_the_since_as_well(index: Index) -> None:
    owner = Owner()
    await index.apply_each(
        owner.wrote({CHECK: verification()}), owner.wrote({OTHER: verification()})
    )
    hidden = without(owner.commit_body(3, {CHECK: None}), "prevData", "since")
    assert isinstance(hidden, Rejected)
    await index.apply(hidden)
    assert (await index.repo())["sync"] == "desynchronized"


async def test_a_repo_that_never_sent_it_goes_on_without(index: Index) -> None:
    repo = Repo()
    await index.apply(repo.commit({CHECK: verification()}))
    for record in (verification(displayName="B"), None):
        assert await index.apply(repo.commit({CHECK: record}, prev_data=None)) == []
    assert (await index.repo())["sync"] == "synchronized"
    assert await index.rows("verifications") == []


async def test_what_is_played_again_from_before_its_host_was_renewed_says_nothing_new(
    index: Index,
) -> None:
    repo = Repo()
    old = [
        repo.commit({CHECK: verification()}),
        repo.commit({CHECK: verification(displayName="B")}, prev_data=None),
    ]
    await index.apply_each(*old, repo.commit({OTHER: verification()}))
    before = await index.dump()
    await index.apply_each(*old)
    await index.replay(*old)
    assert await index.dump() == before
