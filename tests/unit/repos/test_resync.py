"""A repo that is out of step is fetched from its PDS, else the relay, if it has changed."""

import asyncio
import tracemalloc

import pytest

from indexer.repos import hosts as repo_hosts
from indexer.rules.projection import Desynchronize
from indexer.store import resyncs
from indexer.stream.events import Rejected
from tests.support.alices_records import CHECK
from tests.support.frames import ALICE, BOB, NOW, TIME, VERIFICATION, verification
from tests.support.http_host import http, redirect
from tests.support.repo_host import (
    GET_REPO,
    LATEST,
    Fault,
    Net,
    changed,
    cut_off,
    endless,
    hanging,
    refused,
    sent,
)
from tests.support.resyncing import alice_in, hasty, is_indexed, net
from tests.support.streamed_repo import Owner

__all__ = ["hasty", "net"]  # fixtures

YEAR = 365 * 86_400  # seconds

# --- where it comes from ---


async def test_a_repo_comes_from_its_pds(net: Net) -> None:
    await alice_in(net)
    bob = net.house(Owner(BOB))
    bob.wrote({})

    await net.resyncer.resync(ALICE)
    await net.resyncer.resync(BOB)

    assert await is_indexed(net)
    assert net.relay.calls[GET_REPO] == 0
    assert net.pds.calls[GET_REPO] == 2
    state = await net.repo(ALICE)
    assert (state["resync_due_at"], state["resync_attempts"], state["resync_error"]) == (0, 0, None)


async def test_a_repo_comes_from_the_relay_if_its_pds_does_not_answer(net: Net) -> None:
    owner = await alice_in(net)
    net.pds.always[GET_REPO] = refused(500)
    del net.relay.always[GET_REPO]
    net.relay.owners[ALICE] = owner
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)
    assert net.pds.calls[GET_REPO] == net.relay.calls[GET_REPO] == 1


async def test_a_relay_that_serves_no_repos_is_not_asked_again(net: Net) -> None:
    await alice_in(net)
    net.pds.always[GET_REPO] = refused(500)
    for _ in range(3):
        await net.resyncer.resync(ALICE)
        net.clock.now += YEAR
    assert net.relay.calls[GET_REPO] == 1


@pytest.mark.parametrize(
    "fault",
    [
        refused(404, "RepoNotFound"),
        refused(400, "RepoDeactivated"),
        refused(429, "RateLimitExceeded"),
        refused(500),
    ],
)
async def test_a_relay_that_lacks_one_repo_is_asked_for_others(net: Net, fault: Fault) -> None:
    await alice_in(net)
    net.pds.always[GET_REPO] = refused(500)
    net.relay.always[GET_REPO] = fault
    await net.resyncer.resync(ALICE)
    assert not await is_indexed(net)

    other = await net.add_host()
    other.always[GET_REPO] = refused(500)
    net.relay.owners[BOB] = net.house(Owner(BOB), other)
    net.relay.owners[BOB].wrote({CHECK: verification()})
    await net.track(BOB)
    del net.relay.always[GET_REPO]
    await net.resyncer.resync(BOB)
    assert await net.sync_of(BOB) == "synchronized"


async def test_a_redirect_of_the_relay_is_followed(net: Net) -> None:
    owner = await alice_in(net)
    mirror = await net.add_host()
    mirror.owners[ALICE] = owner
    net.pds.always[GET_REPO] = refused(500)
    net.relay.always[GET_REPO] = sent(redirect(f"{mirror.url}/xrpc/{GET_REPO}?did={ALICE}"))
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)
    assert mirror.calls[GET_REPO] == 1


@pytest.mark.parametrize("fault", [changed(lambda car: car[:-9]), cut_off, hanging, endless])
async def test_what_goes_wrong_at_the_relay_is_put_right_by_the_pds(
    hasty: Net, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repo_hosts, "MAX_CAR", 500_000)
    owner = await alice_in(hasty)
    hasty.relay.owners[ALICE] = owner
    hasty.relay.always[GET_REPO] = fault
    hasty.pds.faults[GET_REPO].append(refused(500))
    await hasty.resyncer.resync(ALICE)
    assert not await is_indexed(hasty)
    hasty.clock.now += 3
    await hasty.resyncer.resync(ALICE)
    assert await is_indexed(hasty)
    assert hasty.pds.calls[GET_REPO] == 2


async def test_a_stale_copy_of_the_relay_does_not_keep_a_repo_out_of_step(net: Net) -> None:
    owner = await alice_in(net)
    stale = owner.car()
    owner.wrote({f"{VERIFICATION}/3l": verification()})
    await net.index.apply(owner.wrote({f"{VERIFICATION}/3m": verification()}))
    net.relay.always[GET_REPO] = sent(http(stale))
    net.pds.faults[GET_REPO].append(refused(500))

    await net.resyncer.resync(ALICE)
    assert await net.sync_of(ALICE) != "synchronized"
    net.clock.now += 3
    await net.resyncer.resync(ALICE)

    assert await net.sync_of(ALICE) == "synchronized"
    assert len(await net.index.rows("verifications")) == 3


# --- the cheap check ---


async def whole_and_doubted(net: Net) -> Owner:
    owner = await alice_in(net)
    await net.resyncer.resync(ALICE)
    await net.index.apply(Desynchronize())
    net.pds.calls.clear()
    return owner


async def test_a_repo_that_has_not_changed_is_not_fetched(net: Net) -> None:
    await whole_and_doubted(net)
    before = await net.index.dump("sync")
    await net.resyncer.resync(ALICE)
    assert net.pds.calls == {LATEST: 1}
    assert await is_indexed(net)
    assert await net.index.dump("sync") == before


async def test_a_repo_that_has_changed_is_fetched(net: Net) -> None:
    owner = await whole_and_doubted(net)
    owner.wrote({CHECK: None})
    await net.resyncer.resync(ALICE)
    assert net.pds.calls == {LATEST: 1, GET_REPO: 1}
    assert await net.index.rows("verifications") == []


async def test_a_repo_of_which_something_is_missing_is_fetched_without_asking(net: Net) -> None:
    await alice_in(net)
    await net.resyncer.resync(ALICE)
    async with net.index.db.transaction() as tx:
        await resyncs.ask(tx, ALICE)
    net.pds.calls.clear()
    await net.resyncer.resync(ALICE)
    assert net.pds.calls == {GET_REPO: 1}


@pytest.mark.parametrize(
    "fault",
    [
        sent(http(b"[1]")),
        sent(http(b'{"rev":7}')),
        sent(http(b'{"rev":"../.."}')),
        sent(http(b"{")),
        refused(500),
        refused(400, "RepoNotFound"),
        hanging,
        endless,
    ],
)
async def test_an_answer_without_a_rev_leads_to_a_fetch(hasty: Net, fault: Fault) -> None:
    await whole_and_doubted(hasty)
    hasty.pds.faults[LATEST].append(fault)
    tracemalloc.start()
    await hasty.resyncer.resync(ALICE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert hasty.pds.calls == {LATEST: 1, GET_REPO: 1}
    assert await is_indexed(hasty)
    assert peak < 5_000_000


async def test_commits_that_come_while_it_is_asked_do_not_make_it_wait(net: Net) -> None:
    owner = await whole_and_doubted(net)
    asked, go_on = asyncio.Event(), asyncio.Event()
    rev = owner.rev

    async def slow(_host: object, _did: str, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(http(f'{{"rev":"{rev}"}}'.encode()))

    net.pds.faults[LATEST].append(slow)
    task = asyncio.create_task(net.resyncer.resync(ALICE))
    await asked.wait()
    await net.index.apply(owner.wrote({CHECK: None}))
    go_on.set()
    await task

    assert await net.sync_of(ALICE) == "synchronized"
    assert net.pds.calls == {LATEST: 1}


async def test_what_is_missed_while_it_is_asked_is_not_taken_for_seen(net: Net) -> None:
    owner = await whole_and_doubted(net)
    asked, go_on = asyncio.Event(), asyncio.Event()
    rev = owner.rev

    async def slow(_host: object, _did: str, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(http(f'{{"rev":"{rev}"}}'.encode()))

    net.pds.faults[LATEST].append(slow)
    task = asyncio.create_task(net.resyncer.resync(ALICE))
    await asked.wait()
    lost = owner.wrote({CHECK: None})
    await net.index.apply(Rejected(50, TIME, "bad_block", ALICE, lost.rev))
    go_on.set()
    await task

    assert await resyncs.due(net.index.db, NOW, 10) == [ALICE]
    await net.resyncer.resync(ALICE)
    assert await net.index.rows("verifications") == []
