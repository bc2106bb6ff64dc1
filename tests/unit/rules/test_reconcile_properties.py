"""Whatever was missed, revoked and copied: the last copy makes the index right."""

import asyncio
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.proof.repo import Contents
from indexer.rules.projection import Change, Desynchronize
from indexer.store import repos, resyncs
from indexer.stream.events import Account, Rejected, VerifiedCommit, VerifiedSync
from tests.support.alices_records import CHECK, GARDEN, GARDEN_URI, ONE, OTHER_CHECK, POST, TWO
from tests.support.frames import (
    ALICE,
    BOB,
    CREATED,
    SPACE,
    TIME,
    block,
    invite,
    space,
    verification,
)
from tests.support.index_file import Index, opened
from tests.support.invariants import nothing_revoked_lives
from tests.support.reconciling import reconcile
from tests.support.streamed_repo import Owner
from xrpc.errors import NotFoundError

PATHS = [GARDEN, ONE, TWO, CHECK, OTHER_CHECK, POST]
RECORDS: dict[str, list[Any]] = {
    GARDEN: [space(), space(name="Yard"), {"$type": SPACE}],
    ONE: [invite(GARDEN_URI), invite(GARDEN_URI, "x"), invite(f"at://{BOB}/{GARDEN}")],
    TWO: [invite(GARDEN_URI), invite(GARDEN_URI, "x"), b"unreadable"],
    CHECK: [verification(), verification(displayName="Caroline"), {"x": 1}],
    OTHER_CHECK: [verification(), verification(displayName="Caroline")],
    POST: [{"text": CREATED}],
}
INVALID = {block({"$type": SPACE}), block({"x": 1}), b"unreadable"}
TABLES = ("spaces", "invites", "untrusted_invites", "verifications")
STEPS = ["write"] * 6 + ["miss"] * 3 + ["copy"] * 3 + ["reconcile"] * 3
STEPS += ["reject", "again", "late", "sync", "blind", "account", "ask"]
REVOCATIONS = ["revoke token", "revoke", "revoke", "publish", "publish"]


class Life:
    """What becomes of one repo, what of that an index comes to know, and what is revoked there."""

    def __init__(self, index: Index, rng: Random) -> None:
        self.index = index
        self.rng = rng
        self.owner = Owner()
        self.commits: list[VerifiedCommit] = []
        self.stood: dict[str, set[tuple[str, str]]] = {}  # URI and CID of valid records, by rev
        self.was_deleted = False
        self._known: list[Change] = []
        self._copies: list[Contents] = []  # under way
        self._seqs = count(1_000)

    async def step(self, step: str) -> None:  # noqa: PLR0912 (a list of what may happen)
        owner, rng = self.owner, self.rng
        match step:
            case "write":
                await self._show(self._commit(self._changes()))
            case "miss":
                self._commit(self._changes())
            case "reject":
                rev = self._commit(self._changes()).rev
                await self._show(Rejected(next(self._seqs), TIME, "bad_block", ALICE, rev))
            case "again" if self._known:
                first = rng.randrange(len(self._known))
                await self.index.apply(*self._known[first:][:3])
            case "late" if self.commits:
                await self.index.apply(rng.choice(self.commits))
            case "copy" if owner.rev:
                self._copies.append(owner.copy())
            case "reconcile" if self._copies:
                copy = self._copies.pop(rng.randrange(len(self._copies)))
                await reconcile(self.index, copy)
            case "sync" if owner.rev:
                copy = owner.copy()
                await self._show(VerifiedSync(next(self._seqs), ALICE, copy.rev, copy.data))
            case "blind":
                await self.index.apply(Desynchronize())
            case "account":
                status = rng.choice((None, None, "deactivated", "deleted"))
                await self._account(status)
            case "ask" if owner.rev:
                # As a resync does before it fetches: is there anything newer?
                repo = (await repos.load(self.index.db, [ALICE])).get(ALICE)
                if repo is not None and repo.hosting == "active" and repo.sync != "synchronized":
                    async with self.index.db.transaction() as tx:
                        await resyncs.claim(tx, [ALICE], 0)
                        if repo.whole_rev == repo.rev == owner.rev:
                            await resyncs.mark_whole(tx, ALICE, owner.rev)
                        await resyncs.end(tx, ALICE, again=repo.whole_rev != owner.rev)
            case "revoke token":
                with suppress(NotFoundError):
                    await self.index.revoke_token(GARDEN_URI, rng.choice(("token", "x")))
            case "revoke":
                uri = owner.uri(rng.choice((CHECK, OTHER_CHECK)))
                if await self.index.row("verifications", uri):
                    await self.index.revoke(uri)
            case "publish":
                await self._publish()

    async def end(self) -> None:
        """Let a last copy come, of an account that is active."""
        if self.owner.rev is None:
            self._commit({})
        await self._account(None)
        is_whole, _ = await reconcile(self.index, self.owner.copy())
        assert is_whole

    async def _account(self, status: str | None) -> None:
        active = status is None
        self.was_deleted |= status == "deleted"
        await self._show(Account(next(self._seqs), TIME, ALICE, active=active, status=status))

    async def _show(self, change: Change) -> None:
        self._known.append(change)
        await self.index.apply(change)

    def _commit(self, changes: dict[str, Any]) -> VerifiedCommit:
        commit = self.owner.wrote(changes)
        self.commits.append(commit)
        copied = self.owner.copy().records.items()
        self.stood[commit.rev] = {
            (self.owner.uri(path), cid) for path, (cid, data) in copied if data not in INVALID
        }
        return commit

    def _changes(self) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for path in self.rng.sample(PATHS, self.rng.choice((1, 1, 2, 3))):
            is_deletion = path in self.owner.records and self.rng.random() < 0.45
            changes[path] = None if is_deletion else self.rng.choice(RECORDS[path])
        return changes

    async def _publish(self) -> None:
        """Do what the publisher does, and perhaps miss what the stream shows of it."""
        for row in await self.index.rows("outbox", state="pending"):
            path = row["uri"].removeprefix(f"at://{ALICE}/")
            if path in self.owner.records:
                deletion = self._commit({path: None})
                await self.index.acknowledge(row["uri"], deletion.rev)
                if self.rng.random() < 0.5:
                    await self._show(deletion)


async def live(index: Index) -> set[tuple[str, str, str]]:
    """Return each table, URI and CID of what is live."""
    return {
        (table, row["uri"], row["cid"])
        for table in TABLES
        for row in await index.rows(table)
        if not row.get("revoked")
    }


PROFILE = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(st.randoms(use_true_random=True), st.integers(2, 30))
@PROFILE
def test_after_a_last_copy_it_is_as_if_nothing_had_been_missed(rng: Random, steps: int) -> None:
    async def compare(directory: Path) -> None:
        async with opened(directory, "part.db") as index, opened(directory, "all.db") as witness:
            life = Life(index, rng)
            for _ in range(steps):
                await life.step(rng.choice(STEPS))
                for state in await index.rows("repos", sync="synchronized", hosting="active"):
                    # And before that: what is said to be whole is.
                    here = {(uri, cid) for _, uri, cid in await live(index)}
                    assert here == life.stood[state["rev"]]
            await life.end()
            await witness.apply(*life.commits)
            assert await live(index) == await live(witness)
            state, expected = await index.repo(), await witness.repo()
            for name in ("rev", "data", "sync", "whole_rev"):
                assert state[name] == expected[name]

    with TemporaryDirectory() as directory:
        asyncio.run(compare(Path(directory)))


@given(st.randoms(use_true_random=True), st.integers(4, 30))
@PROFILE
def test_whatever_a_copy_has_nothing_revoked_lives_and_all_else_does(
    rng: Random, steps: int
) -> None:
    async def compare(directory: Path) -> None:
        async with opened(directory, "part.db") as index, opened(directory, "all.db") as witness:
            life = Life(index, rng)
            for _ in range(steps):
                await life.step(rng.choice(STEPS + REVOCATIONS * 2))
                await nothing_revoked_lives(index)
            await life.end()
            await nothing_revoked_lives(index)
            await witness.apply(*life.commits)
            there, here = await live(witness), await live(index)
            assert here <= there
            for table, uri, cid in there - here:
                stone = (await index.stones(uri))[cid]
                assert stone["cause"] == "revoked"
                row = await index.row(table, uri)
                if row is None and life.was_deleted:
                    continue  # its account was deleted: what is left of it is the tombstone
                assert row is not None
                assert (row["cid"], row["revoked"]) == (cid, 1)
                deletion = await index.deletion(uri)
                assert deletion is not None
                assert deletion["state"] == "pending"

    with TemporaryDirectory() as directory:
        asyncio.run(compare(Path(directory)))
