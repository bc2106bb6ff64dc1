"""Records are written for a caller: into the repo, and awaited in the index.

A deletion may wait in the outbox for days. A creation may not: its caller waits for it, and tries
again himself.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from indexer import log
from indexer.identity.model import IdentityError
from indexer.records import InvalidRecord, Row
from indexer.store import pause, repos
from xrpc.errors import AlreadyExistsError, InvalidRequestError, UpstreamFailureError
from xrpc.methods import showing
from xrpc.methods.no_session import session_required
from xrpc.publishing.pds import Created, NewRecord, PdsError, PdsRefusedError
from xrpc.publishing.sessions import NoSessionError, Session
from xrpc.publishing.writing import has_moved, is_about_records, with_session
from xrpc.services import Call, Services

ANSWER_WITHIN = 8.0  # seconds, from when the call came; a PDS that proxies it gives up after 10
SEEN_WITHIN = 3.0  # seconds of these for its PDS or the firehose to show what was written
LOOK_EVERY = 0.05  # seconds

R = TypeVar("R")

_log = log.get("creating")


async def session_of(services: Services, did: str) -> Session:
    """Return the session to write with; raise SessionRequired, which says what to do, if none."""
    if (paused := await pause.load(services.db)) is not None:
        held = f"nothing is written into repos now ({paused.reason}): `rescind outbox resume`"
        raise session_required(services.settings, held)
    try:
        return await services.sessions.get(did)
    except NoSessionError as reason:
        raise session_required(services.settings, reason) from reason


async def create(
    services: Services, session: Session, records: Sequence[NewRecord], call: Call
) -> list[Row]:
    """Write up to 200 records into the session's repo, as one commit; return their rows.

    Returns when the index has them, so that the caller finds what he wrote, but not later than
    `SEEN_WITHIN` after the PDS has them. The call's token is used up before any is written.

    Raises InvalidRequest for a record that does not fit its lexicon, SessionRequired for a session
    that is refused, AlreadyExists if the repo has a record under a single one's key, and
    UpstreamFailure for all else. If the PDS gave no answer, nobody knows whether the records are
    written: if they are, they will be in the index as any others.
    """
    deadline = call.arrived + ANSWER_WITHIN
    try:
        fields = [services.scope.check(record.collection, record.value) for record in records]
    except InvalidRecord as error:
        raise InvalidRequestError(str(error)) from None
    await services.use_up(call)
    try:
        created = await _within(deadline, _write(services, session, records))
    except NoSessionError as reason:
        raise session_required(services.settings, reason) from reason
    except IdentityError as error:
        raise UpstreamFailureError(
            f"the DID {session.did} can't be resolved now ({error}); nothing is written, try again"
        ) from error
    except PdsRefusedError as error:
        _log.warning("create.refused", repo=session.did, error=str(error))
        raise UpstreamFailureError(f"the PDS refuses to write this: {error}") from error
    except (PdsError, TimeoutError) as error:
        services.resolver.forget(session.did)  # it may live elsewhere by now
        text = str(error) or "it took too long"
        _log.warning("create.failed", repo=session.did, error=text)
        raise UpstreamFailureError(
            f"the PDS did not answer ({text}); nothing is known to be written, try again"
        ) from error
    _log.info("create.written", repo=session.did, count=len(records), rev=created.rev)
    await _in_index(services, call, records, created.rev, deadline)
    return [
        Row(
            uri=record.target.uri,
            did=record.did,
            cid=cid,
            rev=created.rev,
            revoked=False,
            fields=field,
        )
        for record, cid, field in zip(records, created.cids, fields, strict=True)
    ]


async def _write(services: Services, session: Session, records: Sequence[NewRecord]) -> Created:
    pds = await _pds(services, session.did)
    try:
        return await _write_at(services, pds, session, records)
    except PdsError:
        if not await has_moved(services.resolver, session.did, pds):
            raise
        pds = await _pds(services, session.did)
        return await _write_at(services, pds, session, records)


async def _write_at(
    services: Services, pds: str, session: Session, records: Sequence[NewRecord]
) -> Created:
    async def write(current: Session) -> Created:
        return await services.pds.create_records(pds, current.access, records)

    try:
        return await with_session(services.sessions, services.resolver, session, pds, write)
    except PdsError as error:
        if len(records) == 1 and is_about_records(error):
            await _check_absent(services, pds, records[0])
        raise


async def _check_absent(services: Services, pds: str, record: NewRecord) -> None:
    try:
        cid = await services.pds.record_cid(pds, record.target)
    except PdsError:
        return  # then the first error says it better
    if cid is not None:
        raise AlreadyExistsError("the repo has a record with this key")


async def _pds(services: Services, did: str) -> str:
    identity = await services.resolver.resolve(did)
    if identity.pds is None:
        raise InvalidRequestError(f"there is nowhere to write for {did}: {identity.without_pds}")
    return identity.pds


async def _within(deadline: float, work: Coroutine[Any, Any, R]) -> R:
    """Return what the work returns; raise TimeoutError when it is not done by the deadline.

    Unlike `asyncio.timeout_at` this does not wait until a cancelled refresh of a session has
    ended (see `Sessions.renew`): that ends by itself. It does wait if the service ends.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=deadline - asyncio.get_running_loop().time())
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise
    if not task.done():
        task.cancel()
        raise TimeoutError
    return task.result()


async def _in_index(
    services: Services, call: Call, records: Sequence[NewRecord], rev: str, deadline: float
) -> None:
    """Return once the index has this commit's records, or after some time."""
    now = asyncio.get_running_loop().time
    until = min(now() + SEEN_WITHIN, deadline)
    if len(records) == 1:  # of many, the firehose is sooner here than as many proofs
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                if await showing.show(services, call, records[0]):
                    return
    did = records[0].did
    while now() < until:
        repo = (await repos.load(services.db, [did])).get(did)
        if repo is not None and repo.rev is not None and repo.rev >= rev:
            return
        await asyncio.sleep(LOOK_EVERY)
