"""`rsvp.atmo.space.invite.*`: one function a method."""

import re
from dataclasses import replace
from typing import Any

from indexer import log
from indexer import slice as slices
from indexer.identity import IdentityError
from indexer.store import audit, invites, spaces, tombstones
from indexer.store.db import Transaction
from indexer.store.tombstones import Tombstone
from indexer.syntax import is_did, parse_at_uri
from xrpc.errors import ForbiddenError, InvalidRequestError, NotFoundError
from xrpc.services import Call, Services

_TOKEN_HASH = re.compile(r"[0-9a-fA-F]{64}")

_log = log.get("invites")


async def revoke(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.invite.revoke`: nobody can use this invite here any more.

    Returns once that is durable; the deletion from the owner's repo follows. Raises NotFound for
    an unknown space, Forbidden for a caller who does not own it, NotFound for an unknown hash.
    """
    token_hash = _token_hash(call.input["tokenHash"])
    space_uri = await _space_uri(services, call.input["spaceUri"])
    if not await spaces.is_known(services.db, space_uri):
        raise NotFoundError("there is no such space")
    if parse_at_uri(space_uri).authority != call.caller.did:
        # Before the hash is looked up, so that nobody can probe for it.
        raise ForbiddenError("only the owner of a space may revoke its invites")
    now = services.now()
    async with services.db.transaction() as tx:
        is_first = await lay_tombstones(tx, space_uri, token_hash, call.caller.did, now)
    if is_first:
        _log.info("invite.revoked", space=space_uri, token_hash=token_hash, actor=call.caller.did)
    services.publisher.nudge()
    return {"ok": True}


async def lay_tombstones(
    tx: Transaction, space_uri: str, token_hash: str, actor: str, now: int
) -> bool:
    """Revoke a token in a space, whatever records carry it, and ask for their deletion.

    Returns False if that was so already: the first revocation's data stay. Raises NotFound if
    the space has, and had, no such invite.
    """
    carried = await invites.with_token(tx, space_uri, token_hash)
    buried = await tombstones.with_token(tx, space_uri, token_hash)
    if not carried and not buried:
        raise NotFoundError("this space has no invite with this hash")
    if any(stone.cause == "revoked" for stone in buried):
        return False  # since then every record with this hash was born dead
    uris = {row.uri for row in carried} | {stone.uri for stone in buried}
    part = await slices.load(tx, (), uris)
    for stone in buried:
        part.bury(replace(stone, cause="revoked", actor=actor, created_at=now))
    for row in carried:
        part.put_row(replace(row, revoked=True))
        part.bury(
            Tombstone(
                uri=row.uri,
                cid=row.cid,
                kind="invite",
                did=row.did,
                rev=row.rev,
                cause="revoked",
                actor=actor,
                reason=None,
                created_at=now,
                space_uri=space_uri,
                token_hash=token_hash,
            )
        )
        part.publish(row.uri, row.rev)
    await slices.save(tx, part, now)
    await audit.write(tx, actor, "invite.revoke", sorted(uris), None, now)
    return True


def _token_hash(value: str) -> str:
    if not _TOKEN_HASH.fullmatch(value):
        # Not repeated, neither here nor in a log: it may be a token itself.
        raise InvalidRequestError(
            "tokenHash must be the SHA-256 of the token, in 64 hex digits, not the token itself"
        )
    return value.lower()


async def _space_uri(services: Services, uri: str) -> str:
    """Return a space's URI with its owner's DID as the authority."""
    parts = parse_at_uri(uri)
    if is_did(parts.authority):
        return str(parts)
    try:
        return str(
            replace(parts, authority=await services.resolver.resolve_handle(parts.authority))
        )
    except IdentityError:
        raise NotFoundError("there is no such space: its handle can't be resolved") from None
