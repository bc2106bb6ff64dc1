"""DIDs and handles to what they stand for, from PLC, `did:web` hosts and DNS, cached.

Every answer here comes from a host that a stranger may have named, so the client must be one of
`guard.guarded_client`. Sources: atproto.com/specs/{did,handle}, w3c-ccg.github.io/did-method-web.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import httpx

from indexer import log
from indexer.identity.cache import Cache, NotAsked
from indexer.identity.did_document import parse_document
from indexer.identity.model import Identity, IdentityError, Reason
from indexer.lexicon.syntax import is_did, is_handle
from indexer.net.guard import FetchError
from indexer.net.requests import fetch, fetch_json

FRESH = 600.0  # seconds that a document is taken as it is; an #identity event ends it earlier
STALE = 86_400.0  # seconds that it may serve on while its host does not answer
FRESH_HANDLE = 60.0  # seconds
DEADLINE = 3.0  # seconds for one document, from when it is asked for
TURN = 1.0  # seconds to wait for a free slot; a call may need two documents, and has 8 in all
HANDLE_DEADLINE = 3.0  # seconds for each way to resolve a handle
MAX_DOCUMENT = 65_536  # bytes
MAX_WELL_KNOWN = 2_048  # bytes: a DID is no longer
MAX_CACHED = 20_000  # DIDs, and as many handles
SLOTS = 32  # requests at once to PLC, and as many to did:web hosts, besides those of shares

_log = log.get("identity")

# Sources: RFC 6761, RFC 7686, and the list of atproto.com/specs/handle; `test` is for development.
_RESERVED = {"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion"}
_PLC = re.compile(r"did:plc:[a-z2-7]{24}")
_LOCAL_WEB = re.compile(r"did:web:localhost(?:%3A([0-9]{1,5}))?")


class IdentityResolver:
    """Resolves and remembers; safe to use from any number of tasks of one event loop.

    A document is fresh for `FRESH` seconds. When it cannot be had again because its host does not
    answer, the old one serves for up to `STALE` seconds; a host that answers that there is none
    ends it at once. However many wait for one DID, one request is made.

    `plc_url` and `handle_resolver` (a PDS or AppView to ask instead of DNS, for networks whose
    names are not in DNS) are base URLs. `names` asks the DNS; None is the system's way.
    `size` is how many DIDs, and how many handles, are kept. `clock` gives seconds, never back.
    """

    def __init__(
        self,
        plc_url: str,
        client: httpx.AsyncClient,
        *,
        allow_private: bool = False,
        handle_resolver: str | None = None,
        names: dns.asyncresolver.Resolver | None = None,
        size: int = MAX_CACHED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plc_url = plc_url.rstrip("/")
        self._client = client
        self._allow_private = allow_private
        self._handle_resolver = handle_resolver and handle_resolver.rstrip("/")
        self._names = names
        self._slots = _Slots(SLOTS)
        self._plc_failure: str | None = None  # the last one that the log was told
        self._identities: Cache[Identity] = Cache(size, FRESH, STALE, clock)
        self._handles: Cache[str] = Cache(size, FRESH_HANDLE, 0.0, clock)

    async def resolve(self, did: str, *, refresh: bool = False) -> Identity:
        """Return what the DID's document says, or raise IdentityError.

        `refresh` asks again although the answer is fresh, at most once in
        `identity_cache.REFRESH_PAUSE` seconds for one DID; in between, the remembered answer is
        given.
        """
        self._check(did)
        return await self._identities.get(did, self._ask_in_turn, refresh=refresh)

    def share(self, size: int) -> "Share":
        """Return a part of this for one who asks for many DIDs.

        It makes `size` requests at once to PLC, and as many to did:web hosts, which keep no other
        caller waiting, nor does any other caller keep these.
        """
        return Share(self, size)

    async def resolve_handle(self, handle: str) -> str:
        """Return the DID that the handle names and that claims the handle, or raise IdentityError.

        The handle may be in any case. Its DNS record decides; without one, its well-known document.
        """
        handle = handle.lower()
        top = handle.rpartition(".")[2]
        reserved = top in _RESERVED or (top == "test" and not self._allow_private)
        if not is_handle(handle) or reserved:
            raise IdentityError("invalid_handle")
        return await self._handles.get(handle, self._ask_handle)

    def forget(self, did: str) -> None:
        """Drop what is known of the DID; an answer that is under way will not be remembered."""
        self._identities.forget(did)

    async def aclose(self) -> None:
        """End the requests under way; those who wait for them are cancelled."""
        await self._identities.aclose()
        await self._handles.aclose()

    def _check(self, did: str) -> None:
        if did not in self._identities:
            self._document_url(did)  # what cannot be asked for takes no place in the cache

    def _document_url(self, did: str) -> str:
        if not is_did(did):
            raise IdentityError("invalid_did")
        method, _, name = did.removeprefix("did:").partition(":")
        if method == "plc":
            # Nothing but this alphabet may get into the URL: `..` or `?` would change its path.
            if not _PLC.fullmatch(did):
                raise IdentityError("invalid_did")
            return f"{self._plc_url}/{did}"
        if method != "web":
            raise IdentityError("unsupported_method")
        local = _LOCAL_WEB.fullmatch(did)
        if local and self._allow_private:
            port = f":{local[1]}" if local[1] else ""
            return f"http://localhost{port}/.well-known/did.json"
        # atproto takes host names only: no port, no path. A handle is what a host name looks like.
        if not is_handle(name):
            raise IdentityError("invalid_did")
        return f"https://{name}/.well-known/did.json"

    async def _ask_in_turn(self, did: str) -> Identity:
        async with _turn(self._slots.of(did)):
            return await self._ask_did(did)

    async def _ask_did(self, did: str) -> Identity:
        url = self._document_url(did)
        try:
            document = await fetch_json(
                self._client, url, max_bytes=MAX_DOCUMENT, deadline=DEADLINE
            )
        except FetchError as error:
            if did.startswith("did:plc:"):
                self._tell_of_plc(error)
            raise IdentityError(_reason(error)) from error
        return parse_document(did, document, allow_private=self._allow_private)

    def _tell_of_plc(self, error: FetchError) -> None:
        """Log why the directory, which the operator chose, is not reached; the same cause once."""
        if error.reason == "unreachable" and str(error) != self._plc_failure:
            self._plc_failure = str(error)
            _log.warning("plc.failed", plc=self._plc_url, error=self._plc_failure)

    async def _ask_handle(self, handle: str) -> str:
        did = await (self._did_by_resolver if self._handle_resolver else self._did_by_dns)(handle)
        if did is None:
            did = await self._did_by_well_known(handle)
        identity = await self.resolve(did)
        if handle not in identity.handles:
            # It may have changed its handle a moment ago.
            identity = await self.resolve(did, refresh=True)
        if handle not in identity.handles:
            raise IdentityError("handle_mismatch")
        return did

    async def _did_by_dns(self, handle: str) -> str | None:
        """Return the DID of the one `did=` record, or None if there is none."""
        try:
            self._names = self._names or dns.asyncresolver.Resolver()
            answer = await self._names.resolve(
                f"_atproto.{handle}.",
                dns.rdatatype.TXT,
                lifetime=HANDLE_DEADLINE,
                raise_on_no_answer=False,
            )
        except (dns.exception.DNSException, OSError, EOFError, ValueError):
            return None  # the other way may still answer
        texts = [b"".join(record.strings) for record in answer]
        found = [text for text in texts if text.startswith(b"did=")]
        if len(found) > 1:
            raise IdentityError("not_found")  # which one is meant, nobody can say
        return found[0].removeprefix(b"did=").decode("ascii", "replace") if found else None

    async def _did_by_resolver(self, handle: str) -> str | None:
        url = f"{self._handle_resolver}/xrpc/com.atproto.identity.resolveHandle?handle={handle}"
        try:
            answer = await fetch_json(
                self._client, url, max_bytes=MAX_DOCUMENT, deadline=HANDLE_DEADLINE
            )
        except FetchError:
            return None
        did = answer.get("did") if isinstance(answer, dict) else None
        return did if isinstance(did, str) else None

    async def _did_by_well_known(self, handle: str) -> str:
        url = f"https://{handle}/.well-known/atproto-did"
        try:
            async with _turn(self._slots.web):
                body = await fetch(
                    self._client, url, max_bytes=MAX_WELL_KNOWN, deadline=HANDLE_DEADLINE
                )
        except FetchError as error:
            raise IdentityError(_reason(error)) from error
        return body.strip().decode("ascii", "replace")


class Share:
    """A part of an `IdentityResolver`, see `IdentityResolver.share`."""

    def __init__(self, resolver: IdentityResolver, size: int) -> None:
        self._resolver = resolver
        self._slots = _Slots(size)

    def known(self, did: str) -> Identity | None:
        """Return what the DID's document says if that is known for now, else None."""
        return self._resolver._identities.known(did)

    async def resolve(self, did: str, *, refresh: bool = False) -> Identity:
        """Resolve as `IdentityResolver` does, but wait for a turn for as long as that takes."""
        resolver = self._resolver
        resolver._check(did)
        # The turn comes before the question: else another caller of this DID would join a question
        # that waits here.
        async with self._slots.of(did):
            return await resolver._identities.get(did, resolver._ask_did, refresh=refresh)


class _Slots:
    """Requests at once: to the directory, and, apart, to hosts of strangers' choice.

    However slow these are, they never keep the directory waiting.
    """

    def __init__(self, size: int) -> None:
        self.plc = asyncio.Semaphore(size)
        self.web = asyncio.Semaphore(size)

    def of(self, did: str) -> asyncio.Semaphore:
        return self.plc if did.startswith("did:plc:") else self.web


@asynccontextmanager
async def _turn(slots: asyncio.Semaphore) -> AsyncIterator[None]:
    """Hold a slot, or raise NotAsked if none gets free in time: no fault of the host's."""
    try:
        async with asyncio.timeout(TURN):
            await slots.acquire()
    except TimeoutError:
        raise NotAsked from None
    try:
        yield
    finally:
        slots.release()


def _reason(error: FetchError) -> Reason:
    if error.reason == "bad_status" and error.status in {404, 410}:
        return "not_found"  # PLC says 410 of a DID that was ended
    return "bad_document" if error.reason in {"bad_body", "too_large"} else "unreachable"
