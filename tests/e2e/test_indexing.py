"""What is written on a PDS is what the index holds."""

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    CREATED_AT,
    INVITE,
    SPACE,
    VERIFICATION,
    create_invite,
    create_space,
    create_verifications,
    verification_of,
)
from tests.localnet import LocalNetwork

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_records_written_on_the_pds_appear_and_follow_updates_and_deletions(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    bob = await network.pds.create_account(network.handle("bob"))
    space = await create_space(alice)
    invite = await create_invite(alice, space, kind="read", maxUses=3, note="for Bob")
    [verification] = await create_verifications(alice, bob, 1)

    row = await daemon.sees("select * from spaces where uri = ?", space)
    assert (row["did"], row["name"], row["created_at"]) == (alice.did, "Party", 1_767_225_600_000)
    row = await daemon.sees("select * from invites where uri = ?", invite.uri)
    assert (row["cid"], row["space_uri"], row["token_hash"]) == (
        invite.cid,
        space,
        invite.token_hash,
    )
    assert (row["kind"], row["max_uses"], row["note"]) == ("read", 3, "for Bob")
    row = await daemon.sees("select * from verifications where uri = ?", verification)
    assert (row["did"], row["subject"], row["handle"]) == (alice.did, bob.did, bob.handle)

    await alice.put_record(SPACE, {"name": "Feast", "createdAt": CREATED_AT}, "party")
    rkey = verification.rpartition("/")[2]
    await alice.put_record(VERIFICATION, verification_of(bob, "Robert"), rkey)
    await alice.delete_record(INVITE, invite.rkey)

    await daemon.sees("select 1 from spaces where uri = ? and name = 'Feast'", space)
    await daemon.sees(
        "select 1 from verifications where uri = ? and display_name = 'Robert'", verification
    )
    await daemon.sees("select 1 from tombstones where uri = ? and cause = 'deleted'", invite.uri)
    assert daemon.rows("select 1 from invites where uri = ?", invite.uri) == []
    # Followed, and not asked for by anybody here: nothing is to be published.
    assert daemon.rows("select 1 from outbox") == []


async def test_an_invite_by_somebody_else_than_the_owner_never_counts(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    mallory = await network.pds.create_account(network.handle("mallory"))
    space = await create_space(alice)
    forged = await create_invite(mallory, space)

    await daemon.sees("select 1 from untrusted_invites where uri = ?", forged.uri)
    assert daemon.rows("select 1 from invites where token_hash = ?", forged.token_hash) == []
    # Not even the owner finds it: it was never an invite to this space.
    answer = await alice.call("rsvp.atmo.space.invite.revoke", forged.body, daemon.service)
    assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")


async def test_a_record_that_does_not_fit_its_lexicon_is_counted_and_passed_over(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    await create_invite(alice, space, tokenHash="not a hash")
    good = await create_invite(alice, space)

    await daemon.sees("select 1 from invites where uri = ?", good.uri)
    assert len(daemon.rows("select 1 from invites where space_uri = ?", space)) == 1
    await daemon.sees("select 1 from counters where reason = 'invalid_record' and count >= 1")


async def test_a_deactivated_account_is_hidden_and_shown_again(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    await daemon.sees("select 1 from spaces where uri = ?", space)
    shown = (await daemon.status())["records"]["space"]

    await alice.deactivate()
    await daemon.sees("select 1 from repos where did = ? and hosting = 'deactivated'", alice.did)
    assert (await daemon.status())["records"]["space"] == shown - 1

    await alice.activate()
    await daemon.sees("select 1 from repos where did = ? and hosting = 'active'", alice.did)
    assert (await daemon.status())["records"]["space"] == shown


async def test_a_deleted_account_leaves_tombstones_only(
    network: LocalNetwork, daemon: Daemon
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)

    await network.pds.delete_account(alice.did)

    await daemon.sees("select 1 from repos where did = ? and hosting = 'deleted'", alice.did)
    assert daemon.rows("select 1 from spaces where did = ?", alice.did) == []
    assert daemon.rows("select 1 from invites where did = ?", alice.did) == []
    causes = daemon.rows(
        "select uri, cause from tombstones where did = ? order by kind desc", alice.did
    )
    assert causes == [
        {"uri": space, "cause": "purged"},
        {"uri": invite.uri, "cause": "purged"},
    ]
