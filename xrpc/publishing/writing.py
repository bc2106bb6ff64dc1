"""What every write into a repo has in common: tokens that run out, and accounts that move."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from xrpc.publishing.pds import (
    AccountInactiveError,
    PdsError,
    PdsUnavailableError,
    TokenRefusedError,
)
from xrpc.publishing.sessions import Session, Sessions

R = TypeVar("R")

# A commit that fails for one of its records, or a host that does not know how to take many at once.
_ABOUT_RECORDS = frozenset((404, 405, 500, 501))


async def with_session(
    sessions: Sessions,
    resolver: IdentityResolver,
    session: Session,
    pds: str,
    write: Callable[[Session], Awaitable[R]],
) -> R:
    """Write with the session's tokens, and once more with new ones if they have run out.

    Raises `NoSessionError` when a person is needed, else what `write` raises.
    """
    try:
        return await write(session)
    except TokenRefusedError:
        # A host that an account has left takes none of its tokens, new ones neither.
        if await has_moved(resolver, session.did, pds):
            raise
    renewed = await sessions.renew(session, pds)
    try:
        return await write(renewed)
    except TokenRefusedError as refused:
        return await write(await sessions.give_up(renewed, pds, refused))


async def has_moved(resolver: IdentityResolver, did: str, pds: str) -> bool:
    """Whether the account's DID document names another PDS by now."""
    try:
        return (await resolver.resolve(did, refresh=True)).pds not in (None, pds)
    except IdentityError:
        return False


def is_about_records(error: PdsError) -> bool:
    """Whether a commit may have failed for what it writes: all or nothing, and often as a 500."""
    if isinstance(error, PdsUnavailableError):
        return error.status in _ABOUT_RECORDS
    return not isinstance(error, TokenRefusedError | AccountInactiveError)
