"""`rsvp.atmo.space.invite.*` for the owner, one function a method; `redeem` is in `redeeming`."""

import re
from dataclasses import replace
from typing import Any

from indexer import log
from indexer.journal.lines import Entry
from indexer.lexicon.syntax import format_datetime, parse_at_uri
from indexer.records import Invite
from indexer.rules import slice as slices
from indexer.store import audit, invite_tokens, invites, outbox, spaces, tombstones
from indexer.store.db import Transaction
from indexer.store.tombstones import Tombstone
from xrpc.errors import ForbiddenError, InvalidRequestError, NotFoundError
from xrpc.methods import creating
from xrpc.methods.perms import asked_kind, perms_of_kind
from xrpc.methods.spaces import find_own, space_uri_of
from xrpc.publishing.pds import NewRecord
from xrpc.services import Call, Services
from xrpc.tokens import hash_of, new_token

MAX_LISTED = 1_000  # invites in one answer
MAX_SPACES = 100  # of one owner with one hash, that are revoked by one call
MAX_USES = 2**53 - 1  # what a PDS, whose numbers are JavaScript's, still writes as it was given

_TOKEN_HASH = re.compile(r"[0-9a-fA-F]{64}")

_log = log.get("invites")


async def create(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.invite.create`: an invite, and the token that nobody can ask for again.

    The token is given out only when the PDS has acknowledged the record. If its answer is lost,
    the invite may stand all the same, with a token that nobody has: it lets nobody in. The owner
    finds it in the list of invites and may revoke it.

    Raises NotFound for a space that is unknown or gone, Forbidden for a caller who does not own
    it, InvalidRequest for an invite that can't be, SessionRequired for a repo that we can't write
    to, and UpstreamFailure for a PDS that fails.
    """
    wanted, now = call.input, services.now()
    space = await find_own(services, call, "invite to it")
    expires_at, max_uses = wanted.get("expiresAt"), wanted.get("maxUses")
    if expires_at is not None and expires_at <= now:
        raise InvalidRequestError("expiresAt must be in the future, in Unix milliseconds")
    if max_uses is not None and max_uses > MAX_USES:
        raise InvalidRequestError(f"maxUses must be {MAX_USES} or less; leave it out for no limit")
    token = new_token(space.uri)
    fields = {
        "space": space.uri,
        "tokenHash": hash_of(token),
        "kind": asked_kind(wanted),
        "maxUses": max_uses,
        "expiresAt": None if expires_at is None else _datetime(expires_at),
        "note": wanted.get("note"),
        "createdAt": format_datetime(now),
    }
    collection = services.settings.invite_collection
    value = {"$type": collection} | {name: v for name, v in fields.items() if v is not None}
    record = NewRecord(space.did, collection, services.tids.next(now), value)
    session = await creating.session_of(services, space.did)
    # Before the record is written, so that it can be revoked from then on, whether the firehose
    # shows it soon, late or never.
    await services.write(
        call,
        lambda tx: invite_tokens.note_created(tx, space.uri, hash_of(token), record.target.uri),
    )
    [row] = await creating.create(services, session, [record], call)
    assert isinstance(row.fields, Invite)  # noqa: S101 (what an invite's record is read as)
    _log.info("invite.created", uri=row.uri, space=space.uri)
    return {"token": token, "invite": invite_view(row.fields, row.did)}


async def revoke(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.invite.revoke`: nobody can use this invite here any more.

    Under its later name the space may be left out: all of the caller's that know the hash are
    meant then. Returns once that is durable; the deletion from the owner's repo follows. Raises
    NotFound for an unknown space, Forbidden for a caller who does not own it, NotFound for an
    unknown hash.
    """
    token_hash = _token_hash(call.input["tokenHash"])
    if "spaceUri" in call.input:
        space_uris = [await _own_space(services, call)]
    else:
        space_uris = await _own_spaces_with(services, call.caller.did, token_hash)
    now = services.now()

    async def lay(tx: Transaction) -> tuple[list[str], list[Tombstone]]:
        first, unknown = [], []
        for space_uri in space_uris:
            try:
                if await lay_tombstones(tx, space_uri, token_hash, call.caller.did, now):
                    first.append(space_uri)
            except NotFoundError as error:
                unknown.append(error)  # of several, the others are what is meant
        if len(unknown) == len(space_uris):
            raise unknown[0]
        tokens = [(space_uri, token_hash) for space_uri in space_uris]
        return first, await tombstones.revoked_tokens(tx, tokens)

    first, stones = await services.write(call, lay)
    # Also what was revoked before: who asks again may have had no answer the first time.
    await services.journal.keep(Entry.of(stone) for stone in stones)
    for space_uri in first:
        _log.info("invite.revoked", space=space_uri, token_hash=token_hash, actor=call.caller.did)
    services.publisher.nudge(call.caller.did)
    return {"ok": True}


async def _own_space(services: Services, call: Call) -> str:
    """Return the URI of the caller's space that is named, also of one that is deleted."""
    space_uri = await space_uri_of(services, call.input["spaceUri"])
    if not await spaces.is_known(services.db, space_uri):
        raise NotFoundError("there is no such space")
    if parse_at_uri(space_uri).authority != call.caller.did:
        # Before the hash is looked up, so that nobody can probe for it.
        raise ForbiddenError("only the owner of a space may revoke its invites")
    return space_uri


async def _own_spaces_with(services: Services, did: str, token_hash: str) -> list[str]:
    """Return the caller's spaces that have, or had, an invite with this hash."""
    found = await invite_tokens.spaces_of(services.db, token_hash, did, MAX_SPACES + 1)
    if not found:
        raise NotFoundError("you have no invite with this hash")
    if len(found) > MAX_SPACES:
        raise InvalidRequestError(
            f"more than {MAX_SPACES} of your spaces have this hash: name the space"
        )
    return found


async def list_(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.invite.list`: an owner's invites to a space, the newest first.

    Not more than `MAX_LISTED`. Raises NotFound for a space that is not there, Forbidden for who
    does not own it.
    """
    space = await find_own(services, call, "list its invites")
    found = await invites.of_space(
        services.db, space.uri, revoked=call.input["includeRevoked"], limit=MAX_LISTED
    )
    # One token is one invite, whose newest record counts.
    newest = {
        issued.invite.token_hash: issued
        for issued in sorted(found, key=lambda issued: (issued.rev, issued.uri))
    }
    return {
        "invites": [
            invite_view(
                issued.invite,
                issued.did,
                used_count=issued.used_count,
                revoked_at=issued.revoked_at,
            )
            for issued in found
            if newest[issued.invite.token_hash] is issued
        ]
    }


async def lay_tombstones(
    tx: Transaction, space_uri: str, token_hash: str, actor: str, now: int
) -> bool:
    """Revoke a token in a space, whatever records carry it, and ask for their deletion.

    Returns False if that was so already: the first revocation's data stay. Raises NotFound if
    the space has, and had, no such invite, and none was created here that is still to be seen.
    """
    # Asked first: an owner can put one hash into any number of records, and ask again and again.
    if await tombstones.is_token_revoked(tx, space_uri, token_hash):
        return False  # since then every record with this hash was born dead
    carried = await invites.with_token(tx, space_uri, token_hash)
    buried = await tombstones.with_token(tx, space_uri, token_hash)
    versions = [(row.uri, row.cid, row.rev) for row in carried]
    to_delete = [(row.uri, row.rev) for row in carried]
    if not carried and not buried:
        uri = await invite_tokens.created_as(tx, space_uri, token_hash)
        if uri is None:
            raise NotFoundError("this space has no invite with this hash")
        # Nobody knows here which version that is, nor its rev. The tombstone has the token, so the
        # record is born dead whenever it comes, and its deletion is asked for again then.
        versions = [(uri, "", "")]
        to_delete = [(uri, "")] if await _may_stand_unseen(tx, uri) else []
    stones = [replace(stone, cause="revoked", actor=actor, created_at=now) for stone in buried]
    stones += [
        Tombstone(
            uri=uri,
            cid=cid,
            kind="invite",
            did=parse_at_uri(uri).authority,
            rev=rev,
            cause="revoked",
            actor=actor,
            reason=None,
            created_at=now,
            space_uri=space_uri,
            token_hash=token_hash,
        )
        for uri, cid, rev in versions
    ]
    await tombstones.save(tx, stones)
    await invites.mark_revoked(tx, [row.uri for row in carried])
    await outbox.enqueue(tx, to_delete, now)
    await audit.write(
        tx, actor, "invite.revoke", sorted({stone.uri for stone in stones}), None, now
    )
    return True


async def _may_stand_unseen(tx: Transaction, uri: str) -> bool:
    """Whether a repo may have a record at this URI of which the index knows nothing.

    If it knows one there, that is a later one, with another token: it is not to be deleted.
    """
    did = parse_at_uri(uri).authority
    part = await slices.load(tx, {did}, [uri])
    is_known = uri in part.rows or uri in part.tombstones
    return not is_known and part.repo(did).hosting != "deleted"


def invite_view(
    invite: Invite, created_by: str, *, used_count: int = 0, revoked_at: int | None = None
) -> dict[str, Any]:
    """Return an invite as its owner sees it: `#inviteView`. `revoked_at` is Unix ms."""
    view = {
        "tokenHash": invite.token_hash,
        "spaceUri": invite.space_uri,
        "kind": invite.kind,
        "perms": perms_of_kind(invite.kind),
        "usedCount": used_count,
        "createdBy": created_by,
        "createdAt": invite.created_at,
        "expiresAt": invite.expires_at,
        "maxUses": invite.max_uses,
        "revokedAt": revoked_at,
        "note": invite.note,
    }
    return {name: value for name, value in view.items() if value is not None}


def _datetime(ms: int) -> str:
    try:
        return format_datetime(ms)
    except ValueError:
        raise InvalidRequestError(
            "expiresAt must be Unix milliseconds, up to the year 9999"
        ) from None


def _token_hash(value: str) -> str:
    if not _TOKEN_HASH.fullmatch(value):
        # Not repeated, neither here nor in a log: it may be a token itself.
        raise InvalidRequestError(
            "tokenHash must be the SHA-256 of the token, in 64 hex digits, not the token itself"
        )
    return value.lower()
