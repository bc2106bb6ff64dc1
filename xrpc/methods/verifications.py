"""`tools.ozone.verification.revokeVerifications`; its neighbours are `granting` and `listing`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from indexer import log
from indexer.identity.model import IdentityError
from indexer.journal.lines import Entry
from indexer.lexicon.syntax import is_did, parse_at_uri
from indexer.rules import slice as slices
from indexer.store import audit, outbox, pause, tombstones, verifications
from indexer.store.db import Transaction
from indexer.store.tombstones import Tombstone, is_revoked
from xrpc.auth.callers import Caller
from xrpc.methods.no_session import as_item, session_required
from xrpc.publishing.pds import PdsError, Target
from xrpc.services import Call, Services

ANSWER_WITHIN = 8.0  # seconds; a PDS that proxies the call gives up after 10
ASK_WITHIN = 4.0  # seconds of these for handles, and for repos of records not indexed yet
ASK_AT_ONCE = 10  # of either

T = TypeVar("T")
R = TypeVar("R")

_log = log.get("verifications")


async def revoke(services: Services, call: Call) -> dict[str, Any]:
    """`tools.ozone.verification.revokeVerifications`: gone from the repos, or why not (yet).

    `revokedVerifications` are those that their repo acknowledged as gone. All others are in
    `failedRevocations`; with `PublishPending` or `PublishBlocked` they are revoked here.
    """
    deadline = call.arrived + ANSWER_WITHIN
    ask_until = call.arrived + ASK_WITHIN
    spellings = list(dict.fromkeys(call.input["uris"]))
    owners = await _owners(services, spellings, ask_until)
    failures: dict[str, str] = {}  # by the caller's spelling
    asked: dict[str, str] = {}  # canonical URI to the caller's spelling
    targets: dict[str, Target] = {}
    for spelling in spellings:
        try:
            target = await _target(services, call.caller, spelling, owners)
        except _Failed as failed:
            failures[spelling] = str(failed)
        else:
            # Two spellings of one record are one revocation, answered under the first.
            asked.setdefault(target.uri, spelling)
            targets.setdefault(target.uri, target)
    seen, unseen_failures = await _seen(services, targets, ask_until)
    failures |= {asked[uri]: text for uri, text in unseen_failures.items()}
    wanted = [target for uri, target in targets.items() if uri not in unseen_failures]
    now = services.now()
    uris = [target.uri for target in wanted]

    async def lay(tx: Transaction) -> list[Tombstone]:
        await _lay_tombstones(
            tx, wanted, seen, call.caller.did, call.input.get("revokeReason"), now
        )
        return [stone for stone in await tombstones.load(tx, uris) if is_revoked(stone)]

    stones = await services.write(call, lay)
    # Also what was revoked before: who asks again may have had no answer the first time.
    await services.journal.keep(Entry.of(stone) for stone in stones)
    if uris:
        _log.info("verifications.revoked", count=len(uris), actor=call.caller.did)
    await services.publisher.publish(
        sorted({target.did for target in wanted}), deadline - asyncio.get_running_loop().time()
    )
    deletions = await outbox.load(services.db, uris)
    paused = await pause.load(services.db)
    held_up = "the PDS has not answered yet" if paused is None else "publishing is paused here"
    revoked = []
    for uri in uris:
        deletion = deletions[uri]
        match deletion.state:
            case "sent" | "confirmed":
                revoked.append(asked[uri])
            case "blocked":
                refusal = session_required(services.settings, deletion.error)
                failures[asked[uri]] = (
                    "PublishBlocked: revoked here, but not deleted from the repo: "
                    f"{as_item(refusal)}"
                )
            case _:
                failures[asked[uri]] = (
                    "PublishPending: revoked here, and its deletion from the repo is on its way: "
                    f"{deletion.error or held_up}; ask again to see"
                )
    return {
        "revokedVerifications": revoked,
        "failedRevocations": [{"uri": uri, "error": text} for uri, text in failures.items()],
    }


class _Failed(Exception):
    """Why one URI is not revoked, with what to do about it."""


class _Untold(_Failed):
    """Nobody who knows could be asked in time."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A record as it stood when the call came."""

    cid: str
    rev: str  # of the record, or of its repo just before
    in_repo: bool = True  # its repo has it; else it was in the index, and may be gone since


async def _owners(
    services: Services, uris: Iterable[str], deadline: float
) -> dict[str, str | _Failed]:
    """Return the DIDs of those authorities that are handles. The others wait for nobody."""
    authorities = dict.fromkeys(parse_at_uri(uri).authority for uri in uris)
    handles = [authority for authority in authorities if not is_did(authority)]

    async def ask(handle: str) -> str:
        try:
            return await services.resolver.resolve_handle(handle)
        except IdentityError:
            raise _Failed(
                "HandleNotResolved: the handle leads to no account; name the issuer by its DID"
            ) from None

    return dict(zip(handles, await _each(handles, ask, deadline), strict=True))


async def _target(
    services: Services, caller: Caller, spelling: str, owners: dict[str, str | _Failed]
) -> Target:
    """Return the record that a URI names, if the caller may act for its issuer."""
    parts = parse_at_uri(spelling)
    expected = services.settings.verification_collection
    if parts.collection != expected:
        raise _Failed(f"NotAVerification: name a record of {expected}")
    if parts.rkey is None:
        raise _Failed("NotAVerification: the URI has no record key; name one record")
    did = owners.get(parts.authority, parts.authority)
    if isinstance(did, _Failed):
        raise did
    if not await _may_act_for(services, caller, did):
        raise _Failed(
            "Forbidden: you may not revoke what this issuer granted; "
            "the issuer can, or an operator if Rescind holds a session for it"
        )
    return Target(str(replace(parts, authority=did)), did, expected, parts.rkey)


async def _may_act_for(services: Services, caller: Caller, issuer: str) -> bool:
    if caller.did == issuer:
        return True
    if caller.did not in services.settings.operators:
        return False
    return issuer == services.settings.verifier or await services.sessions.exists(issuer)


async def _seen(
    services: Services, targets: dict[str, Target], deadline: float
) -> tuple[dict[str, _Seen | None], dict[str, str]]:
    """Look for the records in the index, and ask the repos for those that are not live there.

    Returns what is found, by URI (None: it was revoked before, and whether a new one stands there
    can't be told now), and for the others why they can't be revoked.
    """
    live = {
        row.uri: _Seen(row.cid, row.rev, in_repo=False)
        for row in await verifications.load(services.db, targets)
        if not row.revoked
    }
    revoked = {
        stone.uri
        for stone in await tombstones.load(services.db, targets)
        if stone.cause == "revoked"
    }
    deletions = await outbox.load(services.db, targets)
    under_way = {uri for uri, row in deletions.items() if row.state in ("pending", "blocked")}
    # What was revoked and published is asked for too: a new grant may stand at that URI by now.
    unseen = [target for uri, target in targets.items() if uri not in live.keys() | under_way]

    async def ask(target: Target) -> _Seen:
        try:
            identity = await services.resolver.resolve(target.did)
            if (pds := identity.pds) is None:
                raise _Failed(f"NotFound: the index has no such record, and {identity.without_pds}")
            # The rev first: a version that is written after it may be a new grant.
            rev = await services.pds.latest_rev(pds, target.did)
            cid = await services.pds.record_cid(pds, target)
        except (IdentityError, PdsError) as error:
            raise _Untold(
                "RepoUnavailable: the index has no such record, and its repo can't be asked now "
                f"({error}); try again later"
            ) from error
        if cid is None:
            raise _Failed("NotFound: neither the index nor the repo has such a record")
        return _Seen(cid, rev)

    seen: dict[str, _Seen | None] = {**live}
    failures: dict[str, str] = {}
    for target, answer in zip(unseen, await _each(unseen, ask, deadline), strict=True):
        if isinstance(answer, _Seen):
            seen[target.uri] = answer
        elif target.uri not in revoked:
            failures[target.uri] = str(answer)
        elif isinstance(answer, _Untold):
            if await services.sessions.is_usable(services.db, target.did):
                seen[target.uri] = None
            else:  # what is maybe long gone would be said to wait for a login
                failures[target.uri] = str(answer)
    return seen, failures


async def _each(
    items: Sequence[T], ask: Callable[[T], Awaitable[R]], deadline: float
) -> list[R | _Failed]:
    """Ask about each item, a few at once; what is not answered by the deadline has failed."""
    slots = asyncio.Semaphore(ASK_AT_ONCE)

    async def answer(item: T) -> R | _Failed:
        try:
            async with asyncio.timeout_at(deadline), slots:
                return await ask(item)
        except _Failed as failed:
            return failed
        except TimeoutError:
            return _Untold("RepoUnavailable: what it takes was not answered in time; try again")

    return await asyncio.gather(*map(answer, items))


async def _lay_tombstones(
    tx: Transaction,
    targets: Iterable[Target],
    seen: Mapping[str, _Seen | None],
    actor: str,
    reason: str | None,
    now: int,
) -> None:
    """Revoke each record, and ask for its deletion unless that is done."""
    targets = list(targets)
    part = await slices.load(tx, {t.did for t in targets}, [t.uri for t in targets])
    fresh: list[str] = []
    for target in targets:
        row = part.rows.get(target.uri)
        found = seen.get(target.uri)
        stones = part.tombstones.get(target.uri, {})
        if row is not None and not row.revoked:
            cid, rev = row.cid, row.rev
        elif found is not None and not is_revoked(stones.get(found.cid)):
            cid, rev = found.cid, found.rev
        else:
            # Revoked already. What was put back, what may have been, or what a person dropped, is
            # asked for anew.
            state, record_rev = part.deletions.get(target.uri, ("dropped", ""))
            if found is not None and found.in_repo:
                part.publish(target.uri, found.rev)
            elif state == "dropped" or (target.uri in seen and found is None):
                # What deleted the version before, and may be seen late, does not delete this one.
                part.publish(target.uri, max(record_rev, part.buried_up_to(target.uri)))
            continue
        part.put_repo(part.repo(target.did))
        part.bury(
            Tombstone(
                uri=target.uri,
                cid=cid,
                kind="verification",
                did=target.did,
                rev=rev,
                cause="revoked",
                actor=actor,
                reason=reason,
                created_at=now,
            )
        )
        if row is not None:
            part.put_row(row._replace(revoked=True))
        part.publish(target.uri, rev)
        fresh.append(target.uri)
    await slices.save(tx, part, now)
    await outbox.retry(tx, [target.uri for target in targets], now)
    await audit.write(tx, actor, "verification.revoke", fresh, reason, now)
