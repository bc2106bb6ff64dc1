"""`rsvp.atmo.space.invite.revoke`, from the owner's call to the deletion on the firehose."""

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    INVITE,
    REVOKE_INVITE,
    create_invite,
    create_space,
    log_in,
    token_hash,
)
from tests.localnet import Frame, LocalNetwork, collect

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_owner_revokes_through_the_pds_and_the_deletion_comes_round(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)
    await log_in(daemon, alice)

    answer = await alice.call(REVOKE_INVITE, invite.body, daemon.service)

    assert (answer.status_code, answer.json()) == (200, {"ok": True})
    # No waiting here: the tombstone was laid before the answer.
    [stone] = daemon.rows("select * from tombstones where uri = ?", invite.uri)
    assert (stone["cause"], stone["actor"], stone["cid"]) == ("revoked", alice.did, invite.cid)
    assert daemon.rows("select revoked from invites where uri = ?", invite.uri) == [{"revoked": 1}]

    row = await daemon.sees(
        "select * from outbox where uri = ? and state = 'confirmed'", invite.uri
    )
    assert await alice.get_record(INVITE, invite.rkey) is None
    frames = await collect(network.pds.ws_url, lambda frame: _deletes(frame, invite.uri))
    assert frames[-1].body["rev"] == row["commit_rev"]


async def test_a_second_revocation_is_ok_and_changes_nothing(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)
    await log_in(daemon, alice)
    await alice.call(REVOKE_INVITE, invite.body, daemon.service)
    await daemon.sees("select 1 from outbox where uri = ? and state = 'confirmed'", invite.uri)
    before = daemon.index()

    app = await alice.app_session(await alice.create_app_password("again"))
    for session in (alice, app):
        answer = await session.call(REVOKE_INVITE, invite.body, daemon.service)
        assert (answer.status_code, answer.json()) == (200, {"ok": True})

    assert daemon.index() == before


async def test_a_stranger_is_forbidden_and_learns_nothing_of_the_hashes(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    mallory = await network.pds.create_account(network.handle("mallory"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)

    known = await mallory.call(REVOKE_INVITE, invite.body, daemon.service)
    unknown = await mallory.call(
        REVOKE_INVITE, {"spaceUri": space, "tokenHash": token_hash()}, daemon.service
    )

    assert (known.status_code, known.json()["error"]) == (403, "Forbidden")
    assert (unknown.status_code, unknown.json()) == (known.status_code, known.json())
    assert daemon.rows("select 1 from tombstones where uri = ?", invite.uri) == []


async def test_what_does_not_exist_is_not_found(network: LocalNetwork, daemon: Daemon) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space, other = await create_space(alice, "one"), await create_space(alice, "two")
    invite = await create_invite(alice, other)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)

    for body in (
        {"spaceUri": space, "tokenHash": invite.token_hash},  # another space's
        {"spaceUri": space, "tokenHash": token_hash()},
        {"spaceUri": f"{space}-not", "tokenHash": invite.token_hash},
    ):
        answer = await alice.call(REVOKE_INVITE, body, daemon.service)
        assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")
    assert daemon.rows("select 1 from tombstones where did = ?", alice.did) == []


async def test_a_direct_call_counts_with_either_form_of_the_audience_but_only_once(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)

    for audience in (daemon.did, daemon.service):
        token = await alice.service_auth(audience, REVOKE_INVITE)
        first = await daemon.call(REVOKE_INVITE, invite.body, token)
        again = await daemon.call(REVOKE_INVITE, invite.body, token)
        assert (first.status_code, again.status_code) == (200, 401)

    for audience, method in (
        ("did:web:example.com", REVOKE_INVITE),
        (daemon.service, "tools.ozone.verification.revokeVerifications"),
    ):
        token = await alice.service_auth(audience, method)
        assert (await daemon.call(REVOKE_INVITE, invite.body, token)).status_code == 401


async def test_a_revoked_hash_stays_revoked_in_whichever_record_it_comes_back(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    twin = await create_invite(alice, space, tokenHash=invite.token_hash)
    await daemon.sees("select 1 from invites where uri = ?", twin.uri)
    await log_in(daemon, alice)
    await alice.call(REVOKE_INVITE, invite.body, daemon.service)
    for uri in (invite.uri, twin.uri):
        await daemon.sees("select 1 from outbox where uri = ? and state = 'confirmed'", uri)

    later = await create_invite(alice, space, tokenHash=invite.token_hash)

    row = await daemon.sees("select revoked from invites where uri = ?", later.uri)
    assert row == {"revoked": 1}
    await daemon.sees("select 1 from outbox where uri = ? and state = 'confirmed'", later.uri)
    assert await alice.list_records(INVITE) == []


def _deletes(frame: Frame, uri: str) -> bool:
    return any(
        op["action"] == "delete" and f"at://{frame.body['repo']}/{op['path']}" == uri
        for op in frame.body.get("ops", [])
    )
