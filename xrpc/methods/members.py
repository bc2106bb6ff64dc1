"""`rsvp.atmo.space.*`, what concerns who belongs to a space: one function a method."""

from typing import Any

from indexer.records import Space
from indexer.store import audit, members
from indexer.store.members import Member
from xrpc.errors import ForbiddenError, InvalidRequestError
from xrpc.methods import spaces
from xrpc.methods.perms import asked_perms
from xrpc.methods.redeeming import MAX_MEMBERS
from xrpc.services import Call, Services

MAX_ADDED = 10_000  # by one owner, to all of his spaces: nobody asks those who are added


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
            {"did": space.did, "perms": "write", "addedAt": space.fields.created_at},
            *(
                {
                    "did": member.did,
                    "perms": member.perms,
                    "addedAt": member.added_at,
                    "addedBy": member.added_by,
                }
                for member in others
            ),
        ]
    }


async def add(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.addMember`: who is one already may do what `perms` says from now on.

    Nobody asks who is added, so it does not count against how many spaces they may join, and they
    may leave. Raises NotFound for a space that is not there, Forbidden for who does not own it,
    and InvalidRequest for the owner himself, perms that are none, and more than there is room for.
    """
    space = await spaces.find_own(services, call, "add members to it")
    did, perms, now = call.input["did"], asked_perms(call.input["perms"]), services.now()
    if did == space.did:
        raise InvalidRequestError("the owner of a space belongs to it anyway")
    async with services.transaction(call) as tx:
        known = await members.perms_of(tx, space.uri, did)
        if known is None:
            if await members.count_of_space(tx, space.uri) >= MAX_MEMBERS:
                raise InvalidRequestError("the space is full")
            if await members.count_added(tx, space.did) >= MAX_ADDED:
                raise InvalidRequestError(
                    f"you have added {MAX_ADDED} members to your spaces, and can't add more; "
                    "an invite lets people in"
                )
            await members.add(
                tx,
                Member(
                    space_uri=space.uri,
                    did=did,
                    rev=space.rev,
                    token_hash=None,
                    added_by=space.did,
                    added_at=now,
                    perms=perms,
                ),
            )
        else:
            await members.set_perms(tx, space.uri, did, perms)
        if known != perms:
            await audit.write(tx, call.caller.did, "member.add", [space.uri], did, now)
    return {"ok": True}


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
