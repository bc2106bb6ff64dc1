"""DIDs and handles to what they stand for, from PLC, `did:web` hosts and DNS, cached.

Every answer here comes from a host that a stranger may have named, so the client must be one of
`net.guarded_client`. Sources: atproto.com/specs/{did,handle}, w3c-ccg.github.io/did-method-web.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import httpx
from atproto_core.did_doc import DidDocument
from atproto_crypto.did import (
    format_did_key,
    get_did_key,
    parse_did_key,
)

from indexer.net import FetchError, fetch, fetch_json
from indexer.syntax import is_did, is_handle

FRESH = 600.0  # seconds that a document is taken as it is; an #identity event ends it earlier
STALE = 86_400.0  # seconds that it may serve on while its host does not answer
FRESH_HANDLE = 60.0  # seconds
FAILURE = 30.0  # seconds that a failure is remembered
REFRESH_PAUSE = 30.0  # seconds between two forced refreshes of one DID
DEADLINE = 3.0  # seconds for one document; a call may need two, and has 8 in all
HANDLE_DEADLINE = 3.0  # seconds for each way to resolve a handle
MAX_DOCUMENT = 65_536  # bytes
MAX_WELL_KNOWN = 2_048  # bytes: a DID is no longer
MAX_HANDLES = 32  # of one document that are kept
MAX_MULTIBASE = 256  # characters; base58 decodes in quadratic time
MAX_CACHED = 20_000  # DIDs, and as many handles
MAX_ASKING = 1_000  # questions at once; beyond that nobody is asked
SLOTS = 32  # requests at once to PLC, and as many to did:web hosts

Reason = Literal[
    "invalid_did",
    "invalid_handle",  # not a handle, or of a domain that is not on the Internet
    "unsupported_method",  # neither did:plc nor did:web
    "not_found",
    "bad_document",  # not a DID document, or of another DID
    "unreachable",  # may be answered later
    "handle_mismatch",  # the DID's document does not claim the handle
]

# Sources: RFC 6761, RFC 7686, and the list of atproto.com/specs/handle; `test` is for development.
_RESERVED = {"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion"}
_PLC = re.compile(r"did:plc:[a-z2-7]{24}")
_LOCAL_WEB = re.compile(r"did:web:localhost(?:%3A([0-9]{1,5}))?")
_ORIGIN = re.compile(r"(https?)://([A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?)/?")

V = TypeVar("V")


class IdentityError(Exception):
    """A DID or handle that stands for nothing usable now, with a `reason` from a closed set."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """What the document of a DID says.

    `signing_key` is a usable did:key, compressed; None where the document has none.
    `pds` is an origin such as `https://pds.example`; None where there is none that we may call.
    `handles` are claims in lower case, in the document's order, not verified from their side.
    """

    did: str
    signing_key: str | None
    pds: str | None
    handles: tuple[str, ...]


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
        # Apart, so that slow hosts of strangers' choice never keep the directory waiting.
        self._plc_slots = asyncio.Semaphore(SLOTS)
        self._web_slots = asyncio.Semaphore(SLOTS)
        self._identities = _Cache(self._ask_did, size, FRESH, STALE, clock)
        self._handles = _Cache(self._ask_handle, size, FRESH_HANDLE, 0.0, clock)

    async def resolve(self, did: str, *, refresh: bool = False) -> Identity:
        """Return what the DID's document says, or raise IdentityError.

        `refresh` asks again although the answer is fresh, at most once in `REFRESH_PAUSE` seconds
        for one DID; in between, the remembered answer is given.
        """
        self._document_url(did)  # what cannot be asked for takes no place in the cache
        return await self._identities.get(did, refresh)

    async def resolve_handle(self, handle: str) -> str:
        """Return the DID that the handle names and that claims the handle, or raise IdentityError.

        The handle may be in any case. Its DNS record decides; without one, its well-known document.
        """
        handle = handle.lower()
        top = handle.rpartition(".")[2]
        reserved = top in _RESERVED or (top == "test" and not self._allow_private)
        if not is_handle(handle) or reserved:
            raise IdentityError("invalid_handle")
        return await self._handles.get(handle, refresh=False)

    def forget(self, did: str) -> None:
        """Drop what is known of the DID; an answer that is under way will not be remembered."""
        self._identities.forget(did)

    async def aclose(self) -> None:
        """End the requests under way; those who wait for them are cancelled."""
        await self._identities.aclose()
        await self._handles.aclose()

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

    async def _ask_did(self, did: str) -> Identity:
        url = self._document_url(did)
        slots = self._plc_slots if did.startswith("did:plc:") else self._web_slots
        try:
            async with asyncio.timeout(DEADLINE), slots:
                document = await fetch_json(
                    self._client, url, max_bytes=MAX_DOCUMENT, deadline=DEADLINE
                )
        except TimeoutError:
            raise IdentityError("unreachable") from None
        except FetchError as error:
            raise IdentityError(_reason(error)) from error
        return parse_document(did, document, allow_private=self._allow_private)

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
            async with asyncio.timeout(HANDLE_DEADLINE), self._web_slots:
                body = await fetch(
                    self._client, url, max_bytes=MAX_WELL_KNOWN, deadline=HANDLE_DEADLINE
                )
        except TimeoutError:
            raise IdentityError("unreachable") from None
        except FetchError as error:
            raise IdentityError(_reason(error)) from error
        return body.strip().decode("ascii", "replace")


def _reason(error: FetchError) -> Reason:
    if error.reason == "bad_status" and error.status in {404, 410}:
        return "not_found"  # PLC says 410 of a DID that was ended
    return "bad_document" if error.reason in {"bad_body", "too_large"} else "unreachable"


def parse_document(did: str, document: object, *, allow_private: bool) -> Identity:
    """Return what this DID document says of the DID, or raise IdentityError("bad_document")."""
    try:
        parsed = DidDocument.from_dict(document)
        identity = Identity(
            did=parsed.id,
            signing_key=_signing_key(parsed),
            pds=_origin(parsed.get_pds_endpoint(), allow_private),
            handles=_handles(parsed.also_known_as or []),
        )
    except Exception as error:  # the SDK leaks KeyError, TypeError, pydantic's and more
        raise IdentityError("bad_document") from error
    if identity.did != did:
        raise IdentityError("bad_document")
    return identity


def _signing_key(document: DidDocument) -> str | None:
    for method in document.verification_method or []:
        multibase = method.public_key_multibase
        ours = method.id in {"#atproto", f"{document.id}#atproto"}
        if not ours or method.controller != document.id or not multibase:
            continue
        if len(multibase) > MAX_MULTIBASE:
            return None
        try:
            key = get_did_key(method.type, multibase)
            # There and back: what is given out is on its curve, and written in one way only.
            parsed = parse_did_key(key) if key else None
        except Exception:  # as above; a document without a usable key still names a PDS
            return None
        return format_did_key(parsed.jwt_alg, parsed.key_bytes) if parsed else None
    return None


def _origin(url: object, allow_private: bool) -> str | None:
    """Return the URL without its slash if it is scheme, host and port alone, else None."""
    match = _ORIGIN.fullmatch(url) if isinstance(url, str) else None
    if match is None or (match[1] == "http" and not allow_private):
        return None
    return f"{match[1]}://{match[2].lower()}"


def _handles(names: list[str]) -> tuple[str, ...]:
    claims = (name.removeprefix("at://").lower() for name in names if name.startswith("at://"))
    return tuple(claim for claim in claims if is_handle(claim))[:MAX_HANDLES]


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V | None  # None: a failure
    failure: Reason | None
    asked_at: float  # seconds of the clock; when the value was got
    due_at: float  # from then on it is asked for again
    forced_at: float  # the last forced refresh; -inf if none

    def open(self) -> V:
        if self.value is None:
            raise IdentityError(self.failure or "unreachable")
        return self.value


class _Cache(Generic[V]):
    """The last answers to one question, and one request for however many ask it at once."""

    def __init__(
        self,
        ask: Callable[[str], Awaitable[V]],
        size: int,
        fresh: float,
        stale: float,
        clock: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._size = size
        self._fresh = fresh
        self._stale = stale
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()  # the least used first
        self._flights: dict[str, asyncio.Task[_Entry[V]]] = {}  # whose answers will be kept
        self._tasks: set[asyncio.Task[_Entry[V]]] = set()  # these, and the forgotten ones

    async def get(self, key: str, refresh: bool) -> V:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            now = self._clock()
            if refresh and now - entry.forced_at >= REFRESH_PAUSE:
                self._entries[key] = replace(entry, forced_at=now)
            elif now < entry.due_at:
                return entry.open()
        flight = self._flights.get(key)
        if flight is None:
            # Callers may leave while their question is still under way.
            if len(self._tasks) >= MAX_ASKING:
                raise IdentityError("unreachable")
            flight = self._flights[key] = asyncio.create_task(self._fly(key))
            self._tasks.add(flight)
            flight.add_done_callback(self._tasks.discard)
        # Shielded: who leaves must not take the answer from those who stay.
        return (await asyncio.shield(flight)).open()

    async def _fly(self, key: str) -> _Entry[V]:
        """Ask, remember unless the key was forgotten meanwhile, and return; failures too."""
        failure: Reason | None = None
        value: V | None = None
        try:
            try:
                value = await self._ask(key)
            except IdentityError as error:
                failure = error.reason
            old = self._entries.get(key)
            entry = self._entry(value, failure, old)
            if self._flights.get(key) is asyncio.current_task():
                self._entries[key] = entry
                self._entries.move_to_end(key)
                if len(self._entries) > self._size:
                    self._entries.popitem(last=False)
            return entry
        finally:
            if self._flights.get(key) is asyncio.current_task():
                del self._flights[key]

    def _entry(self, value: V | None, failure: Reason | None, old: _Entry[V] | None) -> _Entry[V]:
        now = self._clock()
        if (
            failure == "unreachable"
            and old is not None
            and old.value is not None
            and now - old.asked_at < self._stale
        ):
            return replace(old, due_at=now + FAILURE)
        due_at = now + (self._fresh if failure is None else FAILURE)
        return _Entry(value, failure, now, due_at, old.forced_at if old else float("-inf"))

    def forget(self, key: str) -> None:
        self._entries.pop(key, None)
        self._flights.pop(key, None)

    async def aclose(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
