"""Keys are asked for side by side and once a batch, and no event waits for its key for long."""

import asyncio

import pytest

from indexer import prover as module
from indexer.identity.model import Identity
from indexer.prover import AT_ONCE, PATIENCE, PATIENCE_WEB, Prover
from indexer.store import cursors
from indexer.stream.events import Rejected, VerifiedCommit
from tests.support.account_keys import Key
from tests.support.consuming import consuming, cursor_at, impatient, indexed, record_at, states
from tests.support.fake_relay import Relay, relay
from tests.support.frames import (
    ALICE,
    BOB,
    CAROL,
    COLLECTIONS,
    NOW,
    VERIFICATION,
    Author,
    Directory,
    identity_frame,
    verification,
)
from tests.support.index_file import RELAY, Index, index
from tests.support.plc_directory import Network, many_dids, network
from tests.support.streamed_repo import Owner
from tests.support.waiting import until

__all__ = ["impatient", "index", "network", "relay"]  # fixtures

CHECK = f"{VERIFICATION}/3k"
OLD, NEW = Key.k256(), Key.p256()


def test_an_event_waits_for_its_key_5_seconds_at_most() -> None:
    assert max(PATIENCE, PATIENCE_WEB) == 5.0


async def test_keys_that_do_not_fit_are_asked_for_side_by_side_and_once_each(
    network: Network,
) -> None:
    prover = Prover(network.resolver, COLLECTIONS.__contains__)
    dids = many_dids(40)
    network.plc.register(dids, OLD)
    events = [Owner(did, NEW).said({CHECK: verification()}) for did in dids for _ in range(3)]
    await prover.learn(dids)
    assert [prover.look(event, NOW) for event in events] == [None] * 120
    network.plc.register(dids[::2], NEW)
    network.plc.open.clear()
    renewing = asyncio.create_task(prover.renew(event.repo for event in events))
    async with asyncio.timeout(20):
        while network.asked < len(dids) + AT_ONCE:
            await asyncio.sleep(0.01)
    network.plc.open.set()
    await renewing
    assert network.asked == 2 * len(dids)
    changes = [prover.settle(event, NOW) for event in events]
    renewed = [change.did for change in changes if isinstance(change, VerifiedCommit)]
    assert sorted(renewed) == sorted(dids[::2] * 3)
    rejected = [change for change in changes if isinstance(change, Rejected)]
    assert {change.reason for change in rejected} == {"bad_signature"}
    # And no more in the batches that follow at once.
    await prover.learn(dids)
    await prover.renew(dids)
    assert network.asked == 2 * len(dids)


class Hanging(Directory):
    """A directory that says nothing of one account until it is let go on."""

    def __init__(self, did: str) -> None:
        self.did = did
        self.asked = 0
        self.go_on = asyncio.Event()

    def share(self, size: int) -> "Hanging":
        return self

    def known(self, did: str) -> Identity | None:  # type: ignore[override]
        return None if did == self.did else super().known(did)

    async def resolve(self, did: str, *, refresh: bool = False) -> Identity:
        if did == self.did:
            self.asked += 1
            await self.go_on.wait()
        return super().known(did)


def proving(directory: Directory) -> Prover:
    return Prover(directory, COLLECTIONS.__contains__)


async def test_the_cursor_passes_no_event_that_waits_for_its_key(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 600.0)
    directory = Hanging(BOB)
    relay.frames = [(1, record_at(Author(ALICE), 1)), (2, record_at(Author(BOB), 2))]
    relay.frames.append((3, record_at(Author(CAROL), 3)))
    async with consuming(index, relay, prover=proving(directory)):
        await until(lambda: _true(directory.asked))
        await asyncio.sleep(0.2)
        stored = await cursors.load(index.db, RELAY)
        assert stored is None or stored.seq < 2
        directory.go_on.set()
        await cursor_at(index, 3)
    assert await indexed(index) == [1, 2, 3]


async def _true(value: object) -> object:
    return value


async def test_one_whose_key_does_not_come_is_out_of_step_and_the_cursor_moves_on(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    directory = Hanging(BOB)
    relay.frames = [(1, record_at(Author(ALICE), 1)), (2, record_at(Author(BOB), 2))]
    relay.frames.append((3, record_at(Author(CAROL), 3)))
    async with consuming(index, relay, prover=proving(directory)) as consumer:
        await cursor_at(index, 3)
    assert await indexed(index) == [1, 3]
    assert consumer.stats.rejected == {"no_key": 1}
    assert (await states(index))[BOB] == "desynchronized"


async def test_behind_an_identity_event_of_the_same_batch_a_commit_is_proven_by_the_new_key(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.consumer.GATHER", 0.2)
    old, new = Author(ALICE), Author(ALICE)
    first = old.commit(1, {f"{VERIFICATION}/1": verification()})
    new.__dict__.update({**old.__dict__, "records": dict(old.records), "key": NEW})
    relay.frames = [(1, first), (2, identity_frame(2, ALICE)), (3, record_at(new, 3))]
    keys = [Author.key.did_key, NEW.did_key]
    asked: list[str] = []

    class Rotated(Directory):
        def share(self, size: int) -> "Rotated":
            return self

        def known(self, did: str) -> Identity | None:  # type: ignore[override]
            return None

        async def resolve(self, did: str, *, refresh: bool = False) -> Identity:
            asked.append(did)
            return Identity(did, keys[min(len(asked), 2) - 1], "https://pds.example", ())

    async with consuming(index, relay, prover=proving(Rotated())) as consumer:
        await cursor_at(index, 3)
    assert await indexed(index) == [1, 3]
    assert consumer.stats.rejected == {}
    assert asked == [ALICE] * 2
