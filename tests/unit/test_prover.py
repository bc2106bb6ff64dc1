"""Events are proven with the keys that DIDs name now, and no stranger's DID holds them up."""

import asyncio
import time
from typing import Any

import pytest

from indexer import prover as module
from indexer.identity import cache as identity_cache
from indexer.identity import resolver as identity_resolver
from indexer.identity.cache import FAILURE, REFRESH_PAUSE
from indexer.identity.resolver import FRESH
from indexer.prover import Prover
from indexer.stream.decode import decode
from indexer.stream.events import Commit, Rejected, Sync, VerifiedCommit, VerifiedSync
from tests.support.account_keys import Key, document
from tests.support.frames import ALICE, BOB, COLLECTIONS, NOW, VERIFICATION, frame, verification
from tests.support.http_host import hosting, names, silence
from tests.support.plc_directory import Network, many_dids, network
from tests.support.streamed_repo import Owner

__all__ = ["names", "network"]  # fixtures

CHECK = f"{VERIFICATION}/3k"
OLD, NEW = Key.k256(), Key.p256()


@pytest.fixture
def prover(network: Network) -> Prover:
    return make(network)


def make(network: Network, **options: Any) -> Prover:
    return Prover(network.resolver, COLLECTIONS.__contains__, **options)


def sync_of(owner: Owner) -> Sync:
    event = decode(frame("#sync", owner.sync_body(9)), (), {owner.did})
    assert isinstance(event, Sync)
    return event


def flipped(event: Commit) -> Commit:
    """Return a commit that was spoilt on its way."""
    middle = len(event.blocks) // 2
    broken = bytes((event.blocks[middle] ^ 1,))
    return event._replace(blocks=event.blocks[:middle] + broken + event.blocks[middle + 1 :])


async def reason_of(prover: Prover, event: Commit | Sync) -> str:
    change = await prover.prove(event, NOW)
    assert isinstance(change, Rejected)
    return change.reason


async def test_what_the_owners_key_signed_is_proven_and_the_did_is_asked_for_once(
    network: Network, prover: Prover
) -> None:
    owner = Owner(key=OLD)
    network.plc.documents[ALICE] = document(ALICE, OLD)
    for _ in range(3):
        event = owner.said({CHECK: verification()})
        assert isinstance(await prover.prove(event, NOW), VerifiedCommit)
    assert isinstance(await prover.prove(sync_of(owner), NOW), VerifiedSync)
    assert network.asked == 1


@pytest.mark.parametrize("kind", [Commit, Sync])
async def test_a_key_rotation_is_survived_with_one_refresh(
    network: Network, prover: Prover, kind: type
) -> None:
    owner = Owner(key=OLD)
    network.plc.documents[ALICE] = document(ALICE, OLD)
    assert isinstance(await prover.prove(owner.said({CHECK: verification()}), NOW), VerifiedCommit)

    owner.key = NEW
    network.plc.documents[ALICE] = document(ALICE, NEW)
    for _ in range(3):
        event = owner.said({CHECK: verification()})
        change = await prover.prove(event if kind is Commit else sync_of(owner), NOW)
        assert isinstance(change, VerifiedCommit | VerifiedSync)
    assert network.asked == 2


async def test_after_a_rotation_the_old_key_proves_nothing_any_more(
    network: Network, prover: Prover
) -> None:
    owner = Owner(key=NEW)
    network.plc.documents[ALICE] = document(ALICE, NEW)
    assert isinstance(await prover.prove(owner.said({CHECK: verification()}), NOW), VerifiedCommit)
    owner.key = OLD
    assert await reason_of(prover, owner.said({CHECK: None})) == "bad_signature"


async def test_a_wrong_key_is_rejected_after_one_refresh_and_no_more_for_a_while(
    network: Network, prover: Prover
) -> None:
    owner = Owner(key=NEW)
    network.plc.documents[ALICE] = document(ALICE, OLD)
    for _ in range(10):
        assert await reason_of(prover, owner.said({CHECK: verification()})) == "bad_signature"
    assert await reason_of(prover, sync_of(owner)) == "bad_signature"
    assert network.asked == 2  # once, and once more

    network.clock.now += REFRESH_PAUSE
    assert await reason_of(prover, owner.said({CHECK: verification()})) == "bad_signature"
    assert network.asked == 3


async def test_what_is_wrong_in_another_way_asks_for_no_key_again(
    network: Network, prover: Prover
) -> None:
    owner = Owner(key=OLD)
    network.plc.documents[ALICE] = document(ALICE, OLD)
    spoilt = flipped(owner.said({CHECK: verification()}))
    assert await reason_of(prover, spoilt) in ("bad_block", "bad_car")
    assert network.asked == 1


async def test_a_did_that_cant_be_resolved_gives_no_key_and_is_not_asked_for_again_at_once(
    network: Network, prover: Prover
) -> None:
    owner = Owner(key=OLD)
    for _ in range(5):
        assert await reason_of(prover, owner.said({CHECK: verification()})) == "no_key"
    assert network.asked == 1

    network.clock.now += FAILURE
    network.plc.documents[ALICE] = document(ALICE, OLD)
    event = owner.said({CHECK: verification()})
    assert isinstance(await prover.prove(event, NOW), VerifiedCommit)


async def test_a_did_that_names_no_key_gives_no_key(network: Network, prover: Prover) -> None:
    network.plc.documents[ALICE] = document(ALICE, None)
    assert await reason_of(prover, Owner().said({CHECK: verification()})) == "no_key"


async def test_a_did_that_is_gone_when_it_is_asked_for_again_gives_no_key(
    network: Network, prover: Prover
) -> None:
    owner = Owner(key=NEW)
    network.plc.documents[ALICE] = document(ALICE, OLD)
    await prover.learn([ALICE])
    del network.plc.documents[ALICE]
    assert await reason_of(prover, owner.said({CHECK: verification()})) == "no_key"


async def test_while_the_directory_is_down_known_keys_go_on_proving(
    network: Network, prover: Prover
) -> None:
    owner = Owner(key=OLD)
    network.plc.documents[ALICE] = document(ALICE, OLD)
    await prover.learn([ALICE])
    network.plc.documents[ALICE] = b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"
    network.clock.now += FRESH
    event = owner.said({CHECK: verification()})
    assert isinstance(await prover.prove(event, NOW), VerifiedCommit)
    owner.key = NEW
    assert await reason_of(prover, owner.said({CHECK: None})) == "bad_signature"


async def test_commits_of_the_old_form_are_refused_if_that_is_wanted(network: Network) -> None:
    owner = Owner(key=OLD)
    network.plc.documents[ALICE] = document(ALICE, OLD)
    first = owner.said({CHECK: verification()})._replace(prev_data=None)
    later = owner.said({CHECK: verification(displayName="Caroline")})
    old_form = later._replace(prev_data=None, ops=tuple(op._replace(prev=None) for op in later.ops))

    lenient, strict = make(network), make(network, refuse_old_form=True)

    for event in (first, later, old_form):
        assert isinstance(await lenient.prove(event, NOW), VerifiedCommit)
    assert isinstance(await strict.prove(first, NOW), VerifiedCommit)  # a repo's first has none
    assert isinstance(await strict.prove(later, NOW), VerifiedCommit)
    assert isinstance(await strict.prove(sync_of(owner), NOW), VerifiedSync)
    change = await strict.prove(old_form, NOW)
    assert change == Rejected(old_form.seq, old_form.time, "old_form", ALICE, old_form.rev)


async def test_a_rev_in_the_future_is_rejected_before_anybody_is_asked(
    network: Network, prover: Prover
) -> None:
    event = Owner().said({CHECK: verification()})
    change = await prover.prove(event, NOW - 2 * 3_600_000)
    assert isinstance(change, Rejected)
    assert change.reason == "future_rev"


async def test_dids_are_learnt_side_by_side(network: Network, prover: Prover) -> None:
    dids = [f"did:plc:{'a' * 22}{a}{b}" for a in "abcd" for b in "abcde"]
    network.plc.register(dids, OLD)
    network.plc.open.clear()

    learning = asyncio.create_task(prover.learn(dids * 2))
    async with asyncio.timeout(5):
        while network.asked < len(dids):
            await asyncio.sleep(0.01)
    network.plc.open.set()
    await learning

    assert network.asked == len(dids)
    owner = Owner(dids[7], OLD)
    assert isinstance(await prover.prove(owner.said({CHECK: verification()}), NOW), VerifiedCommit)
    assert network.asked == len(dids)


HOSTILE = [
    "",
    "did:",
    "did:plc:",
    "did:plc:../../admin",
    "did:plc:" + "A" * 24,
    "did:web:",
    "did:web:localhost%3A99999",
    "did:web:127.0.0.1",
    "did:web:nobody.invalid",
    "did:web:" + "a." * 1_000 + "com",
    "did:key:" + OLD.multikey,
    "did:example:\ud800",
    "did:web:xn--a.com",
    "not a DID\x00",
    "did:plc:" + "a" * 10_000,
]


async def test_hostile_dids_do_not_stop_it(network: Network, prover: Prover) -> None:
    network.plc.documents[BOB] = document(BOB, OLD)
    await prover.learn([*HOSTILE, BOB])
    event = Owner(key=OLD).said({CHECK: verification()})
    for did in HOSTILE:
        assert await reason_of(prover, event._replace(repo=did)) in ("no_key", "bad_commit")
    bobs = Owner(BOB, OLD).said({CHECK: verification()})
    assert isinstance(await prover.prove(bobs, NOW), VerifiedCommit)


async def test_of_more_unknown_dids_than_may_be_asked_for_at_once_the_rest_is_asked_for_later(
    network: Network, prover: Prover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_cache, "MAX_ASKING", 5)
    dids = [f"did:plc:{'c' * 23}{a}" for a in "abcdefghijkl"]
    network.plc.register(dids, OLD)
    await prover.learn(dids)
    for did in dids:
        event = Owner(did, OLD).said({CHECK: verification()})
        assert isinstance(await prover.prove(event, NOW), VerifiedCommit)


async def test_hosts_that_hang_hold_up_a_batch_for_a_while_and_not_for_each_event(
    network: Network, prover: Prover, monkeypatch: pytest.MonkeyPatch
) -> None:
    dids = [f"did:plc:{'d' * 23}{a}" for a in "abcdefghijklmnopqrstuvwxyz"]
    network.plc.register(dids, OLD)
    events = [Owner(did, NEW).said({CHECK: verification()}) for did in dids]
    with monkeypatch.context() as patch:
        patch.setattr(module, "PATIENCE", 0.5)
        await prover.learn(dids)
        network.plc.open.clear()  # from now on each question waits
        patch.setattr(identity_resolver, "DEADLINE", 0.2)
        started = time.monotonic()
        for event in events:
            assert await reason_of(prover, event) == "bad_signature"
        assert time.monotonic() - started < 3  # and not 26 times 0.2

    # The next batch has patience again.
    network.plc.open.set()
    network.clock.now += REFRESH_PAUSE
    network.plc.documents[dids[-1]] = document(dids[-1], NEW)
    await prover.learn([])
    assert isinstance(await prover.prove(events[-1], NOW), VerifiedCommit)


async def test_a_batch_of_many_unknown_dids_ends_with_every_key_known(
    network: Network, prover: Prover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not all of them have their turn within the time that a single answer may take.
    monkeypatch.setattr(module, "PATIENCE", 30.0)  # the machine may be slow
    monkeypatch.setattr(identity_resolver, "DEADLINE", 1.0)
    network.plc.pause = 0.2
    dids = many_dids(300)
    network.plc.register(dids, OLD)
    await prover.learn(dids)
    for did in dids:
        event = Owner(did, OLD).said({CHECK: verification()})
        assert isinstance(await prover.prove(event, NOW), VerifiedCommit)
    assert network.asked == len(dids)


async def test_a_key_that_could_not_be_asked_for_in_time_is_not_remembered_as_a_failure(
    network: Network, prover: Prover, monkeypatch: pytest.MonkeyPatch
) -> None:
    dids = many_dids(200)
    network.plc.register(dids, OLD)
    events = [Owner(did, OLD).said({CHECK: verification()}) for did in dids]
    network.plc.pause = 0.2
    with monkeypatch.context() as patch:
        patch.setattr(module, "PATIENCE", 0.7)
        started = time.monotonic()
        await prover.learn(dids)
        changes = [await prover.prove(event, NOW) for event in events]
        assert time.monotonic() - started < 10  # and not 200 times 0.2
    reasons = [change.reason for change in changes if isinstance(change, Rejected)]
    assert set(reasons) == {"no_key"}
    assert 0 < len(reasons) < len(dids)

    network.plc.pause = 0.0
    await prover.learn(dids)
    for event in events:
        assert isinstance(await prover.prove(event, NOW), VerifiedCommit)
    assert network.asked <= len(dids)  # each once, although the clock stands still


async def test_hosts_of_strangers_that_hang_keep_no_key_of_the_directory_waiting(
    network: Network,
    prover: Prover,
    names: dict[str, list[tuple[str, int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PATIENCE_WEB", 1.0)
    dids = many_dids(40)
    network.plc.register(dids, OLD)
    async with hosting(silence) as host:
        hosts = [f"n{n}.example.com" for n in range(100)]
        names.update({name: [("127.0.0.1", host.port)] for name in hosts})
        started = time.monotonic()
        learning = asyncio.create_task(prover.learn([f"did:web:{name}" for name in hosts] + dids))
        async with asyncio.timeout(0.9):
            while not all(did in network.resolver._identities for did in dids):
                await asyncio.sleep(0.02)
        assert not learning.done()
        await learning
        assert time.monotonic() - started < 2.5  # and not 3 s for each 24 of them
        for did in dids:
            event = Owner(did, OLD).said({CHECK: verification()})
            assert isinstance(await prover.prove(event, NOW), VerifiedCommit)


async def test_a_cancellation_is_not_swallowed(network: Network, prover: Prover) -> None:
    network.plc.open.clear()
    event = Owner(key=OLD).said({CHECK: verification()})
    for task in (
        asyncio.create_task(prover.prove(event, NOW)),
        asyncio.create_task(prover.learn([ALICE, BOB])),
    ):
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
