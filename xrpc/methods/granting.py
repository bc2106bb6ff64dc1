"""`tools.ozone.verification.grantVerifications`: operators verify in the verifier's name."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from indexer import log
from indexer.lexicon.syntax import format_datetime
from indexer.records import MAX_NAME, InvalidRecord, Row
from indexer.store import audit, verifications
from xrpc.errors import (
    ForbiddenError,
    InvalidRequestError,
    SessionRequiredError,
    UpstreamFailureError,
)
from xrpc.methods import creating
from xrpc.methods.no_session import as_item
from xrpc.methods.views import verification_views
from xrpc.publishing.pds import NewRecord
from xrpc.services import Call, Services

NO_HANDLE = "handle.invalid"  # what stands for the handle of an account whose own does not resolve

Account = tuple[str, str]  # a subject's DID and handle

_log = log.get("granting")


async def grant(services: Services, call: Call) -> dict[str, Any]:
    """`tools.ozone.verification.grantVerifications`: one commit to the verifier's repo.

    Whom the verifier has verified already, under the same handle, is in neither list, as with
    Ozone; nor is an account that the call names again. So a call whose answer was lost may be
    repeated. (What the firehose has not shown within seconds may be granted twice by that, which
    does no harm.) Nobody is asked whether a handle is right: the views tell, by `valid`.

    Without a session of the verifier all that would be written is in `failedVerifications`, each
    with the words of SessionRequired: Ozone's documents name no errors.

    Raises Forbidden for who is no operator, InvalidRequest where there is no verifier, and
    UpstreamFailure if his PDS fails: then nothing is known to be granted.
    """
    issuer = services.settings.verifier
    if call.caller.did not in services.settings.operators:
        raise ForbiddenError("only operators of this service may grant verifications")
    if issuer is None:
        raise InvalidRequestError(
            "this service has no verifier to grant in the name of: its operator sets one"
        )
    wanted, failures = _check(services, call.input["verifications"])
    rows: list[Row] = []
    deadline = call.arrived + creating.ANSWER_WITHIN
    if wanted:
        async with _turn(services, deadline):
            records = await _records(services, issuer, wanted)
            try:
                rows = await _write(services, call, issuer, records)
            except SessionRequiredError as refusal:
                error = as_item(refusal)
                failures += [{"subject": r.value["subject"], "error": error} for r in records]
    return {
        "verifications": await verification_views(services, rows, deadline),
        "failedVerifications": failures,
    }


def _check(
    services: Services, asked: Iterable[Mapping[str, Any]]
) -> tuple[dict[Account, dict[str, Any]], list[dict[str, str]]]:
    """Return the records to write, by account, and what can't be one."""
    collection, now = services.settings.verification_collection, services.now()
    wanted: dict[Account, dict[str, Any]] = {}
    failures: list[dict[str, str]] = []
    for one in asked:
        subject, handle = one["subject"], one["handle"].lower()
        record = {
            "$type": collection,
            "subject": subject,
            "handle": handle,
            "displayName": one["displayName"],
            "createdAt": one.get("createdAt", format_datetime(now)),
        }
        if handle == NO_HANDLE:
            error = f"{NO_HANDLE} is no account's handle; verify it once its handle resolves"
            failures.append({"subject": subject, "error": error})
            continue
        try:
            # It would be kept cut short, and say something else than the repo.
            if len(one["displayName"].encode()) > MAX_NAME:
                raise InvalidRecord(f"displayName: must have at most {MAX_NAME} bytes")
            services.scope.check(collection, record)
        except InvalidRecord as invalid:
            failures.append({"subject": subject, "error": str(invalid)})
        else:
            wanted.setdefault((subject, handle), record)
    return wanted, failures


@asynccontextmanager
async def _turn(services: Services, deadline: float) -> AsyncIterator[None]:
    """Take turns: a grant is awaited in the index before the next one looks who is verified."""
    try:
        async with asyncio.timeout_at(deadline):
            await services.granting.acquire()
    except TimeoutError:
        raise UpstreamFailureError(
            "earlier grants wait for the verifier's PDS; nothing is written, try again"
        ) from None
    try:
        yield
    finally:
        services.granting.release()


async def _records(
    services: Services, issuer: str, wanted: dict[Account, dict[str, Any]]
) -> list[NewRecord]:
    """Return the records to write: none for whom is verified already."""
    known = await verifications.granted(services.db, issuer, [subject for subject, _ in wanted])
    now, collection = services.now(), services.settings.verification_collection
    return [
        NewRecord(issuer, collection, services.tids.next(now), record)
        for account, record in wanted.items()
        if account not in known
    ]


async def _write(
    services: Services, call: Call, issuer: str, records: list[NewRecord]
) -> list[Row]:
    if not records:
        return []
    session = await creating.session_of(services, issuer)
    uris = [record.target.uri for record in records]
    async with services.transaction(call) as tx:
        # First, so that whatever gets written has its who, also if the PDS's answer is lost.
        await audit.write(tx, call.caller.did, "verification.grant", uris, None, services.now())
    rows = await creating.create(services, session, records, call)
    _log.info("verifications.granted", count=len(rows), actor=call.caller.did)
    return rows
