"""No host, lie or failure changes the index or stops the resyncer: it asks again later."""

import time
from typing import Any

import pytest

from indexer.identity.resolver import FRESH
from indexer.net.health import MAX_DELAY
from indexer.net.requests import DiskError
from indexer.repos import hosts as repo_hosts
from indexer.rules.projection import Desynchronize
from tests.support.account_keys import Key
from tests.support.alices_records import CHECK, GARDEN
from tests.support.frames import ALICE, BOB, NOW, block, cid_of, section, space, tid, verification
from tests.support.repo_host import (
    GET_REPO,
    Fault,
    Net,
    changed,
    cut_off,
    dripping,
    endless,
    files_beside,
    hanging,
    hanging_in_the_middle,
    refused,
    sent,
)
from tests.support.resyncing import RECORDS, alice_in, hasty, is_indexed, net
from tests.support.streamed_repo import Owner

__all__ = ["hasty", "net"]  # fixtures


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
