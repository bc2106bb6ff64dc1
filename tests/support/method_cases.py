"""How each method comes to work, and to each of its declared errors: what no document can say.

An entry arranges a world, whose accounts are ALICE, BOB and CAROL (the service's verifier), and
returns what to ask of it: all that can be given, so that each part can be changed by itself.
`test_documents` fails for a method without an entry, and for a declared error without a case.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    CREATED_AT,
    OPERATOR,
    REVOKE_INVITE,
    REVOKE_VERIFICATIONS,
    SPACE,
    STRANGER,
    World,
)

TOKEN = "dG9rZW4tb2YtYW4taW52aXRlLTMyLWJ5dGVzLWxvbmc"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
NOWHERE = f"at://{ALICE}/{SPACE}/nowhere"
HOUR = 3_600_000  # ms


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, and with what."""

    caller: str
    given: dict[str, Any]


Arrange = Callable[[World], Awaitable[Asked]]


@dataclass(frozen=True, slots=True)
class MethodCase:
    """`fails` is by the name of the error."""

    works: Arrange
    fails: dict[str, Arrange] = field(default_factory=dict)


def by(caller: str, arrange: Arrange) -> Arrange:
    """Let somebody else ask."""

    async def arranged(world: World) -> Asked:
        return Asked(caller, (await arrange(world)).given)

    return arranged


def giving(arrange: Arrange, **changes: Any) -> Arrange:
    """Let something else be given."""

    async def arranged(world: World) -> Asked:
        asked = await arrange(world)
        return Asked(asked.caller, asked.given | changes)

    return arranged


def logged_out(arrange: Arrange) -> Arrange:
    """Let the service have no session for the repo of who asks."""

    async def arranged(world: World) -> Asked:
        asked = await arrange(world)
        async with world.db.transaction() as tx:
            await tx.execute("delete from sessions")
        return asked

    return arranged


async def page_cursor(world: World, caller: str, nsid: str, **params: Any) -> str:
    """Return where the second page of a list begins, whose first one is this."""
    return str((await world.ask(caller, nsid, **params)).json()["cursor"])


# --- rsvp.atmo.space ---


async def joined(world: World) -> str:
    """Let BOB be a member of a space of ALICE."""
    space = await world.space(ALICE)
    await world.invite(space, HASH, kind="read-join")
    await world.call(BOB, "rsvp.atmo.space.invite.redeem", {"token": TOKEN})
    return space


async def ask_of_space(world: World) -> Asked:
    return Asked(BOB, {"spaceUri": await joined(world)})


async def get_space(world: World) -> Asked:
    return Asked(BOB, {"uri": await joined(world), "inviteToken": TOKEN})


async def get_space_as_stranger(world: World) -> Asked:
    return Asked(STRANGER, {"uri": await joined(world)})


async def list_spaces(world: World) -> Asked:
    for key in ("one", "two", "three"):
        await world.space(ALICE, key)
    cursor = await page_cursor(world, ALICE, "rsvp.atmo.space.listSpaces", limit=1)
    given = {"scope": "member", "type": SPACE, "owner": ALICE, "cursor": cursor, "limit": 1}
    return Asked(ALICE, given)


async def add_member(world: World) -> Asked:
    return Asked(ALICE, {"spaceUri": await world.space(ALICE), "did": BOB, "perms": "read"})


async def remove_member(world: World) -> Asked:
    return Asked(ALICE, {"spaceUri": await joined(world), "did": BOB})


async def create_space(_: World) -> Asked:
    return Asked(ALICE, {"type": SPACE, "key": "party"})


async def create_space_again(world: World) -> Asked:
    await world.space(ALICE, "party")
    return await create_space(world)


# --- rsvp.atmo.space.invite ---


async def list_invites(world: World) -> Asked:
    asked = await revoke_invite(world)
    await world.call(asked.caller, REVOKE_INVITE, asked.given)
    await world.invite(asked.given["spaceUri"], "f" * 64, "two", note="for friends")
    return Asked(ALICE, {"spaceUri": asked.given["spaceUri"], "includeRevoked": True})


async def create_invite(world: World) -> Asked:
    given = {
        "spaceUri": await world.space(ALICE),
        "kind": "read-join",
        "perms": "write",
        "expiresAt": world.now + HOUR,
        "maxUses": 5,
        "note": "for friends",
    }
    return Asked(ALICE, given)


async def redeem_invite(world: World) -> Asked:
    await world.invite(await world.space(ALICE), HASH)
    return Asked(BOB, {"token": TOKEN})


async def revoke_invite(world: World) -> Asked:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    return Asked(ALICE, {"spaceUri": space, "tokenHash": HASH})


# --- tools.ozone.verification ---


async def grant_verifications(world: World) -> Asked:
    wanted = {
        "subject": BOB,
        "handle": "bob.test",
        "displayName": "Bob",
        "createdAt": CREATED_AT,
    }
    world.name(BOB, world.pds.url, "bob.test")
    return Asked(OPERATOR, {"verifications": [wanted]})


async def list_verifications(world: World) -> Asked:
    for key in ("one", "two", "three"):
        await world.verification(ALICE, key)
    nsid = "tools.ozone.verification.listVerifications"
    given = {
        "cursor": await page_cursor(world, OPERATOR, nsid, limit=1),
        "limit": 1,
        "createdAfter": "2020-01-01T00:00:00Z",
        "createdBefore": "2030-01-01T00:00:00Z",
        "issuers": [ALICE],
        "subjects": [CAROL],
        "sortDirection": "desc",
        "isRevoked": False,
    }
    return Asked(OPERATOR, given)


async def revoke_verifications(world: World) -> Asked:
    uris = [await world.verification(ALICE)]
    return Asked(ALICE, {"uris": uris, "revokeReason": "an impostor"})


def later(arrange: Arrange) -> Arrange:
    """Let the space be written as under the later names."""

    async def arranged(world: World) -> Asked:
        asked = await arrange(world)
        uri = asked.given["spaceUri"].replace("at://", "ats://")
        return Asked(asked.caller, asked.given | {"spaceUri": uri})

    return arranged


NOT_FOUND = {"NotFound": giving(ask_of_space, spaceUri=NOWHERE)}

CASES: dict[str, MethodCase] = {
    "rsvp.atmo.space.createSpace": MethodCase(
        create_space,
        {"AlreadyExists": create_space_again, "SessionRequired": logged_out(create_space)},
    ),
    "rsvp.atmo.space.getSpace": MethodCase(
        get_space, {"NotFound": giving(get_space, uri=NOWHERE), "Forbidden": get_space_as_stranger}
    ),
    "rsvp.atmo.space.invite.create": MethodCase(
        create_invite,
        {
            "NotFound": giving(create_invite, spaceUri=NOWHERE),
            "Forbidden": by(BOB, create_invite),
            "SessionRequired": logged_out(create_invite),
        },
    ),
    "rsvp.atmo.space.invite.list": MethodCase(
        list_invites,
        {"NotFound": giving(list_invites, spaceUri=NOWHERE), "Forbidden": by(BOB, list_invites)},
    ),
    "rsvp.atmo.space.invite.redeem": MethodCase(
        redeem_invite, {"InvalidInvite": giving(redeem_invite, token="never made")}
    ),
    REVOKE_INVITE: MethodCase(
        revoke_invite,
        {
            "NotFound": giving(revoke_invite, tokenHash="0" * 64),
            "Forbidden": by(BOB, revoke_invite),
        },
    ),
    "rsvp.atmo.space.leaveSpace": MethodCase(ask_of_space, NOT_FOUND),
    "rsvp.atmo.space.listMembers": MethodCase(
        ask_of_space, NOT_FOUND | {"Forbidden": by(STRANGER, ask_of_space)}
    ),
    "rsvp.atmo.space.listSpaces": MethodCase(list_spaces),
    "rsvp.atmo.space.removeMember": MethodCase(
        remove_member,
        {
            "NotFound": giving(remove_member, spaceUri=NOWHERE),
            "Forbidden": by(BOB, remove_member),
            "InvalidRequest": giving(remove_member, did=ALICE),
        },
    ),
    "rsvp.atmo.space.whoami": MethodCase(ask_of_space, NOT_FOUND),
    "rsvp.atmo.space.addMember": MethodCase(
        add_member,
        {"NotFound": giving(add_member, spaceUri=NOWHERE), "Forbidden": by(BOB, add_member)},
    ),
    "tools.ozone.verification.grantVerifications": MethodCase(
        grant_verifications, {"Forbidden": by(ALICE, grant_verifications)}
    ),
    "tools.ozone.verification.listVerifications": MethodCase(
        list_verifications, {"Forbidden": by(BOB, list_verifications)}
    ),
    REVOKE_VERIFICATIONS: MethodCase(revoke_verifications),
}


def also(older: str) -> MethodCase:
    """Let a later name have the cases of an older one, with the space as it is written there."""
    case = CASES[older]
    return MethodCase(
        later(case.works), {name: later(arrange) for name, arrange in case.fails.items()}
    )


CASES |= {
    "rsvp.atmo.space.admin.createSpace": CASES["rsvp.atmo.space.createSpace"],
    "rsvp.atmo.space.admin.addMember": CASES["rsvp.atmo.space.addMember"],
    "rsvp.atmo.space.admin.removeMember": CASES["rsvp.atmo.space.removeMember"],
    "rsvp.atmo.invite.create": also("rsvp.atmo.space.invite.create"),
    "rsvp.atmo.invite.list": also("rsvp.atmo.space.invite.list"),
    "rsvp.atmo.invite.redeem": CASES["rsvp.atmo.space.invite.redeem"],
    "rsvp.atmo.invite.revoke": also(REVOKE_INVITE),
    "rsvp.atmo.spaceExt.whoami": also("rsvp.atmo.space.whoami"),
}
