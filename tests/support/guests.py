"""People who want into spaces: tokens, and the calls of `rsvp.atmo.space.*` as they make them."""

from typing import Any

import httpx

from indexer.stream.events import Account
from tests.support.xrpc_world import World, did
from xrpc.tokens import hash_of

REDEEM = "rsvp.atmo.space.invite.redeem"
LIST_INVITES = "rsvp.atmo.space.invite.list"
GET_SPACE = "rsvp.atmo.space.getSpace"
LIST_SPACES = "rsvp.atmo.space.listSpaces"
LIST_MEMBERS = "rsvp.atmo.space.listMembers"
REMOVE_MEMBER = "rsvp.atmo.space.removeMember"
LEAVE_SPACE = "rsvp.atmo.space.leaveSpace"
WHOAMI = "rsvp.atmo.space.whoami"

TOKEN = "gQj3yJm0b1a5V8sXk2p9TzRr7LwNcHdEuFoIxAqYt4M"
HASH = hash_of(TOKEN)


def guest(number: int) -> str:
    """Return the DID of one of many."""
    return did(f"guest{chr(97 + number // 26)}{chr(97 + number % 26)}")


def said(answer: httpx.Response) -> tuple[int, Any]:
    """Return the status, and the answer or the error's name."""
    body = answer.json()
    return answer.status_code, body if answer.status_code == 200 else body["error"]


async def redeem(world: World, caller: str, token: str = TOKEN) -> tuple[int, Any]:
    """Redeem; return the status, and the space or the error's name."""
    status, body = said(await world.call(caller, REDEEM, {"token": token}))
    return status, body["spaceUri"] if status == 200 else body


async def join(world: World, space: str, *callers: str) -> None:
    """Let people in by an invite of its own."""
    token = f"for {space} at {world.clock.now}"
    await world.invite(space, hash_of(token), f"join-{hash_of(token)[:12]}")
    for caller in callers:
        assert await redeem(world, caller, token) == (200, space)


async def may_see(world: World, space: str, caller: str | None, token: str | None = None) -> bool:
    """Whether `getSpace` shows a space; if not, it must be Forbidden."""
    params = {"uri": space} if token is None else {"uri": space, "inviteToken": token}
    status, body = said(await world.ask(caller, GET_SPACE, **params))
    assert status == 200 or (status, body) == (403, "Forbidden")
    return status == 200


async def members(world: World, space: str) -> list[str]:
    """Return who belongs to a space, as its owner is told."""
    owner = space.split("/")[2]
    status, body = said(await world.ask(owner, LIST_MEMBERS, spaceUri=space))
    assert status == 200, body
    assert body["members"][0]["did"] == owner
    return [member["did"] for member in body["members"]][1:]


async def used(world: World, space: str, token: str = TOKEN) -> int:
    """Return how often a token was used, as the owner is told."""
    status, body = said(await world.ask(space.split("/")[2], LIST_INVITES, spaceUri=space))
    assert status == 200, body
    [count] = [i["usedCount"] for i in body["invites"] if i["tokenHash"] == hash_of(token)]
    return int(count)


async def set_account(world: World, whose: str, status: str | None) -> None:
    """Let a host say how an account is: None for active."""
    event = Account(10**9 + await _events(world), None, whose, status is None, status)
    async with world.db.transaction() as tx:
        await world.projection.apply(tx, [event], world.now)


async def _events(world: World) -> int:
    [row] = await world.db.all("select max(coalesce(hosting_seq, 0)) as seq from repos")
    return int(row["seq"]) + 1
