"""What an invite's token lets its holder do: become a member, or read."""

from dataclasses import dataclass
from typing import Any

from indexer.lexicon.syntax import parse_at_uri
from indexer.records import Row
from indexer.store import invite_tokens, invites, members, spaces, tombstones
from indexer.store.db import Reader
from indexer.store.invites import Issued
from indexer.store.members import Member
from xrpc.errors import InvalidInviteError
from xrpc.services import Call, Services
from xrpc.tokens import hash_of

MAX_MEMBERS = 10_000  # of one space
MAX_JOINED = 10_000  # spaces that one account is a member of

_JOINING = frozenset(("join", "read-join"))
_READING = frozenset(("read", "read-join"))


async def redeem(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.invite.redeem`: the caller is a member then; who was one uses up nothing.

    The use is counted with the membership in one transaction, in one order with revocations.
    Raises InvalidInvite, with why, for a token that lets nobody in.
    """
    did, token_hash = call.caller.did, hash_of(call.input["token"])
    # First without a turn at writing: most refusals, and those who are in, need none.
    admission = await _admit(services.db, token_hash, did, services.now())
    if not admission.is_member:
        async with services.transaction(call) as tx:
            now = services.now()
            admission = await _admit(tx, token_hash, did, now)
            if not admission.is_member:
                space, invite = admission.space, admission.invite
                await members.add(
                    tx,
                    Member(
                        space_uri=space.uri,
                        did=did,
                        rev=space.rev,
                        token_hash=token_hash,
                        added_by=invite.did,
                        added_at=now,
                    ),
                )
                await invite_tokens.count_use(tx, token_hash, space.uri)
    return {"spaceUri": admission.space.uri}


async def may_read(db: Reader, token: str, space: Row, now: int) -> bool:
    """Whether the holder of a token may read a space without belonging to it. `now` is Unix ms."""
    found = await invites.living_with_token(db, hash_of(token), space.did)
    invite = _newest(found, space.uri)
    return invite is not None and invite.invite.kind in _READING and _why_over(invite, now) is None


@dataclass(frozen=True, slots=True)
class _Admission:
    space: Row
    invite: Issued
    is_member: bool  # already, or its owner


async def _admit(db: Reader, token_hash: str, did: str, now: int) -> _Admission:
    """Return what a token lets this account into, or raise InvalidInvite."""
    first = await invite_tokens.first_space(db, token_hash)
    if first is None:
        raise InvalidInviteError("there is no such invite")
    owner = parse_at_uri(first).authority
    invite = await _leads_to(db, token_hash, owner)
    space = None if invite is None else await spaces.live(db, invite.invite.space_uri)
    if invite is None or space is None:
        # One that was revoked before the firehose showed it may have no row, but a tombstone.
        if await tombstones.is_token_revoked(db, first, token_hash) or await invites.was_revoked(
            db, token_hash, owner
        ):
            raise InvalidInviteError("this invite was revoked")
        raise InvalidInviteError("there is no such invite")
    if invite.invite.kind not in _JOINING:
        raise InvalidInviteError("this invite is for reading only")
    if did == space.did or await members.is_member(db, space.uri, did):
        return _Admission(space, invite, is_member=True)
    over = _why_over(invite, now)
    if over is not None:
        raise InvalidInviteError(over)
    if await members.count_of_space(db, space.uri) >= MAX_MEMBERS:
        raise InvalidInviteError("the space is full")
    if await members.count_of_account(db, did) >= MAX_JOINED:
        raise InvalidInviteError("you are a member of too many spaces; leave one first")
    return _Admission(space, invite, is_member=False)


async def _leads_to(db: Reader, token_hash: str, owner: str) -> Issued | None:
    """Return the live invite of a token: one, and the same for everybody.

    A hash is public, so strangers can put it into invites to spaces of their own. A token leads
    to spaces of its owner only, also when it is dead, expired or used up there: nobody gets people
    by waiting. Of several, to the one that its owner's repo says was first.
    """
    found = await invites.living_with_token(db, token_hash, owner)
    first = min(found, key=lambda invite: (invite.rev, invite.uri), default=None)
    return first and _newest(found, first.invite.space_uri)


def _newest(found: list[Issued], space_uri: str) -> Issued | None:
    """Return the one that counts of several records with one token in one space."""
    of_space = [invite for invite in found if invite.invite.space_uri == space_uri]
    return max(of_space, key=lambda invite: (invite.rev, invite.uri), default=None)


def _why_over(invite: Issued, now: int) -> str | None:
    expires_at, max_uses = invite.invite.expires_at, invite.invite.max_uses
    if expires_at is not None and expires_at <= now:
        return "this invite has expired"
    if max_uses is not None and invite.used_count >= max_uses:
        return "this invite is used up"
    return None
