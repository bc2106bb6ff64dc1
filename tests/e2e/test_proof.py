"""What the stream lost or forged is noticed, and put right from the repo itself."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.daemon import Daemon, eventually
from tests.e2e.proxy import Body, FrameProxy
from tests.e2e.records import (
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
from tests.localnet.firehose import collect
from tests.localnet.xrpc import checked
from tests.unit.frames import Author, verification

pytestmark = pytest.mark.asyncio(loop_scope="session")

POSTS = 3_000
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


async def is_whole(daemon: Daemon, account: Account) -> None:
    await daemon.sees(
        "select 1 from repos where did = ? and sync = 'synchronized' and whole_rev = rev",
        account.did,
    )


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
    await eventually(lambda: _true(relay.dropped >= 5), 10, "dropped frames")
    assert live(reader, alice) == {kept, deleted, updated}
    relay.pass_on()
    [seen] = await create_verifications(alice, alice, 1)

    await reader.sees("select 1 from verifications where uri = ?", missed)
    await is_whole(reader, alice)
    assert live(reader, alice) == {kept, updated, missed, seen}
    [row] = reader.rows("select display_name from verifications where uri = ?", updated)
    assert row["display_name"] == "New"
    assert reader.rows("select 1 from invites where did = ?", alice.did) == []
    assert len(reader.rows("select 1 from spaces where uri in (?, ?)", space, last)) == 2
    causes = reader.rows("select cause from tombstones where uri in (?, ?)", deleted, invite.uri)
    assert [row["cause"] for row in causes] == ["deleted"] * 2
    assert rejected(reader) == {}


async def _true(value: bool) -> bool:
    return value


async def test_an_account_with_a_new_key_on_another_pds_is_believed_at_once(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    [first] = await create_verifications(alice, alice, 1)
    await reader.sees("select 1 from verifications where uri = ?", first)
    await is_whole(reader, alice)
    relay.drop(alice.did)  # its new identity is told to nobody
    new_pds = await network.add_pds()
    moved = await network.move(alice, new_pds)
    [second] = await create_verifications(moved, alice, 1)
    frames = await collect(
        new_pds.ws_url, lambda frame: frame.type == "#commit" and bool(frame.body["ops"])
    )

    await relay.inject("#commit", frames[-1].body)

    await reader.sees("select 1 from verifications where uri = ?", second)
    await is_whole(reader, alice)
    assert live(reader, alice) == {first, second}
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
    relay.drop(alice.did)
    await alice.activate()
    await alice.delete_record(VERIFICATION, rkey(deleted))
    [missed] = await create_verifications(alice, alice, 1)
    await alice.deactivate()
    await eventually(lambda: _true(relay.dropped >= 4), 10, "dropped frames")
    relay.pass_on()
    await alice.activate()
    await reader.sees("select 1 from verifications where uri = ?", missed)
    await is_whole(reader, alice)
    assert live(reader, alice) == {kept, missed}

    await network.pds.delete_account(alice.did)
    await reader.sees("select 1 from repos where did = ? and hosting = 'deleted'", alice.did)
    assert live(reader, alice) == set()
    stones = reader.rows("select uri from tombstones where did = ?", alice.did)
    assert {row["uri"] for row in stones} == {kept, missed, deleted}


async def test_of_a_large_repo_only_what_is_ours_is_kept(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    relay.drop(alice.did)
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    [check] = await create_verifications(alice, alice, 1)
    for first in range(0, POSTS, 200):
        await alice.apply_writes(
            [
                {
                    "$type": "com.atproto.repo.applyWrites#create",
                    "collection": POST,
                    "value": {"$type": POST, "text": str(n), "createdAt": "2026-01-01T00:00:00Z"},
                }
                for n in range(first, first + 200)
            ]
        )
    relay.pass_on()
    other = await create_space(alice, "other")

    await reader.sees("select 1 from verifications where uri = ?", check)
    await is_whole(reader, alice)
    assert len(reader.rows("select 1 from spaces where uri in (?, ?)", space, other)) == 2
    assert reader.rows("select uri from invites") == [{"uri": invite.uri}]
    [entry] = [e for e in reader.logged() if e["event"] == "repo.resynced"]
    assert (entry["did"], entry["records"]) == (alice.did, 4)


async def test_a_restored_backup_does_not_revive_what_was_revoked(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    revoked, kept = await create_verifications(alice, alice, 2)
    await reader.sees("select 1 from verifications where uri = ?", kept)
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
    await is_whole(reader, alice)
    assert live(reader, alice) == {kept}
    assert await alice.get_record(VERIFICATION, rkey(revoked)) is None
    assert await alice.get_record(VERIFICATION, rkey(kept)) is not None
    assert len(reader.rows("select 1 from audit where action = 'verification.revoke'")) == 1


async def test_a_commit_that_was_spoilt_on_its_way_is_counted_and_repaired(
    network: LocalNetwork, relay: FrameProxy, reader: Daemon
) -> None:
    alice = await account(network)
    [first] = await create_verifications(alice, alice, 1)
    await reader.sees("select 1 from verifications where uri = ?", first)

    def spoil(kind: str | None, body: Body) -> Body | None:
        if kind != "#commit" or body["repo"] != alice.did:
            return body
        blocks = body["blocks"]
        return {**body, "blocks": blocks[:-9] + bytes((blocks[-9] ^ 1,)) + blocks[-8:]}

    relay.change = spoil
    [second] = await create_verifications(alice, alice, 1)

    await reader.sees("select 1 from verifications where uri = ?", second)
    await is_whole(reader, alice)
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
    forger = Author(alice.did)
    forged: dict[str, Any] = forger.commit_body(0, {f"{VERIFICATION}/forged": verification()})

    await relay.inject("#commit", forged)

    await reader.sees("select 1 from counters where reason = 'bad_signature' and count = 1")
    await is_whole(reader, alice)
    assert reader.index() == before
    [second] = await create_verifications(alice, alice, 1)
    await reader.sees("select 1 from verifications where uri = ?", second)
    assert live(reader, alice) == {first, second}
    assert rejected(reader) == {"bad_signature": 1}
