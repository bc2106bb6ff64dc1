"""On the real network an invite is its owner's: at once, and on an index that knows nothing yet."""

import hashlib
import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.proxy import FrameProxy
from tests.e2e.records import create_invite, create_space, log_in
from tests.localnet import Account, LocalNetwork

pytestmark = pytest.mark.asyncio(loop_scope="session")

CREATE_SPACE = "rsvp.atmo.space.createSpace"
CREATE_INVITE = "rsvp.atmo.space.invite.create"
REDEEM = "rsvp.atmo.space.invite.redeem"


async def redeem(daemon: Daemon, guest: Account, token: str) -> tuple[int, dict[str, Any]]:
    auth = await guest.service_auth(daemon.service, REDEEM)
    answer = await daemon.call(REDEEM, {"token": token}, auth)
    return answer.status_code, answer.json()


async def test_an_invite_lets_in_while_the_relay_shows_nothing(
    network: LocalNetwork, tmp_path: Path
) -> None:
    relay = await FrameProxy(network.pds.ws_url).start()
    daemon = await Daemon.on(network, tmp_path / "rescind", RELAY=relay.ws_url).start()
    try:
        owner = await network.pds.create_account(network.handle("owner"))
        guest = await network.pds.create_account(network.handle("guest"))
        await log_in(daemon, owner)
        relay.drop(owner.did, "#commit")

        made = await owner.call(CREATE_SPACE, {"key": "party"}, daemon.service)
        space = made.json()["space"]["uri"]
        # A repo that is new here is fetched whole: that is over, and nothing tells of more.
        await daemon.sees("select 1 from repos where did = ? and sync = 'synchronized'", owner.did)
        invited = await owner.call(CREATE_INVITE, {"spaceUri": space}, daemon.service)
        status, came = await redeem(daemon, guest, invited.json()["token"])

        assert (status, came["spaceUri"]) == (200, space)
        await relay.has_dropped(2)
        assert daemon.rows(
            "select 1 from invites join repos using (did) where invites.rev > repos.rev"
        )
    finally:
        await daemon.stop()
        await relay.stop()


async def test_on_an_index_that_is_begun_anew_no_copier_is_an_owner(
    network: LocalNetwork, daemon: Daemon, tmp_path: Path
) -> None:
    copier = await network.pds.create_account(network.handle("copier"))  # listed before the owner
    owner = await network.pds.create_account(network.handle("owner"))
    guest = await network.pds.create_account(network.handle("guest"))
    trap, space = await create_space(copier), await create_space(owner)
    await daemon.sees("select 1 from spaces where uri = ?", space)
    await log_in(daemon, owner)
    made = await owner.call(CREATE_INVITE, {"spaceUri": space}, daemon.service)
    bound, claimed, alone = made.json()["token"], secrets.token_hex(), secrets.token_hex()
    for token in (bound, claimed):
        await create_invite(copier, trap, tokenHash=_hash(token))
    for token in (claimed, alone):
        await create_invite(owner, space, tokenHash=_hash(token))

    fresh = await Daemon.on(network, tmp_path / "fresh").start()
    try:
        await fresh.sees("select 1 where (select min(settled) from backfills) = 1", within=60)
        status, came = await redeem(fresh, guest, bound)
        assert (status, came.get("spaceUri")) == (200, space)
        status, came = await redeem(fresh, guest, alone)
        assert (status, came.get("spaceUri")) == (200, space)
        status, refused = await redeem(fresh, guest, claimed)
        assert (status, refused["error"]) == (400, "InvalidInvite")
        assert "ask for a new one" in refused["message"]
        assert fresh.rows("select did from members where space_uri = ?", trap) == []
    finally:
        await fresh.stop()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
