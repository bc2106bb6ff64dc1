"""Clients generated from the family's published documents work with us, answers checked.

`tests/published` has the documents as their owner published them, by names, types and limits: those
of the seed's time, and the later ones.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import SPACE, log_in
from tests.localnet import Account, LocalNetwork
from tests.localnet.generated import GeneratedClient, GeneratedClientError

pytestmark = pytest.mark.asyncio(loop_scope="session")

PUBLISHED = Path(__file__).parents[1] / "published"
SEED = "rsvp.atmo.space"


class Caller:
    """Calls of a daemon by one generated client, each with a service token for what it calls."""

    def __init__(self, client: GeneratedClient, daemon: Daemon) -> None:
        self._client = client
        self._daemon = daemon

    async def ask(self, who: Account, nsid: str, **params: object) -> Any:
        return await self._call(who, nsid, params=params)

    async def do(self, who: Account, nsid: str, **body: object) -> Any:
        return await self._call(who, nsid, body=body)

    async def refusal(self, who: Account, nsid: str, **body: object) -> str | None:
        """Return the name of the error that the client tells."""
        with pytest.raises(GeneratedClientError) as refused:
            await self.do(who, nsid, **body)
        assert refused.value.kind == "XrpcResponseError"
        return refused.value.name

    async def _call(self, who: Account, nsid: str, **given: Any) -> Any:
        token = await who.service_auth(self._daemon.service, nsid)
        return await self._client.call(self._daemon.url, token, nsid, **given)


@asynccontextmanager
async def generated(era: str, daemon: Daemon) -> AsyncIterator[Caller]:
    client = await GeneratedClient.start(PUBLISHED / era, daemon.directory / era)
    try:
        yield Caller(client, daemon)
    finally:
        await client.stop()


async def accounts(network: LocalNetwork, daemon: Daemon) -> tuple[Account, Account, Account]:
    owner, guest, friend = [
        await network.pds.create_account(network.handle(name))
        for name in ("owner", "guest", "friend")
    ]
    await log_in(daemon, owner)
    return owner, guest, friend


async def test_a_client_of_the_documents_published_with_the_seed(
    network: LocalNetwork, daemon: Daemon
) -> None:
    owner, guest, friend = await accounts(network, daemon)
    async with generated("with_the_seed", daemon) as calls:
        made = await calls.do(owner, f"{SEED}.admin.createSpace", type=SPACE, key="party")
        space = made["space"]["uri"]
        again = await calls.refusal(owner, f"{SEED}.admin.createSpace", type=SPACE, key="party")
        assert again == "AlreadyExists"
        invited = await calls.do(owner, f"{SEED}.invite.create", spaceUri=space, maxUses=3)
        reading = await calls.do(owner, f"{SEED}.invite.create", spaceUri=space, perms="read")
        assert [made["invite"]["perms"] for made in (invited, reading)] == ["write", "read"]

        came = await calls.do(guest, f"{SEED}.invite.redeem", token=invited["token"])
        assert (came["spaceUri"], came["perms"]) == (space, "write")
        refused = await calls.refusal(guest, f"{SEED}.invite.redeem", token=reading["token"])
        assert refused == "InvalidInvite"
        await calls.do(owner, f"{SEED}.admin.addMember", spaceUri=space, did=friend.did)
        told = await calls.ask(guest, f"{SEED}.listMembers", spaceUri=space)
        assert [(member["did"], member["perms"]) for member in told["members"]] == [
            (who.did, "write") for who in (owner, guest, friend)
        ]
        assert (await calls.ask(friend, f"{SEED}.getSpace", uri=space))["space"]["uri"] == space
        assert len((await calls.ask(friend, f"{SEED}.listSpaces", limit=1))["spaces"]) == 1
        await calls.do(owner, f"{SEED}.admin.removeMember", spaceUri=space, did=friend.did)

        token_hash = invited["invite"]["tokenHash"]
        done = await calls.do(owner, f"{SEED}.invite.revoke", spaceUri=space, tokenHash=token_hash)
        assert done == {"ok": True}
        listed = await calls.ask(owner, f"{SEED}.invite.list", spaceUri=space, includeRevoked=True)
        assert {invite["tokenHash"]: "revokedAt" in invite for invite in listed["invites"]} == {
            token_hash: True,
            reading["invite"]["tokenHash"]: False,
        }
        forbidden = await calls.refusal(guest, f"{SEED}.invite.create", spaceUri=space)
        assert forbidden == "Forbidden"


async def test_a_client_of_the_later_documents(network: LocalNetwork, daemon: Daemon) -> None:
    owner, guest, friend = await accounts(network, daemon)
    async with generated("later", daemon) as calls:
        made = await calls.do(owner, f"{SEED}.createSpace", key="party")
        uri = made["space"]["uri"]
        written = uri.replace("at://", "ats://")
        invited = await calls.do(
            owner, "rsvp.atmo.invite.create", spaceUri=written, kind="read-join"
        )
        assert (invited["invite"]["kind"], invited["invite"]["perms"]) == ("read-join", "write")

        came = await calls.do(guest, "rsvp.atmo.invite.redeem", token=invited["token"])
        assert (came["spaceUri"], came["kind"]) == (uri, "read-join")
        await calls.do(owner, f"{SEED}.addMember", spaceUri=uri, did=friend.did, perms="read")
        for who, is_owner in ((owner, True), (guest, False), (friend, False)):
            told = await calls.ask(who, "rsvp.atmo.spaceExt.whoami", spaceUri=written)
            assert told == {"isOwner": is_owner, "isMember": True}
        await calls.do(friend, f"{SEED}.leaveSpace", spaceUri=uri)
        await calls.do(owner, f"{SEED}.removeMember", spaceUri=uri, did=guest.did)
        told = await calls.ask(guest, f"{SEED}.whoami", spaceUri=uri)
        assert told == {"isOwner": False, "isMember": False}

        listed = await calls.ask(owner, "rsvp.atmo.invite.list", spaceUri=written)
        token_hash = hashlib.sha256(invited["token"].encode()).hexdigest()
        assert [(one["tokenHash"], one["usedCount"]) for one in listed["invites"]] == [
            (token_hash, 1)
        ]
        await calls.do(owner, "rsvp.atmo.invite.revoke", tokenHash=token_hash)
        token = invited["token"]
        assert await calls.refusal(guest, "rsvp.atmo.invite.redeem", token=token) == "InvalidInvite"
