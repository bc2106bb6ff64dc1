"""Whatever comes first, and however often it comes: what is revoked stays revoked."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    REVOKE_INVITE,
    VERIFICATION,
    create_invite,
    create_space,
    create_verifications,
    log_in,
    revoke_verifications,
    verification_of,
)
from tests.e2e.relay import HoldingRelay
from tests.localnet import Account, LocalNetwork

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def relay(network: LocalNetwork) -> AsyncIterator[HoldingRelay]:
    relay = await HoldingRelay(network.pds.port).start()
    yield relay
    await relay.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def behind(
    network: LocalNetwork, relay: HoldingRelay, tmp_path: Path
) -> AsyncIterator[Daemon]:
    """A daemon that reads its stream through `relay`."""
    daemon = Daemon.on(network, tmp_path / "rescind", RELAY=relay.ws_url)
    await daemon.start("--cursor", "oldest")
    yield daemon
    await daemon.stop()


async def test_revoked_before_it_was_indexed_it_is_never_live(
    network: LocalNetwork, relay: HoldingRelay, behind: Daemon
) -> None:
    issuer, subject = await _two_accounts(network)
    await log_in(behind, issuer)
    relay.hold()
    [uri] = await create_verifications(issuer, subject, 1)

    answer = (await revoke_verifications(behind, issuer, [uri], "in time")).json()

    assert answer == {"revokedVerifications": [uri], "failedRevocations": []}
    assert behind.rows("select 1 from verifications where uri = ?", uri) == []
    [stone] = behind.rows("select * from tombstones where uri = ?", uri)
    assert (stone["cause"], stone["reason"]) == ("revoked", "in time")

    relay.release()
    await behind.sees("select 1 from outbox where uri = ? and state = 'confirmed'", uri)
    assert behind.rows("select 1 from verifications where uri = ? and revoked = 0", uri) == []
    assert len(behind.rows("select 1 from tombstones where uri = ?", uri)) == 1


async def test_an_update_in_flight_does_not_bring_a_revoked_record_back(
    network: LocalNetwork, relay: HoldingRelay, behind: Daemon
) -> None:
    issuer, subject = await _two_accounts(network)
    [uri] = await create_verifications(issuer, subject, 1)
    await behind.sees("select 1 from verifications where uri = ?", uri)
    relay.hold()
    rkey = uri.rpartition("/")[2]
    await issuer.put_record(VERIFICATION, verification_of(subject, "Renamed"), rkey)

    # No session yet: the deletion waits, and the update arrives first.
    await revoke_verifications(behind, issuer, [uri])
    relay.release()
    await behind.sees("select 1 from verifications where display_name = 'Renamed'")
    assert behind.rows("select revoked from verifications where uri = ?", uri) == [{"revoked": 1}]

    await log_in(behind, issuer)
    await behind.sees("select 1 from outbox where uri = ? and state = 'confirmed'", uri)
    assert await issuer.list_records(VERIFICATION) == []


async def test_a_replay_from_oldest_changes_no_row_and_sends_nothing(
    network: LocalNetwork, daemon: Daemon
) -> None:
    issuer, subject = await _two_accounts(network)
    space = await create_space(issuer)
    invite = await create_invite(issuer, space)
    uris = await create_verifications(issuer, subject, 5)
    await daemon.sees("select 1 from verifications where uri = ?", uris[-1])
    await log_in(daemon, issuer)
    await issuer.call(REVOKE_INVITE, invite.body, daemon.service)
    await revoke_verifications(daemon, issuer, uris[:3])
    await subject.deactivate()
    await daemon.sees("select count(*) from outbox where state = 'confirmed' having count(*) = 4")
    await create_space(subject := await network.pds.create_account(network.handle("last")))
    await daemon.sees("select 1 from spaces where did = ?", subject.did)
    await daemon.settles()
    before, seq = daemon.index(), (await daemon.status())["cursor"]["seq"]

    beside = await daemon.ok("replay", "--from", "oldest")
    assert daemon.changed_since(before) == []
    await daemon.stop()
    part = await daemon.ok("replay", "--from", "3", "--to", str(seq - 2))
    assert daemon.changed_since(before) == []

    assert f"at seq {seq} of {seq}" in beside
    assert f"at seq {seq - 2} of {seq - 2}" in part
    assert (await daemon.status())["cursor"]["seq"] == seq


async def _two_accounts(network: LocalNetwork) -> tuple[Account, Account]:
    return (
        await network.pds.create_account(network.handle("issuer")),
        await network.pds.create_account(network.handle("subject")),
    )
