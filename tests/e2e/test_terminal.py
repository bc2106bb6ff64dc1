"""What is revoked at a terminal is published by the daemon beside it."""

import json

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    INVITE,
    VERIFICATION,
    create_invite,
    create_space,
    create_verifications,
    log_in,
)
from tests.localnet import LocalNetwork

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIRMED = "select 1 from outbox where uri = ? and state = 'confirmed'"


async def test_what_is_revoked_at_the_terminal_goes_from_the_repo_on_the_pds(
    network: LocalNetwork, daemon: Daemon
) -> None:
    owner = await network.pds.create_account(network.handle("owner"))
    subject = await network.pds.create_account(network.handle("subject"))
    space = await create_space(owner)
    invite = await create_invite(owner, space)
    [kept, verification] = await create_verifications(owner, subject, 2)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)
    await daemon.sees("select 1 from verifications where uri = ?", verification)
    await log_in(daemon, owner)
    by_handle = space.replace(owner.did, owner.handle)

    of_invite = await daemon.ok("invites", "revoke", by_handle, invite.token_hash)
    of_verification = await daemon.ok("verifications", "revoke", verification, "--json")

    # The daemon may have been quicker than the command's last look.
    assert of_invite.startswith(f"Revoked {invite.uri}; ")
    assert json.loads(of_verification)["revoked"] is True
    for uri in (invite.uri, verification):
        await daemon.sees(CONFIRMED, uri)
    assert await owner.list_records(INVITE) == []
    assert [record["uri"] for record in await owner.list_records(VERIFICATION)] == [kept]
    found = json.loads(await daemon.ok("invites", "show", by_handle, invite.token_hash, "--json"))
    assert [deletion["state"] for deletion in found["deletions"]] == ["confirmed"]
    assert [stone["actor"] for stone in found["tombstones"]] == [daemon.did]
    again = await daemon.ok("verifications", "revoke", verification)
    assert again == f"Revoked {verification}; it is gone from its repo.\n"


async def test_without_a_session_the_terminal_says_what_the_deletion_waits_for(
    network: LocalNetwork, daemon: Daemon
) -> None:
    owner = await network.pds.create_account(network.handle("owner"))
    space = await create_space(owner)
    invite = await create_invite(owner, space)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)

    out = await daemon.ok("invites", "revoke", space, invite.token_hash)

    assert f"`rescind login {owner.did}`" in out
    await daemon.sees("select 1 from outbox where uri = ? and state = 'blocked'", invite.uri)
    await log_in(daemon, owner)
    await daemon.sees(CONFIRMED, invite.uri)
    assert await owner.list_records(INVITE) == []
