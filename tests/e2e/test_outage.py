"""The PDS goes down, the daemon is killed, the network breaks: nothing acknowledged is lost."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    INVITE,
    REVOKE_INVITE,
    REVOKE_VERIFICATIONS,
    VERIFICATION,
    create_invite,
    create_space,
    create_verifications,
    log_in,
)
from tests.e2e.relay import HoldingRelay
from tests.localnet import LocalNetwork

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEED = 20_261_121
KILLS = 6


async def test_what_is_revoked_while_the_pds_is_down_is_published_when_it_is_back(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    [verification] = await create_verifications(alice, alice, 1)
    await daemon.sees("select 1 from verifications where uri = ?", verification)
    await log_in(daemon, alice)
    for_invite = await alice.service_auth(daemon.service, REVOKE_INVITE)
    for_verification = await alice.service_auth(daemon.service, REVOKE_VERIFICATIONS)

    await network.pds.stop()
    try:
        ok = await daemon.call(REVOKE_INVITE, invite.body, for_invite)
        started = time.monotonic()
        pending = await daemon.call(
            REVOKE_VERIFICATIONS, {"uris": [verification]}, for_verification
        )
        took = time.monotonic() - started
        assert (ok.status_code, ok.json()) == (200, {"ok": True})
        assert pending.json()["revokedVerifications"] == []
        [failure] = pending.json()["failedRevocations"]
        assert failure["uri"] == verification
        assert failure["error"].startswith("PublishPending: ")
        assert took < 8.5
        assert len(daemon.rows("select 1 from tombstones where cause = 'revoked'")) == 2
    finally:
        await network.pds.start()

    for uri in (invite.uri, verification):
        await daemon.sees(
            "select 1 from outbox where uri = ? and state = 'confirmed'", uri, within=60
        )
    assert await alice.list_records(INVITE) == []
    assert await alice.list_records(VERIFICATION) == []


async def test_killed_between_tombstone_and_publication_it_publishes_after_the_restart(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)
    await log_in(daemon, alice)
    token = await alice.service_auth(daemon.service, REVOKE_INVITE)

    await network.pds.stop()
    try:
        assert (await daemon.call(REVOKE_INVITE, invite.body, token)).status_code == 200
        await daemon.kill()
    finally:
        await network.pds.start()
    assert await alice.get_record(INVITE, invite.rkey) is not None

    await daemon.start()
    await daemon.sees("select 1 from outbox where uri = ? and state = 'confirmed'", invite.uri)
    assert await alice.list_records(INVITE) == []
    assert len(daemon.rows("select 1 from audit where action = 'invite.revoke'")) == 1


async def test_killed_again_and_again_while_it_reads_it_ends_with_the_same_index(
    network: LocalNetwork, tmp_path: Path
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    for _ in range(4):
        uris = await create_verifications(alice, alice, 50)
        await alice.delete_record(VERIFICATION, uris[0].rpartition("/")[2])
    rng = random.Random(SEED)
    killed = Daemon.on(network, tmp_path / "killed")
    spared = Daemon.on(network, tmp_path / "spared")

    await killed.start("--cursor", "oldest")
    for _ in range(KILLS):
        await asyncio.sleep(rng.random() * 0.3)
        await killed.kill()
        # Where it began is told once; from then on, its own cursor.
        await killed.start(
            *([] if killed.rows("select 1 from cursors") else ["--cursor", "oldest"])
        )
        await create_verifications(alice, alice, 3)
    await spared.start("--cursor", "oldest")
    [last] = await create_verifications(alice, alice, 1)
    for daemon in (killed, spared):
        await daemon.sees("select 1 from verifications where uri = ?", last)

    for daemon in (killed, spared):
        await daemon.settles()
    # What is there and what is dead; by which commit a record is known may differ, since a repo
    # that is fetched whole is known by its newest one.
    for table in ("spaces", "invites", "verifications"):
        query = f"select uri, cid, revoked from {table} order by uri"
        assert killed.rows(query) == spared.rows(query)
    query = "select did, rev, data, sync, hosting from repos order by did"
    assert killed.rows(query) == spared.rows(query)
    for daemon in (killed, spared):
        await daemon.stop()


async def test_a_broken_connection_is_taken_up_where_it_broke(
    network: LocalNetwork, tmp_path: Path
) -> None:
    relay = await HoldingRelay(network.pds.port).start()
    daemon = Daemon.on(network, tmp_path / "rescind", RELAY=relay.ws_url)
    await daemon.start("--cursor", "oldest")
    alice = await network.pds.create_account(network.handle("alice"))
    uris = []
    for _ in range(3):
        uris += await create_verifications(alice, alice, 1)
        await daemon.sees("select 1 from verifications where uri = ?", uris[-1])
        await relay.cut()
        uris += await create_verifications(alice, alice, 1)  # while nobody listens
    await daemon.sees("select 1 from verifications where uri = ?", uris[-1])

    assert len(daemon.rows("select 1 from verifications where did = ?", alice.did)) == len(uris)
    # A cut that comes while it connects anew breaks nothing.
    assert [e["event"] for e in daemon.logged()].count("firehose.disconnected") >= 2
    await daemon.stop()
    await relay.stop()
