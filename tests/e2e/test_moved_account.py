"""An account that moves to another PDS is followed there."""

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    INVITE,
    REVOKE_INVITE,
    create_invite,
    create_space,
    log_in,
)
from tests.localnet import LocalNetwork

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_after_a_move_the_deletion_goes_to_the_new_pds_once_somebody_has_logged_in_there(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)
    await log_in(daemon, alice)
    new_pds = await network.add_pds()

    moved = await network.move(alice, new_pds)
    token = await moved.service_auth(daemon.service, REVOKE_INVITE)
    answer = await daemon.call(REVOKE_INVITE, invite.body, token)

    assert (answer.status_code, answer.json()) == (200, {"ok": True})
    # An app password does not move along, so a person is needed, and is told what to do.
    row = await daemon.sees("select error from outbox where state = 'blocked'")
    assert new_pds.url in row["error"]
    assert f"rescind login {alice.did}" in row["error"]
    assert await moved.get_record(INVITE, invite.rkey) is not None

    await log_in(daemon, moved, moved.did)
    await daemon.sees("select 1 from outbox where state in ('sent', 'confirmed')")
    assert await moved.get_record(INVITE, invite.rkey) is None
    [session] = (await daemon.status())["sessions"]
    assert session["refused"] is None
