"""What the stream lost or forged is noticed, and put right from the repo itself."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import libipld
import pytest
import pytest_asyncio

from tests.e2e.daemon import Daemon, eventually
from tests.e2e.proxy import Body, FrameProxy
from tests.e2e.records import (
    CREATED_AT,
    INVITE,
    VERIFICATION,
    create_invite,
    create_space,
    create_verifications,
    log_in,
    revoke_verifications,
    verification_of,
)
from tests.localnet import Account, LocalNetwork
from tests.localnet.xrpc import checked
from tests.support.frames import NOW, Author, verification

pytestmark = pytest.mark.asyncio(loop_scope="session")

POSTS = int(os.environ.get("RESCIND_TEST_POSTS", "3000"))  # tried with 50,000 by hand
POSTS_A_COMMIT = 200  # the most that a PDS takes
POST = "app.bsky.feed.post"


@pytest_asyncio.fixture(loop_scope="session")
async def relay(network: LocalNetwork) -> AsyncIterator[FrameProxy]:
    proxy = await FrameProxy(network.pds.ws_url).start()
    yield proxy
    await proxy.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def reader(network: LocalNetwork, relay: FrameProxy, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that reads what the proxy lets through, from now on."""
    daemon = Daemon.on(network, tmp_path / "rescind", RELAY=relay.ws_url)
    await daemon.start("--cursor", "live")
    yield daemon
    await daemon.stop()


async def account(network: LocalNetwork, name: str = "alice") -> Account:
    return await network.pds.create_account(network.handle(name))


async def is_whole(daemon: Daemon, account: Account, resyncs: int = 1) -> list[dict[str, Any]]:
    """Wait until a repo is whole and so many resyncs of it have ended well; return their entries.

    The first one comes when the repo is first seen.
    """
    await daemon.sees(
        "select 1 from repos where did = ? and sync = 'synchronized' and whole_rev = rev",
        account.did,
    )

    async def find() -> list[dict[str, Any]] | None:
        found = [
            entry
            for entry in daemon.logged()
            if entry["event"] in ("repo.resynced", "repo.checked") and entry["did"] == account.did
        ]
        return found if len(found) >= resyncs else None

    return await eventually(find, 15, f"{resyncs} resyncs of {account.did}")


def live(daemon: Daemon, account: Account) -> set[str]:
    """Return the URIs of the live verifications of an account."""
    rows = daemon.rows("select uri from verifications where did = ? and revoked = 0", account.did)
    return {row["uri"] for row in rows}


def rejected(daemon: Daemon) -> dict[str, int]:
    rows = daemon.rows("select reason, count from counters where kind = 'rejected'")
    return {row["reason"]: row["count"] for row in rows}


def rkey(uri: str) -> str:
    return uri.rpartition("/")[2]


async def test_a_missed_stretch_is_noticed_at_the_next_commit_and_repaired(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    kept, deleted, updated = await create_verifications(alice, alice, 3)
    await reader.sees("select 1 from verifications where uri = ?", updated)
    await is_whole(reader, alice)

    relay.drop(alice.did)
    await alice.delete_record(VERIFICATION, rkey(deleted))
    await alice.delete_record(INVITE, invite.rkey)
    await alice.put_record(VERIFICATION, verification_of(alice, "New"), rkey(updated))
    [missed] = await create_verifications(alice, alice, 1)
    last = await create_space(alice, "second")
    await relay.has_dropped(5)
    assert live(reader, alice) == {kept, deleted, updated}
    relay.pass_on()
    [seen] = await create_verifications(alice, alice, 1)

    await reader.sees("select 1 from verifications where uri = ?", missed)
    [_, repair] = await is_whole(reader, alice, resyncs=2)
    assert repair["event"] == "repo.resynced"
    assert live(reader, alice) == {kept, updated, missed, seen}
    [row] = reader.rows("select display_name from verifications where uri = ?", updated)
    assert row["display_name"] == "New"
    assert reader.rows("select 1 from invites where did = ?", alice.did) == []
    assert len(reader.rows("select 1 from spaces where uri in (?, ?)", space, last)) == 2
    causes = reader.rows("select cause from tombstones where uri in (?, ?)", deleted, invite.uri)
    assert [row["cause"] for row in causes] == ["deleted"] * 2
    assert rejected(reader) == {}


async def test_a_new_key_that_nobody_announced_costs_one_question_and_nothing_else(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    [first] = await create_verifications(alice, alice, 1)
    await reader.sees("select 1 from verifications where uri = ?", first)
    await is_whole(reader, alice)
    questions = network.questions(alice.did)
    assert questions > 0

    relay.drop(alice.did, only="#identity")
    await network.rotate_key(alice)
    await relay.has_dropped(1)
    [second] = await create_verifications(alice, alice, 1)
    await alice.delete_record(VERIFICATION, rkey(first))
    [third] = await create_verifications(alice, alice, 1)

    await reader.sees("select 1 from verifications where uri = ?", third)
    assert live(reader, alice) == {second, third}
    assert network.questions(alice.did) == questions + 1
    [_] = await is_whole(reader, alice)  # nothing was to be repaired
    assert rejected(reader) == {}


async def test_an_account_goes_dark_comes_back_and_is_deleted(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    kept, deleted = await create_verifications(alice, alice, 2)
    await reader.sees("select 1 from verifications where uri = ?", deleted)
    await is_whole(reader, alice)

    await alice.deactivate()
    await reader.sees("select 1 from repos where did = ? and hosting = 'deactivated'", alice.did)
    assert (await reader.status())["records"]["verification"] == 0
    relay.drop(alice.did)
    await alice.activate()
    await alice.delete_record(VERIFICATION, rkey(deleted))
    [missed] = await create_verifications(alice, alice, 1)
    await alice.deactivate()
    await relay.has_dropped(6)  # coming back takes #account, #identity and #sync
    relay.drop(alice.did, only="#sync")  # so that nothing but #account tells of it
    await alice.activate()
    await reader.sees("select 1 from verifications where uri = ?", missed)
    await is_whole(reader, alice, resyncs=2)
    assert live(reader, alice) == {kept, missed}
    assert (await reader.status())["records"]["verification"] == 2

    await network.pds.delete_account(alice.did)
    await reader.sees("select 1 from repos where did = ? and hosting = 'deleted'", alice.did)
    assert reader.rows("select 1 from verifications where did = ?", alice.did) == []
    stones = reader.rows("select uri from tombstones where did = ?", alice.did)
    assert {row["uri"] for row in stones} == {kept, missed, deleted}


async def test_of_a_large_repo_only_what_is_ours_is_kept(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    relay.drop(alice.did)
    space = await create_space(alice)
    for first in range(0, POSTS, POSTS_A_COMMIT):
        await create_posts(alice, range(first, min(first + POSTS_A_COMMIT, POSTS)))
    invite = await create_invite(alice, space)
    relay.pass_on()
    [check] = await create_verifications(alice, alice, 1)

    await reader.sees("select 1 from invites where uri = ?", invite.uri, within=60)
    [entry] = await is_whole(reader, alice)
    assert (entry["event"], entry["records"]) == ("repo.resynced", 3)
    kept = reader.rows(
        "select uri from spaces union select uri from invites union select uri from verifications"
    )
    assert {row["uri"] for row in kept} == {space, invite.uri, check}


async def create_posts(author: Account, numbers: range) -> None:
    await author.apply_writes(
        [
            {
                "$type": "com.atproto.repo.applyWrites#create",
                "collection": POST,
                "value": {"$type": POST, "text": str(number), "createdAt": CREATED_AT},
            }
            for number in numbers
        ]
    )


async def test_a_restored_backup_does_not_revive_what_was_revoked(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    revoked, kept = await create_verifications(alice, alice, 2)
    await reader.sees("select 1 from verifications where uri = ?", kept)
    await is_whole(reader, alice)
    await log_in(reader, alice)
    repo = await alice.pds.query("com.atproto.sync.getRepo", {"did": alice.did})
    backup = repo.raise_for_status().content
    answer = await revoke_verifications(reader, alice, [revoked])
    assert answer.json()["revokedVerifications"] == [revoked]
    row = await reader.sees(
        "select commit_rev from outbox where uri = ? and state = 'confirmed'", revoked
    )

    checked(await alice.pds.procedure("com.atproto.repo.importRepo", backup, alice.token))
    assert await alice.get_record(VERIFICATION, rkey(revoked)) is not None
    await create_space(alice)

    await reader.sees(
        "select 1 from outbox where uri = ? and state = 'confirmed' and commit_rev > ?",
        revoked,
        row["commit_rev"],
    )
    await is_whole(reader, alice, resyncs=2)
    assert live(reader, alice) == {kept}
    assert await alice.get_record(VERIFICATION, rkey(revoked)) is None
    assert await alice.get_record(VERIFICATION, rkey(kept)) is not None
    assert len(reader.rows("select 1 from audit where action = 'verification.revoke'")) == 1


async def test_a_commit_that_was_spoilt_on_its_way_is_counted_and_made_up_for(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    [first] = await create_verifications(alice, alice, 1)
    await reader.sees("select 1 from verifications where uri = ?", first)
    await is_whole(reader, alice)

    def spoil(kind: str | None, body: Body) -> Body | None:
        if kind != "#commit" or body["repo"] != alice.did:
            return body
        blocks = body["blocks"]
        return {**body, "blocks": blocks[:-9] + bytes((blocks[-9] ^ 1,)) + blocks[-8:]}

    relay.change = spoil
    [second] = await create_verifications(alice, alice, 1)

    await reader.sees("select 1 from verifications where uri = ?", second)
    [_, repair] = await is_whole(reader, alice, resyncs=2)
    assert repair["event"] == "repo.resynced"
    assert live(reader, alice) == {first, second}
    assert rejected(reader) == {"bad_block": 1}


async def test_a_commit_of_another_key_is_counted_and_leaves_no_trace(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    [first] = await create_verifications(alice, alice, 1)
    await reader.sees("select 1 from verifications where uri = ?", first)
    await is_whole(reader, alice)
    before = reader.index()
    forger = successor(reader, alice, first)

    await relay.inject("#commit", forger.commit_body(0, {f"{VERIFICATION}/forged": verification()}))

    await reader.sees("select 1 from counters where reason = 'bad_signature' and count = 1")
    [_, repair] = await is_whole(reader, alice, resyncs=2)
    assert repair["event"] == "repo.checked"  # its PDS was asked, and knew nothing new
    assert reader.index() == before
    [second] = await create_verifications(alice, alice, 1)
    await reader.sees("select 1 from verifications where uri = ?", second)
    assert live(reader, alice) == {first, second}
    assert rejected(reader) == {"bad_signature": 1}


def successor(daemon: Daemon, account: Account, uri: str) -> Author:
    """Return somebody who goes on where a repo of one verification stands, but for the key."""
    [repo] = daemon.rows("select rev, data from repos where did = ?", account.did)
    [record] = daemon.rows("select cid from verifications where uri = ?", uri)
    author = Author(account.did)
    author.number = time.time_ns() // 1000 - (NOW - 3_600_000) * 1000  # a `rev` of this moment
    author.rev, author.data = repo["rev"], cid_bytes(repo["data"])
    author.records = {f"{VERIFICATION}/{rkey(uri)}": cid_bytes(record["cid"])}
    return author


def cid_bytes(text: str) -> bytes:
    return bytes(libipld.decode_multibase(text)[1])
