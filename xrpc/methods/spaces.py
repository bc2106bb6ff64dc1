"""`rsvp.atmo.space.*`, what concerns spaces as such: one function a method."""

import base64
import binascii
import re
from dataclasses import replace
from typing import Any

from indexer import log
from indexer.config.settings import Settings
from indexer.identity.model import IdentityError
from indexer.lexicon.syntax import (
    MAX_AT_URI,
    AtUri,
    format_datetime,
    is_at_uri,
    is_did,
    is_record_key,
    parse_at_uri,
)
from indexer.records import SPACE_LEXICON, Row, Space
from indexer.store import members, spaces
from indexer.store.db import Reader
from xrpc.auth.callers import NOBODY
from xrpc.errors import (
    AlreadyExistsError,
    AuthRequiredError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
)
from xrpc.methods import creating, redeeming
from xrpc.publishing.pds import NewRecord
from xrpc.services import Call, Services

_LATER = re.compile(r"ats://([^/]+)/([^/]+/[^/]+)|at://([^/]+)/space/([^/]+/[^/]+)")
# What the published documents have for spaces whose data a service keeps to itself.
_REFUSED = {
    "memberListRef": "it knows the members itself; leave it out, and invite or add them",
    "appPolicyRef": "a space's record is public, so no app can be kept from it; leave it out",
    "appPolicy": "a space's record is public, so no app can be kept from it; leave it out",
}

_log = log.get("spaces")


async def create(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.createSpace`: a record in the caller's repo.

    Raises InvalidRequest for a type that is not indexed here or a key that is none;
    SessionRequired for a repo that we can't write to; AlreadyExists for a key that is taken;
    UpstreamFailure for a PDS that fails.
    """
    did, now = call.caller.did, services.now()
    for name, why in _REFUSED.items():
        if name in call.input:
            raise InvalidRequestError(f"{name} is not for spaces of this service: {why}")
    collection = _space_type(services, call.input.get("type"))
    key = call.input.get("key", services.tids.next(now))
    if not is_record_key(key):
        raise InvalidRequestError("key must be a record key: letters, digits and . _ : ~ -")
    value = {"$type": collection, "createdAt": format_datetime(now)}
    record = NewRecord(did, collection, key, value)
    if any(not row.revoked for row in await spaces.load(services.db, [record.target.uri])):
        raise AlreadyExistsError("you have a space of this type with this key")
    session = await creating.session_of(services, did)
    [row] = await creating.create(services, session, [record], call)
    assert isinstance(row.fields, Space)  # noqa: S101 (what a space's record is read as)
    _log.info("space.created", uri=row.uri)
    return {"space": space_view(services.settings, row.uri, row.fields.created_at)}


async def get(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.getSpace`: for who belongs to it, and for holders of a reading token.

    Raises NotFound for a space that is not there, Forbidden for everybody else.
    """
    token = call.input.get("inviteToken")
    if call.caller == NOBODY and token is None:
        raise AuthRequiredError(
            "send a service-auth token as `Authorization: Bearer`, or an inviteToken; "
            "com.atproto.server.getServiceAuth of your PDS gives such a token, "
            f"with aud={services.settings.service_did} and lxm=rsvp.atmo.space.getSpace",
            "AuthMissing",
        )
    space = await find(services, call.input["uri"])
    # Asked anew each time: a token that was revoked reads no more.
    if not (
        await belongs(services.db, space, call.caller.did)
        or (
            token is not None
            and await redeeming.may_read(services.db, token, space, services.now())
        )
    ):
        raise ForbiddenError("only who belongs to this space, or was given a token to, may see it")
    return {"space": _view(services, space)}


async def list_(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.listSpaces`: the caller's own, with the scope `member` the joined ones too.

    A page goes on behind the last URI of the one before, so nothing comes twice or is left out,
    whatever comes and goes in between.
    """
    did, scope, limit = call.caller.did, call.input["scope"], call.input["limit"]
    if scope not in {"member", "owner"}:
        raise InvalidRequestError("scope must be member or owner")
    owner, type_ = call.input.get("owner"), call.input.get("type")
    after = _read_cursor(call.input["cursor"]) if "cursor" in call.input else ""
    found: list[Row] = []
    if owner in {None, did}:
        found += await spaces.of_owner(services.db, did, type_, after, limit + 1)
    if scope == "member":
        found += await spaces.of_member(services.db, did, owner, type_, after, limit + 1)
    found.sort(key=lambda space: space.uri)
    page = found[:limit]
    answer: dict[str, Any] = {"spaces": [_view(services, space) for space in page]}
    if len(found) > limit:
        answer["cursor"] = _cursor(page[-1].uri)
    return answer


async def whoami(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.whoami`: what the caller is to a space; its owner is a member as well."""
    space = await find(services, call.input["spaceUri"])
    return {
        "isOwner": space.did == call.caller.did,
        "isMember": await belongs(services.db, space, call.caller.did),
    }


async def find(services: Services, uri: str) -> Row:
    """Return the space that a caller names; NotFound if there is none, or not any more."""
    space = await spaces.live(services.db, await space_uri_of(services, uri))
    if space is None:
        raise NotFoundError("there is no such space")
    return space


async def find_own(services: Services, call: Call, what: str) -> Row:
    """Return the space in `spaceUri` for its owner; Forbidden for others, who may not do `what`."""
    space = await find(services, call.input["spaceUri"])
    if space.did != call.caller.did:
        raise ForbiddenError(f"only the owner of a space may {what}")
    return space


async def space_uri_of(services: Services, uri: str) -> str:
    """Return a space's URI with its owner's DID as the authority.

    Documents whose `spaceUri` is an at-uri let nothing else through; of the others it may be as
    `_canonical` says. Raises InvalidRequest for what names no space, NotFound for a handle that
    can't be resolved.
    """
    parts = _canonical(uri)
    if is_did(parts.authority):
        return str(parts)
    try:
        return str(
            replace(parts, authority=await services.resolver.resolve_handle(parts.authority))
        )
    except IdentityError:
        raise NotFoundError("there is no such space: its handle can't be resolved") from None


def _canonical(uri: str) -> AtUri:
    """Return the AT-URI of a space's record that `uri` stands for.

    In the later documents of the family it is written `ats://OWNER/TYPE/KEY`, or
    `at://OWNER/space/TYPE/KEY`.
    """
    later = _LATER.fullmatch(uri) if len(uri) <= MAX_AT_URI else None
    try:
        return parse_at_uri(f"at://{later[1] or later[3]}/{later[2] or later[4]}" if later else uri)
    except ValueError:
        raise InvalidRequestError(
            "spaceUri must be the AT-URI of a space's record, or ats://OWNER/TYPE/KEY"
        ) from None


async def belongs(db: Reader, space: Row, did: str) -> bool:
    """Whether an account is a space's owner or one of its members."""
    return space.did == did or await members.is_member(db, space.uri, did)


def space_view(settings: Settings, uri: str, created_at: int) -> dict[str, Any]:
    """Return a space as callers see it: `#spaceView`. `created_at` is Unix ms."""
    parts = parse_at_uri(uri)
    return {
        "uri": uri,
        "ownerDid": parts.authority,
        "type": parts.collection,
        "key": parts.rkey,
        "serviceDid": settings.service_did,
        "createdAt": created_at,
    }


def _view(services: Services, space: Row) -> dict[str, Any]:
    assert isinstance(space.fields, Space)  # noqa: S101 (a row of `spaces`)
    return space_view(services.settings, space.uri, space.fields.created_at)


def _space_type(services: Services, asked: str | None) -> str:
    """Return the collection of a new space: the one asked for, or the one that we prefer."""
    configured = sorted(services.settings.space_collections)
    if asked is None:
        return SPACE_LEXICON if SPACE_LEXICON in configured else configured[0]
    if asked not in configured:
        raise InvalidRequestError(
            f"type must be one that this service knows: {', '.join(configured)}"
        )
    return asked


def _cursor(uri: str) -> str:
    return base64.urlsafe_b64encode(uri.encode()).rstrip(b"=").decode()


def _read_cursor(text: str) -> str:
    try:
        uri = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        ).decode("ascii")
    except (binascii.Error, ValueError):
        uri = ""
    if not is_at_uri(uri) or _cursor(uri) != text:
        raise InvalidRequestError("cursor must be one that an earlier page gave")
    return uri
