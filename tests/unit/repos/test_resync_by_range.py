"""What is ours of a repo is proven by a few blocks, whichever PDS it is on, and what it may do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog

from indexer.proof.car import read_blocks
from indexer.repos import range_source
from indexer.repos.peers import AT_ONCE, REMEMBERED
from indexer.store import daemon, resyncs
from indexer.stream.events import Account
from tests.support.account_keys import Key
from tests.support.dialects import DIALECTS, GET_BLOCKS, GET_RECORD, OFFICIAL, Dialect
from tests.support.frames import (
    ALICE,
    BOB,
    INVITE,
    NOW,
    SPACE,
    TIME,
    VERIFICATION,
    block,
    car,
    cid_of,
    invite,
    space,
    tid,
    verification,
)
from tests.support.http_host import http
from tests.support.index_file import Index, opened
from tests.support.repo_host import (
    GET_REPO,
    LATEST,
    Fault,
    Net,
    RepoHost,
    files_beside,
    hanging,
    opened_net,
    refusal,
    refused,
    sent,
)
from tests.support.streamed_repo import Owner

GARDEN, ONE, CHECK = f"{SPACE}/garden", f"{INVITE}/one", f"{VERIFICATION}/3k"
GARDEN_URI = f"at://{ALICE}/{GARDEN}"
RECORDS = {GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: verification()}
POSTS = 400
PARTS = {name: dialect for name, dialect in DIALECTS.items() if dialect.has != "nothing"}


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    async with opened(tmp_path) as index:
        yield index


@pytest.fixture
async def net(index: Index) -> AsyncIterator[Net]:
    async with opened_net(index, dialect=OFFICIAL) as net:
        yield net


def speak(net: Net, dialect: Dialect) -> None:
    net.pds.dialect = dialect
    net.restart()


async def a_repo(net: Net, did: str = ALICE, posts: int = POSTS) -> Owner:
    """Return a tracked repo with three records of ours among others."""
    owner = net.house(Owner(did))
    owner.fill({f"app.bsky.feed.post/{n:04}": {"text": str(n)} for n in range(posts)})
    owner.fill(RECORDS)
    await net.track(did)
    return owner


async def is_indexed(net: Net, did: str = ALICE) -> bool:
    rows = await net.index.rows("repos", did=did, sync="synchronized")
    tables = ("spaces", "invites", "untrusted_invites", "verifications")
    return bool(rows) and sum([len(await net.index.rows(t, did=did)) for t in tables]) == 3


def parts_asked(host: RepoHost) -> int:
    return host.calls[GET_RECORD] + host.calls[GET_BLOCKS]


# --- ten ways to give out parts ---


@pytest.mark.parametrize("name", DIALECTS)
async def test_whichever_pds_it_is_on_a_repo_is_proven_and_the_same_as_by_its_car(
    net: Net, name: str
) -> None:
    speak(net, DIALECTS[name])
    owner = await a_repo(net)
    with structlog.testing.capture_logs() as logs:
        await net.resyncer.resync(ALICE)
    assert await is_indexed(net)
    by_parts = await net.index.dump("resync_due_at")
    assert net.pds.calls[GET_REPO] == (name not in PARTS)
    [told] = [entry for entry in logs if entry["event"] == "repo.resynced"]
    if name in PARTS:
        assert told["bytes"] < len(owner.car()) / 5
        assert told["requests"] <= 20
        assert told["way"] == {"@atproto/pds": "proof", "rsky": "proof", "millipds": "proof",
                               "cirrus": "proof", "vlpds": "proof", "pegasus": "records",
                               }.get(name, "layers")  # fmt: skip
    else:
        assert told["way"] == "whole"
        assert told["bytes"] >= len(owner.car())

    async with net.index.db.transaction() as tx:
        await resyncs.ask(tx, ALICE, whole=True)
    await net.resyncer.resync(ALICE)
    assert net.pds.calls[GET_REPO] == 1 + (name not in PARTS)
    assert await net.index.dump("resync_due_at") == by_parts


async def test_the_official_pds_is_asked_very_little(net: Net) -> None:
    await a_repo(net)
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)
    assert sum(net.pds.calls.values()) <= 5
    assert net.relay.calls[GET_REPO] == 0
    counted = {
        kind: await daemon.counters(net.index.db, kind)
        for kind in ("resynced", "resync_bytes", "resync_requests")
    }
    assert counted["resynced"] == {"proof": 1}
    assert counted["resync_requests"] == {"proof": sum(net.pds.calls.values())}
    assert 2_000 < counted["resync_bytes"]["proof"] < 10_000


@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "@atproto/pds"])
async def test_what_a_host_cant_do_is_remembered_for_an_hour(net: Net, name: str) -> None:
    speak(net, DIALECTS[name])
    await a_repo(net)
    await a_repo(net, BOB)
    for host in net.hosts:
        host.calls.clear()

    async def learn(did: str) -> dict[str, int]:
        async with net.index.db.transaction() as tx:
            await resyncs.ask(tx, did)
        net.pds.calls.clear()
        await net.resyncer.resync(did)
        assert await is_indexed(net, did)
        return dict(net.pds.calls)

    first = await learn(ALICE)
    then = await learn(BOB)
    if DIALECTS[name].absent != "way" or name not in PARTS:
        assert sum(then.values()) < sum(first.values())
    if DIALECTS[name].has == "nothing":
        assert then == {GET_REPO: 1}
    elif isinstance(DIALECTS[name].absent, tuple):
        assert GET_RECORD not in then
    net.clock.now += REMEMBERED
    again = await learn(ALICE)
    assert again == first


async def test_a_failure_of_one_repo_is_not_one_of_its_host(net: Net) -> None:
    await a_repo(net)
    net.pds.always[GET_RECORD] = net.pds.always[LATEST] = refused(400, "RepoNotFound")
    net.pds.always[GET_REPO] = refused(400, "RepoDeactivated")
    await net.resyncer.resync(ALICE)
    assert (await net.repo(ALICE))["hosting"] == "deactivated"
    net.pds.always.clear()
    await a_repo(net, BOB)
    net.pds.calls.clear()
    await net.resyncer.resync(BOB)
    assert await is_indexed(net, BOB)
    assert net.pds.calls[GET_REPO] == net.pds.calls[LATEST] == 0


async def test_a_host_that_was_asked_for_parts_in_vain_gives_the_whole(net: Net) -> None:
    await a_repo(net)
    for fault in (hanging_up, sent(http(b"<html>")), refused(500), sent(http(b"x" * 2_000_000))):
        net.restart()
        net.pds.always = {GET_RECORD: fault, GET_BLOCKS: fault}
        async with net.index.db.transaction() as tx:
            await resyncs.ask(tx, ALICE)
        net.pds.calls.clear()
        await net.resyncer.resync(ALICE)
        assert net.pds.calls[GET_REPO] == 1
        assert await is_indexed(net)


async def hanging_up(_host: RepoHost, _did: str, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_parts_that_do_not_come_in_time_are_not_waited_for(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_repo(net)
    monkeypatch.setattr(range_source, "ASK_WITHIN", 0.2)
    net.pds.always[GET_BLOCKS] = hanging
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)
    assert net.pds.calls[GET_REPO] == 1
    assert files_beside(net.index) == []


@pytest.mark.parametrize("fault", [refused(404, "RepoNotFound"), refused(501)])
async def test_where_only_parts_are_served_a_small_repo_is_walked_too(
    net: Net, fault: Fault
) -> None:
    net.pds.always[GET_REPO] = fault  # as bridgy-fed does, 12 hours after a repo was made
    for did in (ALICE, BOB):
        owner = await a_repo(net, did, posts=0)
        owner.fill({f"{VERIFICATION}/{n:03}": verification(n=n) for n in range(30)})
        await net.resyncer.resync(did)
        assert await net.sync_of(did) == "synchronized"
        assert len(await net.index.rows("verifications", did=did)) == 31
    assert net.pds.calls[GET_REPO] == 1


# --- limits of a request, and of how many ---


async def test_a_request_is_never_too_long_and_few_are_made_at_once(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await a_repo(net)
    owner.fill({f"{VERIFICATION}/{n:05}": verification(n=n) for n in range(1_500)})
    await net.resyncer.resync(ALICE)
    assert await net.sync_of(ALICE) == "synchronized"
    assert len(await net.index.rows("verifications")) == 1_501
    assert net.pds.calls[GET_REPO] == 0
    urls = [f"{net.pds.url}{path}" for path in net.pds.host.paths]
    assert max(map(len, urls)) <= range_source.MAX_URL == 12 * 1024
    counts = [len(parse_qs(urlsplit(url).query).get("cids", [])) for url in urls]
    assert 150 <= max(counts) <= range_source.MAX_CIDS == 200
    assert 1 < net.pds.most_small_at_once <= AT_ONCE == 4

    monkeypatch.setattr(range_source, "MAX_URL", 100_000)
    assert max(map(len, range_source.chunks("https://pds", ALICE, [b"x"] * 401))) == 200


async def test_no_more_is_asked_at_once_however_many_repos_of_a_host_are_due(net: Net) -> None:
    dids = ["did:plc:" + letter * 24 for letter in "abcdefgh"]
    for did in dids:
        await a_repo(net, did, posts=100)
    await asyncio.gather(*map(net.resyncer.resync, dids))
    assert all([await is_indexed(net, did) for did in dids])
    assert net.pds.most_small_at_once <= AT_ONCE


async def test_a_repo_with_too_much_of_ours_for_parts_is_fetched_whole(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_source, "MAX_REQUESTS", 12)
    owner = await a_repo(net)
    owner.fill({f"{VERIFICATION}/{n:05}": verification(n=n) for n in range(2_500)})
    await net.resyncer.resync(ALICE)
    assert len(await net.index.rows("verifications")) == 2_501
    assert net.pds.calls[GET_REPO] == 1
    assert parts_asked(net.pds) <= 12


@pytest.mark.parametrize("posts", [0, 20])
async def test_a_repo_of_few_records_is_one_getrepo(net: Net, posts: int) -> None:
    owner = await a_repo(net, posts=posts)
    owner.fill({f"{VERIFICATION}/{n:03}": verification(n=n) for n in range(20)})
    await net.resyncer.resync(ALICE)
    assert net.pds.calls == {GET_RECORD: 1, GET_REPO: 1}
    assert len(await net.index.rows("verifications")) == 21


async def test_an_empty_repo_is_proven_by_one_answer(net: Net) -> None:
    net.house(Owner()).wrote({})
    await net.track(ALICE)
    await net.resyncer.resync(ALICE)
    assert await net.sync_of(ALICE) == "synchronized"
    assert net.pds.calls == {GET_RECORD: 1}


# --- a repo that changes meanwhile ---


@pytest.mark.parametrize(
    "unknown", [(400, "InvalidRequest"), (400, "BlockNotFound"), (500, "Oops"), "left out", "empty"]
)
@pytest.mark.parametrize("absent", ["way", (500, "Oops")])
async def test_a_repo_that_changes_under_the_walk_is_begun_anew_with_what_is_there(
    net: Net, unknown: Any, absent: Any
) -> None:
    speak(net, Dialect(absent, unknown=unknown))
    owner = await a_repo(net)
    count = 0

    def write() -> None:
        nonlocal count
        count += 1
        if count in (2, 4):  # what a walk is after is there no more
            owner.fill({f"{VERIFICATION}/n{count}": verification(n=count)})
            owner.fill({path: {**record, "n": count} for path, record in RECORDS.items()})

    net.pds.meanwhile.extend([write] * 5)
    await net.resyncer.resync(ALICE)
    assert net.pds.calls[GET_REPO] == 0
    assert await net.sync_of(ALICE) == "synchronized"
    assert (await net.repo(ALICE))["whole_rev"] == owner.rev
    uris = {row["uri"] for row in await net.index.rows("verifications")}
    assert uris == {owner.uri(f"{VERIFICATION}/{key}") for key in ("3k", "n2", "n4")}


async def test_a_repo_that_never_stops_changing_is_fetched_whole(net: Net) -> None:
    owner = await a_repo(net)
    number = 0

    def write() -> None:
        nonlocal number
        number += 1
        owner.fill({CHECK: verification(n=number)})

    net.pds.meanwhile.extend([write] * 200)
    await net.resyncer.resync(ALICE)
    assert net.pds.calls[GET_REPO] == 1
    assert await net.sync_of(ALICE) == "synchronized"
    assert parts_asked(net.pds) <= 16
    # That says nothing of the host.
    net.pds.meanwhile.clear()
    net.pds.calls.clear()
    await a_repo(net, BOB)
    await net.resyncer.resync(BOB)
    assert net.pds.calls[GET_REPO] == 0


async def test_what_is_gone_from_the_repo_is_gone_here_by_the_proof_of_its_absence(
    net: Net,
) -> None:
    owner = await a_repo(net)
    await net.resyncer.resync(ALICE)
    owner.fill({CHECK: None, ONE: None})
    async with net.index.db.transaction() as tx:
        await resyncs.ask(tx, ALICE)
    await net.resyncer.resync(ALICE)
    assert net.pds.calls[GET_REPO] == 0
    assert await net.index.rows("verifications") == []
    assert await net.index.rows("invites") == []
    assert len(await net.index.rows("spaces")) == 1


async def test_live_events_beside_the_walk_count_by_their_rev(net: Net) -> None:
    owner = await a_repo(net)
    asked, go_on = asyncio.Event(), asyncio.Event()
    answer = OFFICIAL.record(net.pds.parts(ALICE), query(f"{VERIFICATION}/-"))

    async def slow(_host: RepoHost, _did: str, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(answer)

    net.pds.faults[GET_RECORD].append(slow)
    task = asyncio.create_task(net.resyncer.resync(ALICE))
    await asked.wait()
    await net.index.apply(owner.wrote({CHECK: None}))
    await net.index.apply(owner.wrote({ONE: invite(GARDEN_URI, "new")}))
    go_on.set()
    await task
    assert await net.sync_of(ALICE) == "synchronized"
    assert await net.index.rows("verifications") == []
    assert (await net.repo(ALICE))["whole_rev"] == owner.rev


def query(path: str) -> dict[str, list[str]]:
    collection, _, rkey = path.partition("/")
    return {"collection": [collection], "rkey": [rkey]}


# --- what is not to be believed ---


def edited(edit: Callable[[dict[bytes, bytes], RepoHost, str], dict[bytes, bytes]]) -> Fault:
    """Answer as the official PDS does, but with other blocks than the right ones."""

    async def fault(host: RepoHost, did: str, writer: asyncio.StreamWriter) -> None:
        target = host.host.paths[-1]
        asked = parse_qs(urlsplit(target).query)
        parts = host.parts(did)
        answer = OFFICIAL.record if "getRecord" in target else OFFICIAL.part
        _, blocks = read_blocks(answer(parts, asked).partition(b"\r\n\r\n")[2])
        made = edit(blocks, host, did)
        sections = b"".join(
            bytes((0x80 | (len(cid) + len(data)) & 0x7F, (len(cid) + len(data)) >> 7)) + cid + data
            for cid, data in made.items()
        )
        writer.write(http(car(parts.head, []) + sections))

    return fault


def forged(blocks: dict[bytes, bytes], _host: RepoHost, _did: str) -> dict[bytes, bytes]:
    return {cid: data[:-1] + bytes((data[-1] ^ 1,)) for cid, data in blocks.items()}


def swapped(blocks: dict[bytes, bytes], _host: RepoHost, _did: str) -> dict[bytes, bytes]:
    return dict(zip(blocks, [*list(blocks.values())[1:], b"\xa0"], strict=True))


def left_out(_blocks: dict[bytes, bytes], _host: RepoHost, _did: str) -> dict[bytes, bytes]:
    return {}


def of_the_future(blocks: dict[bytes, bytes], host: RepoHost, did: str) -> dict[bytes, bytes]:
    owner = host.owners[did]
    assert owner.data
    late = block(owner.commit_object(tid(0, NOW + 400_000), owner.data))
    return blocks | {cid_of(late): late}


async def test_what_a_host_leaves_out_is_asked_for_in_another_way(net: Net) -> None:
    await a_repo(net)
    net.pds.always[GET_BLOCKS] = edited(left_out)
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)


@pytest.mark.parametrize(
    ("method", "edit"),
    [
        (GET_RECORD, forged),
        (GET_RECORD, swapped),
        (GET_RECORD, left_out),
        (GET_BLOCKS, forged),
        (GET_BLOCKS, swapped),
    ],
)
async def test_a_lie_in_parts_changes_nothing(net: Net, method: str, edit: Any) -> None:
    owner = await a_repo(net)
    await net.index.apply(owner.wrote({GARDEN: space(name="Yard")}))
    before = await net.index.dump("resync_due_at", "resync_attempts", "resync_error")
    net.pds.always = {method: edited(edit), GET_REPO: refused(500)}
    if method == GET_RECORD:
        net.pds.always[LATEST] = refused(500)
    await net.resyncer.resync(ALICE)
    assert await net.index.dump("resync_due_at", "resync_attempts", "resync_error") == before
    assert (await net.repo(ALICE))["resync_error"]


@pytest.mark.parametrize("whose", ["another key's", "another account's"])
async def test_what_its_owner_did_not_sign_is_not_believed(net: Net, whose: str) -> None:
    owner = await a_repo(net)
    before = await net.index.dump("resync_due_at", "resync_attempts", "resync_error")
    if whose == "another key's":
        owner.key = Key.k256()
        owner.fill({CHECK: verification(n=2)})
    else:
        bob = Owner(BOB)
        bob.fill(RECORDS)
        net.pds.owners[ALICE] = bob
    await net.resyncer.resync(ALICE)
    assert await net.index.dump("resync_due_at", "resync_attempts", "resync_error") == before
    assert "not proven" in (await net.repo(ALICE))["resync_error"]


async def test_a_commit_of_the_future_is_not_believed(net: Net) -> None:
    owner = await a_repo(net)
    owner.rev = tid(0, NOW + 400_000)
    before = await net.index.dump("resync_due_at", "resync_attempts", "resync_error")
    await net.resyncer.resync(ALICE)
    assert "future" in (await net.repo(ALICE))["resync_error"]
    assert await net.index.dump("resync_due_at", "resync_attempts", "resync_error") == before


async def test_a_new_key_is_learnt_with_one_refresh(net: Net) -> None:
    owner = await a_repo(net)
    await net.resyncer.resync(ALICE)
    owner.key = Key.p256()
    net.house(owner)
    owner.fill({CHECK: None})
    async with net.index.db.transaction() as tx:
        await resyncs.ask(tx, ALICE)
    asked = len(net.plc_host.paths)
    await net.resyncer.resync(ALICE)
    assert await net.index.rows("verifications") == []
    assert len(net.plc_host.paths) == asked + 1
    assert net.pds.calls[GET_REPO] == 0


async def test_killed_at_any_moment_of_the_walk_it_begins_anew(net: Net) -> None:
    await a_repo(net, posts=100)
    for turns in [*range(0, 60, 3), *range(60, 400, 20)]:
        net.restart()
        task = asyncio.create_task(net.resyncer.resync(ALICE))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if await is_indexed(net):
            break
        assert await net.sync_of(ALICE) != "synchronized"
    net.restart()
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)


async def test_an_account_that_went_while_it_was_walked_is_not_brought_back(net: Net) -> None:
    await a_repo(net)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(host: RepoHost, did: str, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(OFFICIAL.record(host.parts(did), query(f"{VERIFICATION}/-")))

    net.pds.faults[GET_RECORD].append(slow)
    task = asyncio.create_task(net.resyncer.resync(ALICE))
    await asked.wait()
    await net.index.apply(Account(9, TIME, ALICE, active=False, status="deleted"))
    go_on.set()
    await task
    assert (await net.repo(ALICE))["hosting"] == "deleted"
    assert await net.index.rows("spaces") == []


# --- how much a host lets us ask ---


def remaining(count: int) -> tuple[str, ...]:
    reset = NOW // 1000 + 300
    return (
        "RateLimit-Limit: 3000", f"RateLimit-Remaining: {count}", f"RateLimit-Reset: {reset}",
        "RateLimit-Policy: 3000;w=300",
    )  # fmt: skip


async def test_before_the_limit_of_small_requests_whole_repos_are_fetched(net: Net) -> None:
    dids = ["did:plc:" + letter * 24 for letter in "abcd"]
    for did in dids:
        await a_repo(net, did)
    net.pds.headers = remaining(2_000)
    await net.resyncer.resync(dids[0])
    assert net.pds.calls[GET_REPO] == 0
    net.pds.headers = remaining(300)  # some are left to all else that this address asks
    await net.resyncer.resync(dids[1])
    small = parts_asked(net.pds)
    await net.resyncer.resync(dids[2])
    assert net.pds.calls[GET_REPO] == 2
    assert parts_asked(net.pds) == small
    net.clock.now += 300
    net.pds.headers = remaining(2_999)
    await net.resyncer.resync(dids[3])
    assert net.pds.calls[GET_REPO] == 2
    assert all([await is_indexed(net, did) for did in dids])


@pytest.mark.parametrize("status", [200, 429])
async def test_a_host_both_of_whose_limits_are_near_is_left_alone_until_one_is_over(
    net: Net, status: int
) -> None:
    dids = ["did:plc:" + letter * 24 for letter in "abc"]
    for did in dids:
        await a_repo(net, did)
    net.pds.headers = remaining(10)
    answer = refusal(429, "RateLimitExceeded", "Retry-After: 120")
    if status == 200:
        reset = NOW // 1000 + 120
        headers = ("RateLimit-Limit: 6000", "RateLimit-Remaining: 9", f"RateLimit-Reset: {reset}")
        answer = http(net.pds.owners[dids[0]].car(), "200 OK", *headers)
    net.pds.always[GET_REPO] = sent(answer)
    for did in dids:
        await net.resyncer.resync(did)
    asked = sum(net.pds.calls.values())
    assert asked == 2
    for did in dids[1:]:
        state = await net.repo(did)
        assert state["resync_due_at"] == NOW + 120_000
        assert state["resync_attempts"] == 0  # that was none
    net.clock.now += 121
    net.pds.always.clear()
    for did in dids[1:]:
        await net.resyncer.resync(did)
        assert await is_indexed(net, did)
    assert net.pds.calls[GET_REPO] == 3  # the small ones are still to be left alone


async def test_a_refusal_in_the_middle_of_a_walk_leads_to_the_whole(net: Net) -> None:
    await a_repo(net)
    net.pds.always[GET_BLOCKS] = sent(refusal(429, "RateLimitExceeded", "Retry-After: 60"))
    await net.resyncer.resync(ALICE)
    assert await is_indexed(net)
    assert net.pds.calls[GET_REPO] == 1
    await a_repo(net, BOB)
    net.pds.calls.clear()
    await net.resyncer.resync(BOB)
    assert net.pds.calls == {GET_REPO: 1}
    net.pds.always.clear()
    net.clock.now += 61
    async with net.index.db.transaction() as tx:
        await resyncs.ask(tx, BOB)
    await net.resyncer.resync(BOB)
    assert net.pds.calls[GET_REPO] == 1  # nothing is held against the host


async def test_a_restart_forgets_that_the_car_was_wanted_once_it_came(net: Net) -> None:
    await a_repo(net)
    async with net.index.db.transaction() as tx:
        await resyncs.ask(tx, ALICE, whole=True)
    net.pds.faults[GET_REPO].append(refused(500))
    await net.resyncer.resync(ALICE)
    net.clock.now += 3
    net.restart()
    await net.resyncer.resync(ALICE)
    assert net.pds.calls == {GET_REPO: 2}
    async with net.index.db.transaction() as tx:
        await resyncs.ask(tx, ALICE)
    await net.resyncer.resync(ALICE)
    assert net.pds.calls[GET_REPO] == 2
