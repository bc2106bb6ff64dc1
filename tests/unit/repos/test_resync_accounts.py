"""Accounts that their host serves to nobody are hidden, and shown again once they are back."""

import asyncio
import json
from typing import Any

import pytest

from indexer.lexicon.syntax import format_datetime
from indexer.rules.projection import Desynchronize
from indexer.store import invites, resyncs
from indexer.stream.events import Account
from tests.support.alices_records import CHECK, GARDEN_URI, ONE
from tests.support.frames import ALICE, NOW, TIME, VERIFICATION, verification
from tests.support.http_host import http
from tests.support.repo_host import GET_REPO, STATUS, Net, refused, sent
from tests.support.resyncing import RECORDS, alice_in, is_indexed, net
from tests.support.streamed_repo import Owner

__all__ = ["net"]  # fixtures


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
