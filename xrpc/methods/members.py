"""`rsvp.atmo.space.*`, what concerns who belongs to a space: one function a method."""

from typing import Any

from indexer.records import Space
from indexer.store import audit, members
from xrpc.errors import ForbiddenError, InvalidRequestError
from xrpc.methods import spaces
from xrpc.services import Call, Services


async def list_(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.listMembers`: the owner, then the others as they came.

    Raises NotFound for a space that is not there, Forbidden for who does not belong to it.
    """
    space = await spaces.find(services, call.input["spaceUri"])
    if not await spaces.belongs(services.db, space, call.caller.did):
        raise ForbiddenError("only who belongs to a space may see who else does")
    assert isinstance(space.fields, Space)  # noqa: S101 (a row of `spaces`)
    others = await members.of_space(services.db, space.uri)
    others.sort(key=lambda member: (member.added_at, member.did))
    return {
        "members": [
            {"did": space.did, "addedAt": space.fields.created_at},
            *(
                {"did": member.did, "addedAt": member.added_at, "addedBy": member.added_by}
                for member in others
            ),
        ]
    }


async def remove(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.removeMember`: who was no member, or not any more, is no error.

    Raises NotFound for a space that is not there, Forbidden for who does not own it, and
    InvalidRequest for the owner himself. Invites that still let people in let them in again.
    """
    space = await spaces.find_own(services, call, "remove its members")
    did = call.input["did"]
    if did == space.did:
        raise InvalidRequestError("the owner of a space can't be removed from it")
    async with services.transaction(call) as tx:
        if await members.remove(tx, space.uri, did):
            await audit.write(
                tx, call.caller.did, "member.remove", [space.uri], did, services.now()
            )
    return {"ok": True}


async def leave(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.leaveSpace`: the caller is no member then, nor need have been one.

    Raises NotFound for a space that is not there, InvalidRequest for its owner.
    """
    space = await spaces.find(services, call.input["spaceUri"])
    if call.caller.did == space.did:
        raise InvalidRequestError("the owner can't leave a space; delete its record to end it")
    async with services.transaction(call) as tx:
        await members.remove(tx, space.uri, call.caller.did)
    return {"ok": True}
