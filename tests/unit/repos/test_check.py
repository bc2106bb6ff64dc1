"""A check names what the index says otherwise than a repo, and changes nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.repos import checker
from indexer.repos.checker import Checked, Checker
from indexer.rules.difference import Difference
from indexer.store.repos import sample
from indexer.stream.events import Account
from tests.support.dialects import DIALECTS, GET_RECORD, OFFICIAL, WHOLE_ONLY
from tests.support.frames import (
    ALICE,
    BOB,
    INVITE,
    SCOPE,
    SPACE,
    TIME,
    VERIFICATION,
    cid_text,
    invite,
    space,
    verification,
)
from tests.support.frames import block as encoded
from tests.support.index_file import Index, opened
from tests.support.repo_host import GET_REPO, Net, files_beside, opened_net, refused
from tests.support.streamed_repo import Owner

GARDEN, ONE, CHECK = f"{SPACE}/garden", f"{INVITE}/one", f"{VERIFICATION}/3k"
GARDEN_URI = f"at://{ALICE}/{GARDEN}"
CHECK_URI = f"at://{ALICE}/{CHECK}"
RECORDS = {GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: verification()}


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    async with opened(tmp_path) as index:
        yield index


@pytest.fixture
async def net(index: Index, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Net]:
    monkeypatch.setattr(checker, "PAUSE", 0.0)
    async with opened_net(index, dialect=OFFICIAL) as net:
        yield net


async def an_indexed_repo(net: Net) -> Owner:
    owner = net.house(Owner())
    owner.fill({f"app.bsky.feed.post/{n:04}": {"text": str(n)} for n in range(200)})
    owner.fill(RECORDS | {f"{SPACE}/invalid": {"x": 1}})
    await net.track(ALICE)
    await net.resyncer.resync(ALICE)
    return owner


async def check(net: Net, did: str = ALICE) -> Checked:
    """Check a repo; nothing may change by that."""
    before = await net.index.dump()
    checker = Checker(
        net.index.db, SCOPE, net.resolver, net.client, relay_url=net.relay.url, clock=net.clock
    )
    found = await checker.check(did)
    assert await net.index.dump() == before
    assert files_beside(net.index) == []
    return found


async def damage(net: Net, sql: str) -> None:
    async with net.index.db.transaction() as tx:
        await tx.execute(sql)


@pytest.mark.parametrize("name", DIALECTS)
async def test_an_index_that_is_right_is_said_to_be_whatever_the_pds(net: Net, name: str) -> None:
    owner = await an_indexed_repo(net)
    net.pds.dialect = DIALECTS[name]
    found = await check(net)
    assert (found.did, found.rev, found.differences, found.reason) == (ALICE, owner.rev, (), None)
    assert found.tally.requests > 0
    assert (found.way == "whole") == (DIALECTS[name].has == "nothing")


async def test_what_is_otherwise_is_named(net: Net) -> None:
    owner = await an_indexed_repo(net)
    kept, other = cid_text(encoded(verification())), cid_text(b"other")
    await damage(net, "delete from verifications")
    found = await check(net)
    assert found.differences == (Difference(CHECK_URI, "missing", None, kept),)
    assert found.reason is None
    assert str(found.differences[0]) == f"{CHECK_URI} is in the repo ({kept}) and not in the index"

    await damage(net, f"update spaces set cid = '{other}'")
    await damage(net, f"update invites set uri = '{owner.uri(INVITE)}/two'")
    found = await check(net)
    assert {(each.uri.rpartition("/")[2], each.kind) for each in found.differences} == {
        ("garden", "other"), ("one", "missing"), ("two", "surplus"), ("3k", "missing"),
    }  # fmt: skip


async def test_what_was_revoked_is_no_difference_before_and_after_it_is_gone(net: Net) -> None:
    owner = await an_indexed_repo(net)
    for uri in (CHECK_URI, owner.uri(ONE)):
        await net.index.revoke(uri)
    assert (await check(net)).differences == ()
    # Its row may be gone before its tombstone is.
    await damage(net, "delete from verifications")
    await damage(net, "delete from outbox")
    assert (await check(net)).differences == ()
    await net.index.apply(owner.wrote({CHECK: None, ONE: None}))
    assert (await check(net)).differences == ()


async def test_a_record_that_was_deleted_and_put_back_is_missed_if_it_is_not_here(
    net: Net,
) -> None:
    owner = await an_indexed_repo(net)
    await net.index.apply(owner.wrote({CHECK: None}))
    await net.index.apply(owner.wrote({CHECK: verification()}))
    assert (await check(net)).differences == ()
    await damage(net, "delete from verifications")
    assert [each.kind for each in (await check(net)).differences] == ["missing"]


async def test_a_repo_that_is_ahead_is_not_blamed(net: Net) -> None:
    owner = await an_indexed_repo(net)
    before = owner.rev
    owner.fill({f"app.bsky.feed.post/z{n}": {"text": "x"} for n in range(3)})
    found = await check(net)
    assert (found.differences, found.reason) == ((), None)  # what is ours is the same
    owner.fill({CHECK: None})
    found = await check(net)
    assert found.differences == ()
    assert found.reason == f"the index is at rev {before}, and the repo at {owner.rev}"


async def test_an_index_that_catches_up_meanwhile_is_compared_then(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await an_indexed_repo(net)
    late = owner.wrote({CHECK: None})
    asked = 0

    async def catch_up(_seconds: float) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            await net.index.apply(late)

    monkeypatch.setattr(checker.asyncio, "sleep", catch_up)
    before = await net.index.dump()
    check = Checker(
        net.index.db, SCOPE, net.resolver, net.client, relay_url=net.relay.url, clock=net.clock
    )
    found = await check.check(ALICE)
    assert (found.differences, found.reason, found.rev) == ((), None, owner.rev)
    assert await net.index.dump() != before


async def test_a_repo_that_nobody_tracks_is_missed_if_it_has_records_of_ours(net: Net) -> None:
    net.house(Owner(BOB)).fill({CHECK: verification()})
    found = await check(net, BOB)
    assert [(each.uri, each.kind) for each in found.differences] == [
        (f"at://{BOB}/{CHECK}", "missing")
    ]
    net.pds.owners[BOB].fill({CHECK: None})
    assert (await check(net, BOB)).differences == ()


async def test_what_cant_be_checked_has_a_reason(net: Net) -> None:
    assert "can't be resolved" in str((await check(net, BOB)).reason)
    owner = await an_indexed_repo(net)
    await damage(net, "delete from verifications")
    await net.index.apply(Account(8, TIME, ALICE, active=False, status="deactivated"))
    assert "deactivated" in str((await check(net)).reason)
    await net.index.apply(Account(9, TIME, ALICE, active=True, status=None))
    assert "knows that it lacks" in str((await check(net)).reason)
    net.pds.always[GET_RECORD] = refused(500)
    net.pds.always[GET_REPO] = refused(400, "RepoTakendown")
    net.pds.dialect = WHOLE_ONLY
    assert "takendown" in str((await check(net)).reason)
    net.pds.always[GET_REPO] = refused(500)
    assert "HTTP 500" in str((await check(net)).reason)
    net.point(ALICE, owner.key, "http://127.0.0.1:1")
    assert (await check(net)).reason is not None


async def test_a_sample_is_of_the_active_repos_and_no_larger_than_they_are_many(net: Net) -> None:
    await an_indexed_repo(net)
    await net.track(BOB)
    assert sorted(await sample(net.index.db, 10)) == [ALICE, BOB]
    assert len(await sample(net.index.db, 1)) == 1
    await net.index.apply(Account(8, TIME, BOB, active=False, status="deactivated"))
    assert await sample(net.index.db, 10) == [ALICE]
