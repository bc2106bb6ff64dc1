"""Repos that are out of step are fetched from real hosts, which may do whatever they like."""

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from indexer.identity.resolver import FRESH
from indexer.lexicon.syntax import format_datetime
from indexer.net import requests as net_module
from indexer.net.health import MAX_DELAY
from indexer.net.requests import DiskError
from indexer.proof import repo as repo_module
from indexer.repos import hosts as repo_hosts
from indexer.repos import resync
from indexer.rules.projection import Desynchronize
from indexer.store import invites, resyncs
from indexer.stream.events import Account, Rejected
from tests.support.account_keys import Key
from tests.support.frames import (
    ALICE,
    BOB,
    INVITE,
    NOW,
    SPACE,
    TIME,
    VERIFICATION,
    block,
    cid_of,
    invite,
    section,
    space,
    tid,
    verification,
)
from tests.support.http_host import http, redirect
from tests.support.index_file import Index, index
from tests.support.repo_host import (
    GET_REPO,
    LATEST,
    STATUS,
    Fault,
    Net,
    changed,
    cut_off,
    dripping,
    endless,
    files_beside,
    hanging,
    hanging_in_the_middle,
    once_open,
    opened_net,
    refused,
    sent,
)
from tests.support.streamed_repo import Owner

__all__ = ["index"]  # fixtures

GARDEN, ONE, CHECK = f"{SPACE}/garden", f"{INVITE}/one", f"{VERIFICATION}/3k"
YEAR = 365 * 86_400  # seconds
GARDEN_URI = f"at://{ALICE}/{GARDEN}"
RECORDS = {GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: verification()}


@pytest.fixture
async def net(index: Index) -> AsyncIterator[Net]:
    async with opened_net(index) as net:
        yield net


@pytest.fixture
async def hasty(index: Index, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Net]:
    """A network whose hosts are not waited for long."""
    monkeypatch.setattr(repo_hosts, "FETCH_WITHIN", 5.0)
    monkeypatch.setattr(repo_hosts, "ASK_WITHIN", 0.3)
    monkeypatch.setattr(net_module, "STEP_TIMEOUT", 0.3)
    async with opened_net(index, timeout=0.3) as net:
        yield net


async def alice_in(net: Net) -> Owner:
    """Return a repo with three records of ours among others, tracked, its commits not seen."""
    owner = net.house(Owner())
    owner.wrote({f"app.bsky.feed.post/{n:03}": {"text": str(n)} for n in range(60)})
    owner.wrote(RECORDS)
    await net.track(ALICE)
    return owner


async def is_indexed(net: Net) -> bool:
    rows = await net.index.rows("repos", did=ALICE, sync="synchronized")
    tables = ("spaces", "invites", "verifications")
    return bool(rows) and all([len(await net.index.rows(table)) == 1 for table in tables])


async def until(condition: Callable[[], Any], within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)


# --- where it comes from ---


async def test_a_repo_comes_from_the_pds_if_the_relay_serves_none(net: Net) -> None:
    await alice_in(net)
    bob = net.house(Owner(BOB))
    bob.wrote({})

    await net.resyncer.resync(ALICE)
    await net.resyncer.resync(BOB)

    assert await is_indexed(net)
    assert net.relay.calls[GET_REPO] == 1  # it is not asked again for what it does not have
    assert net.pds.calls[GET_REPO] == 2
    state = await net.repo(ALICE)
    assert (state["resync_due_at"], state["resync_attempts"], state["resync_error"]) == (0, 0, None)


async def test_a_repo_comes_from_the_relay_if_that_serves_it(net: Net) -> None:
    owner = await alice_in(net)
    del net.relay.always[GET_REPO]
    net.relay.owners[ALICE] = owner
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)
    assert net.pds.calls[GET_REPO] == 0


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
    net.relay.always[GET_REPO] = fault
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)

    net.relay.owners[BOB] = net.house(Owner(BOB))
    net.relay.owners[BOB].wrote({CHECK: verification()})
    del net.relay.always[GET_REPO]
    await net.resyncer.resync(BOB)
    assert net.pds.calls[GET_REPO] == 1


async def test_a_redirect_of_the_relay_is_followed(net: Net) -> None:
    await alice_in(net)
    net.relay.always[GET_REPO] = sent(redirect(f"{net.pds.url}/xrpc/{GET_REPO}?did={ALICE}"))
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)
    assert net.pds.calls[GET_REPO] == 1


@pytest.mark.parametrize("fault", [changed(lambda car: car[:-9]), cut_off, hanging, endless])
async def test_what_goes_wrong_at_the_relay_is_put_right_by_the_pds(
    hasty: Net, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repo_hosts, "MAX_CAR", 500_000)
    owner = await alice_in(hasty)
    hasty.relay.owners[ALICE] = owner
    hasty.relay.always[GET_REPO] = fault
    for _ in range(2):
        await hasty.resyncer.resync(ALICE)
    assert await is_indexed(hasty)
    assert hasty.pds.calls[GET_REPO] >= 1


async def test_a_stale_copy_of_the_relay_does_not_keep_a_repo_out_of_step(net: Net) -> None:
    owner = await alice_in(net)
    stale = owner.car()
    owner.wrote({f"{VERIFICATION}/3l": verification()})
    await net.index.apply(owner.wrote({f"{VERIFICATION}/3m": verification()}))
    net.relay.always[GET_REPO] = sent(http(stale))

    await net.resyncer.resync(ALICE)
    assert await net.sync_of(ALICE) != "synchronized"
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


# --- what hosts may do ---


def without_last_block(data: bytes) -> bytes:
    """Cut a CAR off at the end of a block: HTTP can't tell."""
    return data[: -len(section(cid_of(block(verification())), block(verification())))]


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes((data[len(data) // 2] ^ 1,)) + data[len(data) // 2 + 1 :]


def of_another(_: bytes) -> bytes:
    bob = Owner(BOB)
    bob.wrote(RECORDS)
    return bob.car()


def of_another_key(_: bytes) -> bytes:
    thief = Owner(ALICE, Key.k256())
    thief.wrote({})
    return thief.car()


def of_the_future(_: bytes) -> bytes:
    owner = Owner()
    owner.wrote({})
    return owner.car(rev=tid(0, NOW + 400_000))


LIES: dict[str, Fault] = {
    "cut off": cut_off,
    "cut at a block": changed(without_last_block),
    "cut in a block": changed(lambda data: data[:-3]),
    "a flipped bit": changed(flipped),
    "another account's": changed(of_another),
    "another key's": changed(of_another_key),
    "of the future": changed(of_the_future),
    "nothing": changed(lambda _: b""),
    "no CAR": changed(lambda _: b"<html>" * 100),
    "a root alone": changed(lambda data: data[:59]),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_lie_changes_nothing_and_the_repo_is_fetched_again_later(
    net: Net, lie: Fault
) -> None:
    owner = await alice_in(net)
    await net.index.apply(owner.wrote({GARDEN: space(name="Yard")}))
    before = await net.index.dump("resync_due_at", "resync_attempts", "resync_error")
    net.pds.faults[GET_REPO].append(lie)

    await net.resyncer.resync(ALICE)

    assert await net.index.dump("resync_due_at", "resync_attempts", "resync_error") == before
    state = await net.repo(ALICE)
    assert state["resync_attempts"] == 1
    assert state["resync_error"]
    assert NOW + 1_000 <= state["resync_due_at"] <= NOW + 2_000
    assert files_beside(net.index) == []

    net.clock.now += 2
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (dripping, "timeout"),
        (endless, "too_large"),
        (hanging, "timeout"),
        (hanging_in_the_middle, "timeout"),
        (refused(429, "RateLimitExceeded"), "HTTP 429 RateLimitExceeded"),
        (refused(500), "HTTP 500"),
        (sent(b"x\r\n\r\n"), "unreachable"),
    ],
    ids=["drip", "endless", "hang", "hang in the middle", "429", "500", "garbage"],
)
async def test_a_host_that_does_not_serve_in_time_is_left_alone_for_a_while(
    hasty: Net, fault: Fault, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repo_hosts, "MAX_CAR", 500_000)
    owner = await alice_in(hasty)
    bob = hasty.house(Owner(BOB))
    bob.wrote({})
    hasty.pds.faults[GET_REPO].append(fault)

    started = time.monotonic()
    await hasty.resyncer.resync(ALICE)
    assert time.monotonic() - started < 3
    assert (await hasty.repo(ALICE))["resync_error"].strip() == f"{hasty.pds.url}: {error}"
    assert files_beside(hasty.index) == []
    await hasty.track(BOB)
    await hasty.resyncer.resync(BOB)
    assert hasty.pds.calls[GET_REPO] == 1  # another repo of that host was not tried

    hasty.clock.now += 3
    await hasty.resyncer.resync(ALICE)
    assert await is_indexed(hasty)
    assert owner.rev == (await hasty.repo(ALICE))["rev"]


async def test_failures_back_off_to_an_hour_and_no_number_of_them_overflows(net: Net) -> None:
    await alice_in(net)
    net.pds.always[GET_REPO] = changed(flipped)
    delays = []
    for attempt in range(16):
        await net.resyncer.resync(ALICE)
        state = await net.repo(ALICE)
        assert state["resync_attempts"] == attempt + 1
        delays.append(state["resync_due_at"] / 1000 - net.clock.now)
        net.clock.now = state["resync_due_at"] / 1000
    for attempt, delay in enumerate(delays):
        ceiling = min(2 ** (attempt + 1), MAX_DELAY)
        assert ceiling / 2 <= delay <= ceiling
    assert len(set(delays)) == len(delays)  # they are spread

    async with net.index.db.transaction() as tx:
        await tx.execute("update repos set resync_attempts = 1000000000")
    await net.resyncer.resync(ALICE)
    state = await net.repo(ALICE)
    assert state["resync_due_at"] / 1000 - net.clock.now <= MAX_DELAY


async def test_a_full_disk_is_told_and_is_no_fault_of_the_host(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise DiskError("No space left on device")

    await alice_in(net)
    with monkeypatch.context() as patch:
        patch.setattr(repo_hosts, "download", full)
        await net.resyncer.resync(ALICE)
    assert "No space left" in (await net.repo(ALICE))["resync_error"]
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://a..b",
        "http://-",
        "http://xn--999999999",
        "http://nobody.invalid",
        "ftp://127.0.0.1",
        "http://127.0.0.1/path",
        "http://user:pass@127.0.0.1",
        None,
    ],
)
async def test_no_endpoint_that_a_stranger_names_stops_it(net: Net, url: Any) -> None:
    await alice_in(net)
    net.point(ALICE, Owner.key, url)
    await net.resyncer.resync(ALICE)
    assert (await net.repo(ALICE))["resync_error"]


async def test_a_did_that_cant_be_resolved_is_put_off(net: Net) -> None:
    await alice_in(net)
    document = net.plc.documents.pop(ALICE)
    await net.resyncer.resync(ALICE)
    assert "can't be resolved" in (await net.repo(ALICE))["resync_error"]
    net.clock.now += FRESH
    net.plc.documents[ALICE] = document
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)


async def test_a_new_key_is_learnt_with_one_refresh(net: Net) -> None:
    owner = await alice_in(net)
    await net.resyncer.resync(ALICE)
    owner.key = Key.p256()
    net.house(owner)
    owner.wrote({CHECK: None})
    await net.index.apply(Desynchronize())
    asked = len(net.plc_host.paths)

    await net.resyncer.resync(ALICE)

    assert await net.index.rows("verifications") == []
    assert len(net.plc_host.paths) == asked + 1


# --- accounts that are not served ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RepoDeactivated", "deactivated"),
        ("RepoTakendown", "takendown"),
        ("RepoSuspended", "suspended"),
    ],
)
async def test_a_repo_that_its_host_serves_to_nobody_is_hidden_and_left_alone(
    net: Net, name: str, expected: str
) -> None:
    await alice_in(net)
    net.pds.always[GET_REPO] = refused(400, name)
    await net.resyncer.resync(ALICE)
    state = await net.repo(ALICE)
    assert (state["hosting"], state["resync_attempts"]) == (expected, 0)
    assert await resyncs.due(net.index.db, NOW * 2, 10) == []

    del net.pds.always[GET_REPO]
    await net.index.apply(Account(9, TIME, ALICE, active=True, status=None))
    assert await resyncs.due(net.index.db, NOW, 10) == [ALICE]
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)


async def came_back_unseen(net: Net) -> Owner:
    """Return an indexed repo whose account was deactivated, and is back: but that was missed."""
    owner = net.house(Owner())
    await net.index.apply(owner.wrote(RECORDS))
    await net.index.apply(Account(8, TIME, ALICE, active=False, status="deactivated"))
    assert await resyncs.due(net.index.db, NOW, 10) == []
    await net.index.apply(Desynchronize())
    return owner


async def work(net: Net) -> None:
    while due := await resyncs.due(net.index.db, NOW, 10):
        for did in due:
            await net.resyncer.resync(did)


async def test_an_account_that_came_back_while_nobody_saw_it_is_shown_again(net: Net) -> None:
    owner = await came_back_unseen(net)
    owner.wrote({CHECK: None})
    await work(net)
    assert (await net.repo(ALICE))["hosting"] == "active"
    assert await net.sync_of(ALICE) == "synchronized"
    assert await net.index.rows("verifications") == []


@pytest.mark.parametrize("says", [{"active": False, "status": "takendown"}, {"active": "yes"}, {}])
async def test_of_an_account_that_is_not_back_the_relay_is_asked_once(
    net: Net, says: dict[str, Any]
) -> None:
    await came_back_unseen(net)
    net.relay.always[STATUS] = sent(http(json.dumps(says).encode()))
    net.clock.now += 60
    await work(net)
    hosting = (await net.repo(ALICE))["hosting"]
    assert hosting == ("takendown" if "status" in says else "inactive")
    assert (await net.repo(ALICE))["hosting_time"] == format_datetime(NOW + 60_000)
    assert (net.relay.calls[STATUS], net.pds.calls[STATUS]) == (1, 0)


async def test_an_account_that_nobody_can_tell_of_is_asked_for_again_later(net: Net) -> None:
    await came_back_unseen(net)
    net.relay.faults[STATUS].append(refused(503))
    await work(net)
    assert (await net.repo(ALICE))["hosting"] == "deactivated"
    net.clock.now += 10
    assert await resyncs.due(net.index.db, NOW + 10_000, 10) == [ALICE]
    await net.resyncer.resync(ALICE)
    assert (await net.repo(ALICE))["hosting"] == "active"


@pytest.mark.parametrize("since", [RECORDS, {f"{VERIFICATION}/later": verification()}])
async def test_an_account_that_was_deleted_and_is_back_has_its_records_again(
    net: Net, since: dict[str, Any]
) -> None:
    owner = net.house(Owner())
    written = owner.wrote(RECORDS)
    await net.index.apply(written)
    await net.index.revoke(owner.uri(CHECK))
    await net.index.apply(Account(8, TIME, ALICE, active=False, status="deleted"))
    await net.index.apply(Account(9, TIME, ALICE, active=True, status=None))
    if since is not RECORDS:
        await net.index.apply(owner.wrote(since))
    await work(net)
    assert await net.sync_of(ALICE) == "synchronized"
    assert await net.index.is_live("spaces", GARDEN_URI)
    assert await net.index.is_live("invites", owner.uri(ONE))
    assert len(await invites.of_space(net.index.db, GARDEN_URI, revoked=False, limit=9)) == 1
    assert not await net.index.is_live("verifications", owner.uri(CHECK))
    before = await net.index.dump()
    await net.index.apply(written)
    assert await net.index.dump() == before


@pytest.mark.parametrize("name", ["RepoDeactivated", "RepoNotFound"])
async def test_an_account_that_has_moved_is_followed_and_not_hidden(net: Net, name: str) -> None:
    owner = await alice_in(net)
    await net.resolver.resolve(ALICE)  # what is remembered is its old host
    new = await net.add_host()
    net.house(owner, new)
    net.pds.always[GET_REPO] = refused(400, name)

    await net.resyncer.resync(ALICE)
    assert (await net.repo(ALICE))["hosting"] == "active"
    await net.resyncer.resync(ALICE)

    assert await is_indexed(net)
    assert new.calls[GET_REPO] == 1


async def test_a_repo_that_is_not_there_is_asked_for_again_later(net: Net) -> None:
    owner = await alice_in(net)
    del net.pds.owners[ALICE]
    await net.resyncer.resync(ALICE)
    state = await net.repo(ALICE)
    assert state["hosting"] == "active"
    assert "RepoNotFound" in state["resync_error"]
    net.pds.owners[ALICE] = owner
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)


async def test_what_the_relay_says_while_the_host_is_asked_is_newer(net: Net) -> None:
    await alice_in(net)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_host: object, _did: str, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(http(b'{"error":"RepoDeactivated"}', "400 No"))

    net.pds.faults[GET_REPO].append(slow)
    task = asyncio.create_task(net.resyncer.resync(ALICE))
    await asked.wait()
    await net.index.apply(Account(9, TIME, ALICE, active=True, status=None))
    go_on.set()
    await task
    assert (await net.repo(ALICE))["hosting"] == "active"


# --- what happens meanwhile ---


async def fetching(net: Net) -> tuple[asyncio.Task[None], asyncio.Event]:
    """Return a resync whose host has answered, but whose answer is still on its way."""
    gate = asyncio.Event()
    net.pds.faults[GET_REPO].append(once_open(gate))
    before = net.pds.calls[GET_REPO]
    task = asyncio.create_task(net.resyncer.resync(ALICE))
    async with asyncio.timeout(5):
        while net.pds.calls[GET_REPO] == before:
            await asyncio.sleep(0.01)
    return task, gate


async def test_events_that_come_during_the_fetch_are_kept_and_the_repo_is_whole_after_it(
    net: Net,
) -> None:
    owner = await alice_in(net)
    task, gate = await fetching(net)
    assert len(files_beside(net.index)) == 1  # where there is room
    await net.index.apply(owner.wrote({CHECK: None}))
    await net.index.apply(owner.wrote({ONE: invite(GARDEN_URI, "new")}))
    gate.set()
    await task
    assert await net.sync_of(ALICE) == "synchronized"
    assert await net.index.rows("verifications") == []
    assert (await net.repo(ALICE))["whole_rev"] == owner.rev


@pytest.mark.parametrize("blind", ["rejected", "missed"])
async def test_what_is_missed_during_the_fetch_is_not_taken_for_seen(net: Net, blind: str) -> None:
    owner = await alice_in(net)
    task, gate = await fetching(net)
    lost = owner.wrote({CHECK: None})
    if blind == "rejected":
        await net.index.apply(Rejected(50, TIME, "bad_block", ALICE, lost.rev))
    else:
        await net.index.apply(Desynchronize())
    gate.set()
    await task

    assert await resyncs.due(net.index.db, NOW, 10) == [ALICE]
    await net.resyncer.resync(ALICE)
    assert await net.sync_of(ALICE) == "synchronized"
    assert await net.index.rows("verifications") == []


async def test_a_copy_that_comes_after_the_accounts_deletion_brings_nothing_back(
    net: Net,
) -> None:
    await alice_in(net)
    task, gate = await fetching(net)
    await net.index.apply(Account(9, TIME, ALICE, active=False, status="deleted"))
    gate.set()
    await task
    assert (await net.repo(ALICE))["hosting"] == "deleted"
    assert await net.index.rows("spaces") == []


async def test_killed_at_any_moment_it_begins_anew_and_loses_nothing(net: Net) -> None:
    owner = await alice_in(net)
    await net.index.apply(owner.wrote({GARDEN: space(name="Yard")}))
    for turns in [*range(60), *range(60, 600, 20)]:
        net.restart()
        task = asyncio.create_task(net.resyncer.resync(ALICE))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(lambda: _no_files(net))
        if await is_indexed(net):
            break
        assert await net.sync_of(ALICE) != "synchronized"
        assert len(await net.index.rows("spaces")) == 1

    net.restart()
    running = asyncio.create_task(net.resyncer.run())
    await until(lambda: is_indexed(net))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert (await net.repo(ALICE))["rev"] == owner.rev


async def _no_files(net: Net) -> bool:
    return files_beside(net.index) == []


async def test_what_a_killed_daemon_had_taken_up_is_fetched_at_once(net: Net) -> None:
    await alice_in(net)
    async with net.index.db.transaction() as tx:
        await resyncs.claim(tx, ALICE, NOW + 1_800_000)
    running = asyncio.create_task(net.resyncer.run())
    await until(lambda: is_indexed(net))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_what_was_put_off_is_fetched_although_the_clock_is_set_back_by_a_year(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "POLL", 0.02)
    await alice_in(net)
    net.clock.now += YEAR
    net.pds.always[GET_REPO] = refused(503)
    running = asyncio.create_task(net.resyncer.run())
    try:
        await until(lambda: _has_failed(net))
        net.pds.always.clear()
        net.clock.now -= YEAR
        await until(lambda: is_indexed(net))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _has_failed(net: Net) -> bool:
    return (await net.repo(ALICE))["resync_error"] is not None


async def test_what_a_killed_daemon_left_on_the_disk_is_removed(net: Net) -> None:
    beside = net.index.db.path.parent
    left, other = beside / f"{net.index.db.path.name}-resync-abc", beside / "other-resync-abc"
    left.write_bytes(b"x")
    other.write_bytes(b"x")
    running = asyncio.create_task(net.resyncer.run())
    await asyncio.sleep(0.1)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert files_beside(net.index) == [other]


# --- many ---


def did_of(number: int) -> str:
    return "did:plc:" + "".join("abcdefghijklmnop"[number >> 4 * n & 15] for n in range(24))


async def settle(net: Net, condition: Callable[[], Any], within: float = 15.0) -> None:
    running = asyncio.create_task(net.resyncer.run())
    try:
        await until(condition, within)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_dead_host_with_fifty_repos_does_not_hold_up_another(
    hasty: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "POLL", 0.05)
    dead = await hasty.add_host()
    dead.always[GET_REPO] = dead.always[LATEST] = hanging
    for number in range(50):
        hasty.house(Owner(did_of(number)), dead)
    await hasty.track(*map(did_of, range(50)))
    owner = await alice_in(hasty)
    assert owner.rev

    started = time.monotonic()
    await settle(hasty, lambda: is_indexed(hasty))

    assert time.monotonic() - started < 3
    assert dead.calls[GET_REPO] <= 4


async def test_few_repos_are_fetched_at_once_and_fewer_of_one_host(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "POLL", 0.05)
    hosts = [net.pds, *[await net.add_host() for _ in range(4)]]
    busiest = 0

    async def slow(host: Any, did: str, writer: asyncio.StreamWriter) -> None:
        nonlocal busiest
        busiest = max(busiest, sum(each.busy for each in hosts))
        await asyncio.sleep(0.02)
        writer.write(http(host.owners[did].car()))

    dids = [did_of(number) for number in range(40)]
    for number, did in enumerate(dids):
        net.house(Owner(did), hosts[number % 5]).wrote({CHECK: verification()})
        hosts[number % 5].always[GET_REPO] = slow
    await net.track(*dids)

    async def are_whole() -> bool:
        return len(await net.index.rows("repos", sync="synchronized")) == len(dids)

    await settle(net, are_whole)

    assert busiest == resync.WORKERS
    assert max(host.busiest for host in hosts) <= 2


async def test_however_many_are_due_few_are_taken_up(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "POLL", 0.01)
    monkeypatch.setattr(resync, "MAX_TAKEN", 20)
    net.pds.always[GET_REPO] = hanging
    dids = [did_of(number) for number in range(300)]
    for did in dids:
        net.house(Owner(did))
    await net.track(*dids)
    tasks = len(asyncio.all_tasks())
    running = asyncio.create_task(net.resyncer.run())
    await asyncio.sleep(0.5)
    assert len(asyncio.all_tasks()) - tasks < 40
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    claimed = await net.index.db.all("select 1 from repos where resync_due_at > 0")
    assert len(claimed) <= 20


# --- memory ---


def large_car(owner: Owner, megabytes: int) -> bytes:
    """Return the CAR of a repo with three records of ours among large posts."""
    posts = {
        f"app.bsky.feed.post/{n:05}": {"x": "x" * 500, "n": n} for n in range(megabytes * 1500)
    }
    owner.fill(posts | RECORDS)
    return owner.car()


async def test_a_large_repo_takes_little_memory(net: Net) -> None:
    owner = net.house(Owner())
    answer = http(large_car(owner, 20))
    assert len(answer) > 18_000_000

    async def serve(_host: object, _did: str, writer: asyncio.StreamWriter) -> None:
        for first in range(0, len(answer), 65_536):  # lest the buffers are counted as ours
            writer.write(answer[first : first + 65_536])
            await writer.drain()

    net.pds.always[GET_REPO] = serve
    await net.track(ALICE)
    await net.resolver.resolve(ALICE)
    tracemalloc.start()
    try:
        await net.resyncer.resync(ALICE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert await is_indexed(net)
    assert peak < 5_000_000


async def test_what_a_repo_has_of_ours_is_limited_in_number_and_size(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await alice_in(net)
    for name, limit in (("MAX_RECORDS", 2), ("MAX_HELD", 300)):
        with monkeypatch.context() as patch:
            patch.setattr(repo_module, name, limit)
            await net.resyncer.resync(ALICE)
            assert "more than" in (await net.repo(ALICE))["resync_error"]
    with monkeypatch.context() as patch:
        patch.setattr(repo_module, "MAX_BLOCKS", len(owner.records))
        await net.resyncer.resync(ALICE)
        assert "more than" in (await net.repo(ALICE))["resync_error"]
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)


async def test_a_record_that_is_too_large_to_be_read_is_not_held(net: Net) -> None:
    owner = net.house(Owner())
    owner.fill({f"{SPACE}/{n}": {"x": "x" * 900_000, "n": n} for n in range(10)} | RECORDS)
    await net.track(ALICE)
    data = http(owner.car())

    async def serve(_host: object, _did: str, writer: asyncio.StreamWriter) -> None:
        for first in range(0, len(data), 65_536):
            writer.write(data[first : first + 65_536])
            await writer.drain()

    net.pds.always[GET_REPO] = serve
    tracemalloc.start()
    try:
        await net.resyncer.resync(ALICE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert await is_indexed(net)
    assert peak < 5_000_000
