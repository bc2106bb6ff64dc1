"""What an invite's token lets its holder do: become a member, or read."""

from dataclasses import dataclass
from typing import Any

from indexer.lexicon.syntax import parse_at_uri
from indexer.records import Row
from indexer.store import backfills, invite_tokens, invites, members, spaces, tombstones
from indexer.store.db import Reader
from indexer.store.invites import Issued
from indexer.store.members import Member
from xrpc.errors import InvalidInviteError
from xrpc.methods.perms import perms_of_kind
from xrpc.services import Call, Services
from xrpc.tokens import binding, hash_of

MAX_MEMBERS = 10_000  # of one space
MAX_JOINED = 10_000  # spaces that one account is a member of

_UNKNOWN = "there is no such invite"
_JOINING = frozenset(("join", "read-join"))
_READING = frozenset(("read", "read-join"))


async def redeem(services: Services, call: Call) -> dict[str, Any]:
    """`rsvp.atmo.space.invite.redeem`: the caller is a member then; who was one uses up nothing.

    The use is counted with the membership in one transaction, in one order with revocations.
    Raises InvalidInvite, with why, for a token that lets nobody in.
    """
    did, token = call.caller.did, call.input["token"]
    # First without a turn at writing: most refusals, and those who are in, need none.
    admission = await _admit(services, services.db, token, did)
    if not admission.is_member:
        async with services.transaction(call) as tx:
            admission = await _admit(services, tx, token, did)
            if not admission.is_member:
                space, invite = admission.space, admission.invite
                await members.add(
                    tx,
                    Member(
                        space_uri=space.uri,
                        did=did,
                        rev=space.rev,
                        token_hash=invite.invite.token_hash,
                        added_by=invite.did,
                        added_at=services.now(),
                    ),
                )
                await invite_tokens.count_use(tx, invite.invite.token_hash, space.uri)
    kind = admission.invite.invite.kind
    return {"spaceUri": admission.space.uri, "perms": perms_of_kind(kind), "kind": kind}


async def may_read(db: Reader, token: str, space: Row, now: int) -> bool:
    """Whether the holder of a token may read a space without belonging to it. `now` is Unix ms."""
    leads = await _leads(db, token)
    if leads is None or leads.owner != space.did or leads.only not in (None, space.uri):
        return False
    found = await invites.living_with_token(db, hash_of(token), space.did, space.uri)
    invite = _newest(found, space.uri)
    return invite is not None and invite.invite.kind in _READING and _why_over(invite, now) is None


@dataclass(frozen=True, slots=True)
class _Leads:
    """Where a token can lead: to one space if it is bound, else to the spaces of one owner."""

    owner: str
    first: str  # the space that it is bound to, or that made it this owner's
    is_bound: bool

    @property
    def only(self) -> str | None:
        """The only space that it can lead to; None if there may be others of this owner."""
        return self.first if self.is_bound else None


async def _leads(db: Reader, token: str) -> _Leads | None:
    """Return where a token can lead, the same for everybody; None if it is nobody's here.

    A hash is public, so strangers can put it into invites to spaces of their own. A token never
    leads there, also when it is dead, expired or used up where it belongs: nobody gets people by
    waiting.
    """
    token_hash, bound = hash_of(token), binding(token)
    if bound is not None:
        first = await invite_tokens.space_of(db, token_hash, bound)
    else:
        first = await invite_tokens.owned_space(db, token_hash)
    if first is None:
        return None
    return _Leads(parse_at_uri(first).authority, first, is_bound=bound is not None)


@dataclass(frozen=True, slots=True)
class _Admission:
    space: Row
    invite: Issued
    is_member: bool  # already, with all that the invite gives, or its owner


async def _admit(services: Services, db: Reader, token: str, did: str) -> _Admission:
    """Return what a token lets this account into, or raise InvalidInvite."""
    leads = await _leads(db, token)
    if leads is None:
        raise InvalidInviteError(await _why_nobody_s(services, db, token))
    invite = await _invite_of(db, token, leads)
    space = None if invite is None else await spaces.live(db, invite.invite.space_uri)
    if invite is None or space is None:
        if await _was_revoked(db, token, leads):
            raise InvalidInviteError("this invite was revoked")
        raise InvalidInviteError(_UNKNOWN)
    if invite.invite.kind not in _JOINING:
        raise InvalidInviteError("this invite is for reading only")
    perms = "write" if did == space.did else await members.perms_of(db, space.uri, did)
    if perms == perms_of_kind(invite.invite.kind):
        return _Admission(space, invite, is_member=True)
    over = _why_over(invite, services.now())
    if over is not None:
        raise InvalidInviteError(over)
    if perms is None and await members.count_of_space(db, space.uri) >= MAX_MEMBERS:
        raise InvalidInviteError("the space is full")
    if await members.count_joined(db, did) >= MAX_JOINED:
        raise InvalidInviteError("you are a member of too many spaces; leave one first")
    return _Admission(space, invite, is_member=False)


async def _why_nobody_s(services: Services, db: Reader, token: str) -> str:
    """Say why a token is nobody's, without a word on who claims it."""
    if binding(token) is not None or not await invite_tokens.is_claimed(db, hash_of(token)):
        return _UNKNOWN
    if not await backfills.is_settled(db, services.settings.relay_host):
        return "it is still being found out whose invite this is; try again later"
    return "nobody can tell any more whose invite this is; ask for a new one"


async def _invite_of(db: Reader, token: str, leads: _Leads) -> Issued | None:
    """Return the live invite that a token stands for.

    Of invites to several spaces of one owner, it is one to the space that the owner's repo says
    was first; of several to that, the newest.
    """
    found = await invites.living_with_token(db, hash_of(token), leads.owner, leads.only)
    first = min(found, key=lambda invite: (invite.rev, invite.uri), default=None)
    return first and _newest(found, first.invite.space_uri)


async def _was_revoked(db: Reader, token: str, leads: _Leads) -> bool:
    """Whether a token without a live invite was revoked where it leads."""
    token_hash = hash_of(token)
    if await invites.was_revoked(db, token_hash, leads.owner, leads.only):
        return True
    # One that was revoked before the firehose showed it may have no row, but a tombstone.
    return await tombstones.is_token_revoked(db, leads.first, token_hash)


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
