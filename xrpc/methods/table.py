"""The methods by their names. Whether one is a query or a procedure, its document says."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from xrpc.methods import granting, invites, listing, members, redeeming, spaces, verifications
from xrpc.services import Call, Services

Handler = Callable[[Services, Call], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Method:
    handler: Handler
    is_open: bool = False  # may be called without a token: its caller is NOBODY then


METHODS: dict[str, Method] = {
    "rsvp.atmo.invite.create": Method(invites.create),
    "rsvp.atmo.invite.list": Method(invites.list_),
    "rsvp.atmo.invite.redeem": Method(redeeming.redeem),
    "rsvp.atmo.invite.revoke": Method(invites.revoke),
    "rsvp.atmo.space.addMember": Method(members.add),
    "rsvp.atmo.space.admin.addMember": Method(members.add),
    "rsvp.atmo.space.admin.createSpace": Method(spaces.create),
    "rsvp.atmo.space.admin.removeMember": Method(members.remove),
    "rsvp.atmo.space.createSpace": Method(spaces.create),
    "rsvp.atmo.space.getSpace": Method(spaces.get, is_open=True),
    "rsvp.atmo.space.invite.create": Method(invites.create),
    "rsvp.atmo.space.invite.list": Method(invites.list_),
    "rsvp.atmo.space.invite.redeem": Method(redeeming.redeem),
    "rsvp.atmo.space.invite.revoke": Method(invites.revoke),
    "rsvp.atmo.space.leaveSpace": Method(members.leave),
    "rsvp.atmo.space.listMembers": Method(members.list_),
    "rsvp.atmo.space.listSpaces": Method(spaces.list_),
    "rsvp.atmo.space.removeMember": Method(members.remove),
    "rsvp.atmo.space.whoami": Method(spaces.whoami),
    "rsvp.atmo.spaceExt.whoami": Method(spaces.whoami),
    "tools.ozone.verification.grantVerifications": Method(granting.grant),
    "tools.ozone.verification.listVerifications": Method(listing.list_verifications),
    "tools.ozone.verification.revokeVerifications": Method(verifications.revoke),
}
