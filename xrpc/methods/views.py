"""A verification as callers see it: what its record says, whether it was revoked, whether it holds.

Sources: the lexicons tools.ozone.verification.defs and app.bsky.graph.verification.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.lexicon.syntax import format_datetime
from indexer.records import Row, Verification
from indexer.store import tombstones
from indexer.store.tombstones import Tombstone, is_revoked
from xrpc.services import Services

ASK_WITHIN = 2.0  # seconds for the handles of a page
ASK_AT_ONCE = 20  # handles


async def verification_views(
    services: Services, rows: Sequence[Row], deadline: float
) -> list[dict[str, Any]]:
    """Return `#verificationView` of each row, in order.

    Handles are asked for until `deadline`, by the event loop's time, but for `ASK_WITHIN` at most.

    Each has one field more than the lexicon names: `valid` says whether the verification holds,
    which is while it is not revoked and the subject's handle is still the one verified. It is
    absent where the handle can't be had in time.
    """
    revoked = [row.uri for row in rows if row.revoked]
    stones = {
        (stone.uri, stone.cid): stone for stone in await tombstones.load(services.db, revoked)
    }
    standing = [row for row in rows if not row.revoked]
    holds = await _holds(services.resolver, {_account(row) for row in standing}, deadline)
    return [
        _view(row, stones.get((row.uri, row.cid)), False if row.revoked else holds[_account(row)])
        for row in rows
    ]


def _view(row: Row, stone: Tombstone | None, valid: bool | None) -> dict[str, Any]:
    said = _fields(row)
    view: dict[str, Any] = {
        "issuer": row.did,
        "uri": row.uri,
        "subject": said.subject,
        "handle": said.handle,
        "displayName": said.display_name,
        "createdAt": format_datetime(said.created_at),
    }
    if stone is not None and is_revoked(stone):
        view["revokedAt"] = format_datetime(stone.created_at)
        view["revokedBy"] = stone.actor
        if stone.reason is not None:
            view["revokeReason"] = stone.reason
    if valid is not None:
        view["valid"] = valid
    return view


def _fields(row: Row) -> Verification:
    assert isinstance(row.fields, Verification)  # noqa: S101 (a row of `verifications`)
    return row.fields


def _account(row: Row) -> tuple[str, str]:
    said = _fields(row)
    return said.subject, said.handle


async def _holds(
    resolver: IdentityResolver, accounts: set[tuple[str, str]], deadline: float
) -> dict[tuple[str, str], bool | None]:
    """Return of each (DID, handle) whether that is its handle now; None where nobody can say."""
    slots = asyncio.Semaphore(ASK_AT_ONCE)
    until = min(asyncio.get_running_loop().time() + ASK_WITHIN, deadline)

    async def ask(did: str, handle: str) -> bool | None:
        try:
            async with asyncio.timeout_at(until), slots:
                return await _is_handle_of(resolver, did, handle)
        except TimeoutError:
            return None

    answers = await asyncio.gather(*(ask(did, handle) for did, handle in accounts))
    return dict(zip(accounts, answers, strict=True))


async def _is_handle_of(resolver: IdentityResolver, did: str, handle: str) -> bool | None:
    try:
        claimed = (await resolver.resolve(did)).handles
        # Of several, the first is the account's; and the handle must lead back to it.
        return claimed[:1] == (handle,) and await resolver.resolve_handle(handle) == did
    except IdentityError as error:
        return None if error.reason == "unreachable" else False
