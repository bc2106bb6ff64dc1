"""A host that is left alone costs no attempt of the repos that were not asked for."""

import asyncio

import pytest

from indexer.store import resyncs
from tests.support.frames import ALICE, BOB, NOW
from tests.support.repo_host import GET_REPO, STATUS, Net, RepoHost, refused
from tests.support.resyncing import alice_in, is_indexed, net
from tests.support.streamed_repo import Owner

__all__ = ["net"]  # fixtures

LIMITED = refused(429, "RateLimitExceeded", "Retry-After: 300")


async def others(net: Net, count: int) -> list[str]:
    """Return repos of the same host as Alice's."""
    dids = [f"did:plc:{'cdefghijklmnopqrstuvwxyz'[number] * 24}" for number in range(count)]
    for one in dids:
        net.house(Owner(one)).wrote({})
    await net.track(*dids)
    return dids


async def test_of_many_repos_of_a_host_that_fails_only_those_asked_for_are_charged(
    net: Net,
) -> None:
    await alice_in(net)
    dids = await others(net, 20)
    net.pds.faults[GET_REPO].append(refused(503))
    await net.resyncer.resync(ALICE)
    due = (await net.repo(ALICE))["resync_due_at"]

    for _ in range(3):
        for one in dids:
            await net.resyncer.resync(one)

    rows = [await net.repo(one) for one in dids]
    assert {(row["resync_attempts"], row["sync"]) for row in rows} == {(0, "pending")}
    # Due when the host is well.
    due = max(due, *(row["resync_due_at"] for row in rows))
    assert NOW < due <= NOW + 2_000
    net.clock.now = due / 1000
    for one in dids:
        await net.resyncer.resync(one)
    assert [await net.sync_of(one) for one in dids] == ["synchronized"] * 20
    assert net.pds.calls[GET_REPO] == 21


@pytest.mark.parametrize("nsid", [GET_REPO, STATUS])
async def test_a_host_is_left_alone_for_as_long_as_a_429_says(net: Net, nsid: str) -> None:
    owner = await alice_in(net)
    if nsid == STATUS:
        net.relay.always.pop(STATUS)
        net.relay.always[STATUS] = refused(404, "RepoNotFound")
    async with net.index.db.transaction() as tx:
        hosting = "deactivated" if nsid == STATUS else "active"
        await tx.execute(
            "update repos set sync = 'desynchronized', hosting = :hosting where did = :did",
            {"hosting": hosting, "did": ALICE},
        )
    before = net.pds.calls.total()
    net.pds.faults[nsid].append(LIMITED)

    await net.resyncer.resync(ALICE)

    assert (await net.repo(ALICE))["resync_due_at"] == NOW + 300_000
    assert net.pds.calls.total() == before + 1
    net.clock.now += 300
    for _ in range(2):  # if it was not active, it is asked how it stands first
        await net.resyncer.resync(ALICE)
    assert await is_indexed(net)
    assert (await net.repo(ALICE))["rev"] == owner.rev


async def test_what_was_known_of_a_failure_is_kept_while_nobody_is_asked(net: Net) -> None:
    await alice_in(net)
    net.pds.always[GET_REPO] = refused(503)
    await net.resyncer.resync(ALICE)
    failed = await net.repo(ALICE)

    await net.resyncer.resync(ALICE)  # before its time

    assert (await net.repo(ALICE))["resync_error"] == failed["resync_error"]
    assert (await net.repo(ALICE))["resync_attempts"] == 1


async def test_an_account_that_has_moved_unannounced_is_asked_for_at_its_new_host_at_once(
    net: Net,
) -> None:
    owner = await alice_in(net)
    await net.resolver.resolve(ALICE)  # the old document, still fresh for minutes
    new = await net.add_host()
    net.house(owner, new)
    net.pds.always[GET_REPO] = refused(503)

    await net.resyncer.resync(ALICE)
    assert (await net.repo(ALICE))["resync_due_at"] == NOW
    await net.resyncer.resync(ALICE)

    assert await is_indexed(net)


async def test_a_repo_that_is_back_while_it_is_asked_for_is_asked_for_again_at_once(
    net: Net,
) -> None:
    await alice_in(net)

    async def too_early(host: RepoHost, did: str, writer: asyncio.StreamWriter) -> None:
        async with net.index.db.transaction() as tx:
            assert await resyncs.hasten(tx, [ALICE, BOB], NOW) == 1
        await refused(500)(host, did, writer)

    net.pds.faults[GET_REPO].append(too_early)
    await net.resyncer.resync(ALICE)

    assert (await net.repo(ALICE))["resync_due_at"] == NOW
    assert await resyncs.due(net.index.db, NOW, 9) == [ALICE]
