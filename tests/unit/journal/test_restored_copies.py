"""An older copy with the journal is as the lost index was, in every acknowledged revocation."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.journal.lines import Entry, decode, encode
from indexer.journal.play import play
from indexer.proof.repo import Contents
from indexer.rules.projection import Projection
from indexer.store import outbox, resyncs, tombstones
from indexer.store.tombstones import Tombstone, is_revoked
from tests.support.frames import ALICE, BOB, SCOPE, VERIFICATION, block, cid_text, verification
from tests.support.histories import History, Teller
from tests.support.index_file import RELAY, Index, Repo, opened
from tests.support.invariants import nothing_revoked_lives

CHECK = f"{VERIFICATION}/3k"


@dataclass
class Lost:
    """A history, where in it a copy was made, and how the repos stand at its end."""

    history: History
    copied_at: int
    repos: dict[str, Repo]
    blocks: dict[str, bytes]
    is_newer: bool  # the repos have commits of others since

    def contents(self, repo: Repo) -> Contents:
        assert repo.rev is not None
        rev = repo.later() if self.is_newer else repo.rev
        records = {path: (cid, self.blocks[cid]) for path, cid in repo.cids.items()}
        return Contents(repo.did, rev, repo.data or "", records)


@st.composite
def losses(draw: st.DrawFn) -> Lost:
    rng: Random = draw(st.randoms(use_true_random=True))
    teller = Teller(rng)
    for _ in range(draw(st.integers(4, 24))):
        teller.tell()
    blocks = {}
    for _, _, record in teller.past:
        data = record if isinstance(record, bytes) else block(record)
        blocks[cid_text(data)] = data
    at = draw(st.integers(0, len(teller.history.changes)))
    return Lost(teller.history, at, teller.repos, blocks, draw(st.booleans()))


async def acknowledged(index: Index) -> list[Tombstone]:
    """Return what a journal has of all that is revoked: of a token, its first revocation."""
    rows = await index.db.all("select uri from tombstones where cause = 'revoked'")
    stones = await tombstones.load(index.db, [row["uri"] for row in rows])
    found = {}
    for stone in filter(is_revoked, stones):
        if stone.space_uri and stone.token_hash:
            token = (stone.space_uri, stone.token_hash)
            [found[token]] = await tombstones.revoked_tokens(index.db, [token])
        else:
            found[stone.uri, stone.cid] = stone
    return list(found.values())


def copy_to(index: Index, copy: Path) -> None:
    with closing(sqlite3.connect(index.db.path)) as source, closing(sqlite3.connect(copy)) as made:
        source.backup(made)


async def lose(lost: Lost, index: Index, copy: Path) -> list[Entry]:
    """Live through the history, with a copy on the way; return what the journal has then."""
    lines: dict[bytes, None] = {}
    told = 0
    for changes, actions in lost.history.portions():
        for step in (*changes, *actions):
            if told >= lost.copied_at and not copy.exists():
                copy_to(index, copy)
            if callable(step):
                await step(index)
            else:
                told += 1
                await index.apply(step)
            for stone in await acknowledged(index):
                lines[encode(Entry.of(stone))] = None
    if not copy.exists():
        copy_to(index, copy)
    return [decode(line) for line in lines]


async def restore(index: Index, entries: list[Entry]) -> None:
    """Do what `rescind restore` does to a copy."""
    async with index.db.transaction() as tx:
        await outbox.forget_undone(tx)
        await play(tx, entries, index.now)
        await resyncs.refetch_all(tx)


async def check_repos(lost: Lost, index: Index) -> None:
    for repo in lost.repos.values():
        if repo.rev is not None:
            async with index.db.transaction() as tx:
                await Projection(SCOPE, RELAY).reconcile(tx, lost.contents(repo), index.now)


def said(stone: Tombstone) -> tuple[Any, ...]:
    return stone.actor, stone.reason, stone.created_at


async def same_revocations(before: list[Tombstone], index: Index) -> None:
    for stone in before:
        if stone.space_uri and stone.token_hash:
            token = (stone.space_uri, stone.token_hash)
            [found] = await tombstones.revoked_tokens(index.db, [token])
        else:
            stones = {s.cid: s for s in await tombstones.load(index.db, [stone.uri])}
            found = stones[stone.cid]
        assert said(found) == said(stone)
        assert found.cause == "revoked"


@given(losses(), st.booleans())
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_a_restored_copy_is_as_the_lost_index_in_all_that_was_revoked(
    lost: Lost, streamed: bool
) -> None:
    async def compare() -> None:
        with TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.db"
            async with opened(Path(folder), "lost.db") as index:
                entries = await lose(lost, index, copy)
                before = await acknowledged(index)
            async with opened(Path(folder), "copy.db") as index:
                await restore(index, entries)
                await same_revocations(before, index)
                await nothing_revoked_lives(index)
                if streamed:  # the relay has it all, from where the copy was
                    for change in lost.history.changes[lost.copied_at :]:
                        await index.apply(change)
                await check_repos(lost, index)
                await same_revocations(before, index)
                await nothing_revoked_lives(index)
                await restore(index, entries)  # once more changes nothing
                await same_revocations(before, index)

    asyncio.run(compare())


# --- by example ---


async def restored(tmp_path: Path, entries: list[Entry]) -> Any:
    async with opened(tmp_path, "copy.db") as index:
        await restore(index, entries)
    return opened(tmp_path, "copy.db")


def contents(repo: Repo, *records: Any, rev: str | None = None) -> Contents:
    blocks = {cid_text(block(record)): block(record) for record in records}
    standing = {path: (cid, blocks[cid]) for path, cid in repo.cids.items()}
    return Contents(repo.did, rev or repo.rev or "", repo.data or "", standing)


async def test_what_still_stands_in_its_repo_is_deleted_also_if_nothing_came_after_it(
    tmp_path: Path,
) -> None:
    repo, record = Repo(), verification()
    async with opened(tmp_path) as index:
        await index.apply(repo.commit({CHECK: record}))
        copy_to(index, tmp_path / "copy.db")
        await index.revoke(repo.uri(CHECK), actor=BOB, reason="an impostor")
        await index.block(ALICE)
        entries = [Entry.of(stone) for stone in await acknowledged(index)]
    async with await restored(tmp_path, entries) as index:
        assert not await index.is_live("verifications", repo.uri(CHECK))
        assert await index.deletion(repo.uri(CHECK)) is None
        async with index.db.transaction() as tx:
            await index.projection.reconcile(tx, contents(repo, record), index.now)
        row = await index.deletion(repo.uri(CHECK))
        assert row is not None
        assert row["state"] == "pending"
        [entry] = await index.rows("audit", action="verification.revoke")
        assert (entry["actor"], entry["detail"], entry["at"]) == (BOB, "an impostor", index.now)


async def test_a_newer_grant_at_the_same_place_is_not_touched(tmp_path: Path) -> None:
    """The copy still had the deletion to do, and the lost index had done it."""
    repo, old, new = Repo(), verification(), verification(displayName="Caroline")
    async with opened(tmp_path) as index:
        await index.apply(repo.commit({CHECK: old}))
        await index.revoke(repo.uri(CHECK), actor=BOB)
        copy_to(index, tmp_path / "copy.db")
        deletion = repo.commit({CHECK: None})
        await index.acknowledge(repo.uri(CHECK), deletion.rev)
        await index.apply(deletion, repo.commit({CHECK: new}))
        assert await index.is_live("verifications", repo.uri(CHECK))
        entries = [Entry.of(stone) for stone in await acknowledged(index)]
    async with await restored(tmp_path, entries) as index:
        async with index.db.transaction() as tx:
            await index.projection.reconcile(tx, contents(repo, new), index.now)
        assert await index.is_live("verifications", repo.uri(CHECK))
        assert await index.deletion(repo.uri(CHECK)) is None


async def test_the_first_who_why_and_when_stay_also_if_it_was_revoked_again_since(
    tmp_path: Path,
) -> None:
    repo = Repo()
    async with opened(tmp_path) as index:
        await index.apply(repo.commit({CHECK: verification()}))
        copy_to(index, tmp_path / "copy.db")
        await index.revoke(repo.uri(CHECK), actor=BOB, reason="first")
        entries = [Entry.of(stone) for stone in await acknowledged(index)]
    async with opened(tmp_path, "copy.db") as index:
        index.now += 1_000
        await index.revoke(repo.uri(CHECK), actor=ALICE, reason="second")
        await restore(index, entries)
        [stone] = (await index.stones(repo.uri(CHECK))).values()
        assert (stone["actor"], stone["reason"]) == (BOB, "first")
