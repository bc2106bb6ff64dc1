"""What was just written, into the index by its PDS's own proof, before the firehose shows it.

The answer of a PDS to a write proves nothing. The signed commit and the path in its tree do.
"""

from indexer import log
from indexer.identity.model import IdentityError
from indexer.proof.record import StandingRecord, prove_record
from indexer.proof.verify import Unproven
from indexer.rules.projection import Projection
from indexer.stream.events import Write
from xrpc.publishing.pds import NewRecord, PdsError, PdsUnavailableError
from xrpc.services import Call, Services

_log = log.get("showing")


async def show(services: Services, call: Call, record: NewRecord) -> bool:
    """Index a record as it stands in its repo; return whether its PDS has proven that it does.

    What else the repo holds by then is for the stream, or a resync, to tell.
    """
    try:
        standing = await _standing(services, record)
    except (IdentityError, PdsError) as error:
        _log.info("record.not_shown", uri=record.target.uri, error=str(error))
        return False
    except Unproven as unproven:
        _log.warning("record.not_proven", uri=record.target.uri, reason=unproven.reason)
        return False
    projection = Projection(services.scope, services.settings.relay_host)
    write = Write("create", record.collection, record.rkey, standing.cid, None, standing.block)
    async with services.transaction(call) as tx:
        await projection.show(tx, record.did, standing.rev, write, services.now())
    return True


async def _standing(services: Services, record: NewRecord) -> StandingRecord:
    """Return the record, proven after one refresh of the identity if need be."""
    path = f"{record.collection}/{record.rkey}"
    identity = await services.resolver.resolve(record.did)
    if identity.pds is None:
        raise PdsUnavailableError("the DID document names no PDS")
    car = await services.pds.record_proof(identity.pds, record.target)
    try:
        return prove_record(car, record.did, identity.signing_key, path, services.now())
    except Unproven as unproven:
        if unproven.reason != "bad_signature":
            raise
        fresh = await services.resolver.resolve(record.did, refresh=True)
        return prove_record(car, record.did, fresh.signing_key, path, services.now())
