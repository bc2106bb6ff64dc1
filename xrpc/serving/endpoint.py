"""The life of a call: guard clauses in order, the method, and an answer whatever happens.

Source: atproto.com/specs/xrpc. A method is a name in `methods`; whether it is a query or a
procedure, and what goes in and out, is said by its lexicon document.
"""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from indexer import log
from indexer.lexicon.interpreter import LexiconError, Lexicons
from indexer.lexicon.strict_json import parse_json
from indexer.store import repos
from xrpc.auth.callers import NOBODY, Caller, ServiceAuth
from xrpc.errors import (
    InternalServerError,
    InvalidRequestError,
    MethodNotAllowedError,
    MethodNotImplementedError,
    NotEnoughResourcesError,
    PayloadTooLargeError,
    UpstreamTimeoutError,
    XrpcError,
)
from xrpc.methods.table import METHODS
from xrpc.services import Call, Services
from xrpc.serving.addresses import Addresses
from xrpc.serving.coding import Decoder
from xrpc.serving.counts import Counts
from xrpc.serving.limits import Bucket, Limits

BODY_WITHIN = 10.0  # seconds for a body to arrive whole
REPO_REV = "atproto-repo-rev"
NO_CURSOR = ("cursor", "")
NOT_CACHED = {"cache-control": "no-store"}
UNKNOWN = "unknown"  # how calls of methods that do not exist are counted

_log = log.get("xrpc")


class Endpoint:
    """Where every method is called. `counts` is told of each answer."""

    def __init__(
        self, services: Services, auth: ServiceAuth, lexicons: Lexicons, counts: Counts
    ) -> None:
        self._services = services
        self._settings = services.settings
        self._auth = auth
        self._lexicons = lexicons
        self._counts = counts
        self._limits = Limits(services.settings)
        self._addresses = Addresses(services.settings.trusted_proxies)
        self._under_way = 0
        self._receiving = 0  # of these: they wait for their clients, and cost no more than memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call, within the time that calls may take."""
        request, nsid = Request(scope, receive), scope["path_params"]["nsid"]
        arrived = asyncio.get_running_loop().time()
        self._under_way += 1
        try:
            response = await self._answer(request, nsid, arrived)
        finally:
            self._under_way -= 1
        seconds = asyncio.get_running_loop().time() - arrived
        self._counts.called(nsid if nsid in METHODS else UNKNOWN, response.status_code, seconds)
        response.headers.update(NOT_CACHED)  # most answers are for their caller's eyes only
        await response(scope, receive, send)

    async def _answer(self, request: Request, nsid: str, arrived: float) -> Response:
        """Turn whatever is raised into an answer. Our own fault is logged whole, and not told."""
        within = asyncio.timeout(self._settings.request_timeout)
        try:
            self._check_room()
            async with within:
                return await self._call(request, nsid, arrived)
        except XrpcError as error:
            return error_answer(error)
        except Exception:
            if within.expired():
                late = f"this took more than {self._settings.request_timeout:g} s and was given up"
                return error_answer(UpstreamTimeoutError(late))
            _log.exception("request.failed", method=nsid)
            hidden = InternalServerError("something went wrong here; the operator's log says what")
            return error_answer(hidden)

    async def _call(self, request: Request, nsid: str, arrived: float) -> Response:
        method = METHODS.get(nsid)
        if method is None:
            raise MethodNotImplementedError("this service has no such method")
        verb = "POST" if self._is_procedure(nsid) else "GET"
        if request.method != verb:
            raise MethodNotAllowedError(f"this method is called with {verb}", allow=verb)
        self._check_lengths(request)
        # Two headers are one with two tokens (RFC 9110, section 5.3), and as such they are refused.
        authorizations = request.headers.getlist("authorization")
        address = self._address(request)
        now = self._services.clock()
        with self._limits.turn(address, now) as turn:
            if not authorizations and method.is_open:
                caller, bucket = NOBODY, turn.call_openly()
            else:
                caller = await self._auth.authenticate(
                    ", ".join(authorizations), nsid, turn.admit, turn.call,
                    is_procedure=self._is_procedure(nsid),
                )  # fmt: skip
                bucket = turn.bucket
            return await self._run(request, nsid, caller, bucket, arrived)

    async def _run(
        self, request: Request, nsid: str, caller: Caller, bucket: Bucket, arrived: float
    ) -> Response:
        """Run the method for a caller who may call it."""
        headers = bucket.headers()
        is_procedure = self._is_procedure(nsid)
        if not is_procedure:
            # Before the query looks: its answer has at least what was there at this revision.
            headers |= await self._repo_rev(caller)
        try:
            given = await self._body(request, nsid) if is_procedure else self._params(request, nsid)
            call = Call(caller, given, arrived)
            output = await METHODS[nsid].handler(self._services, call)
            await self._services.use_up(call)  # also where there was nothing to do
        except XrpcError as error:
            response = error_answer(error, headers)
        else:
            # Our own promise to clients. A miss is a bug here, so it must not pass in silence.
            response = JSONResponse(self._lexicons.output(nsid, output), headers=headers)
        if is_procedure:
            # After it: the caller's write may have arrived meanwhile.
            response.headers.update(await self._repo_rev(caller))
        return response

    def _is_procedure(self, nsid: str) -> bool:
        return self._lexicons.kind(nsid) == "procedure"

    def _address(self, request: Request) -> str:
        peer = request.client.host if request.client else None
        return self._addresses.caller(peer, request.headers.getlist("x-forwarded-for"))

    async def _repo_rev(self, caller: Caller) -> dict[str, str]:
        """Return the header that says how much of the caller's repo has arrived here."""
        rev = await repos.whole_rev(self._services.db, caller.did) if caller.did else None
        return {} if rev is None else {REPO_REV: rev}

    def _check_room(self) -> None:
        if self._under_way - self._receiving > self._settings.max_requests:
            raise NotEnoughResourcesError("too many calls are under way")

    def _check_lengths(self, request: Request) -> None:
        length = request.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > self._settings.max_body:
            raise self._too_large()
        if len(request.scope["query_string"]) > self._settings.max_params:
            raise InvalidRequestError(
                f"the parameters must be at most {self._settings.max_params} bytes"
            )

    def _params(self, request: Request, nsid: str) -> dict[str, Any]:
        try:
            # As Starlette reads them, but for the maps that it makes of them.
            query = request.scope["query_string"].decode("latin-1")
            pairs = parse_qsl(query, keep_blank_values=True)
            # Clients send what they have of a cursor, also where that is none yet.
            return self._lexicons.params(nsid, (pair for pair in pairs if pair != NO_CURSOR))
        except LexiconError as error:
            raise InvalidRequestError(str(error)) from None

    async def _body(self, request: Request, nsid: str) -> dict[str, Any]:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise InvalidRequestError("the body must be JSON, with Content-Type application/json")
        self._receiving += 1
        try:
            async with asyncio.timeout(BODY_WITHIN):
                raw = await self._read(request)
        except (TimeoutError, ClientDisconnect):
            raise InvalidRequestError("the body did not arrive in time") from None
        finally:
            self._receiving -= 1
        self._check_room()
        try:
            value = parse_json(raw)
        except ValueError:
            raise InvalidRequestError("the body is not valid JSON") from None
        try:
            checked: dict[str, Any] = self._lexicons.input(nsid, value)
        except LexiconError as error:
            raise InvalidRequestError(str(error)) from None
        return checked

    async def _read(self, request: Request) -> bytes:
        most = self._settings.max_body
        decoder = Decoder(", ".join(request.headers.getlist("content-encoding")), most)
        body, received = bytearray(), 0
        async for chunk in request.stream():
            received += len(chunk)
            body += decoder.feed(chunk)
            if max(received, len(body)) > most:
                raise self._too_large()
        decoder.end()
        return bytes(body)

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"the body must be at most {self._settings.max_body} bytes")


def error_answer(error: XrpcError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an error as XRPC says it; its own headers go before others. No cache keeps it."""
    content = {"error": error.error, "message": error.message}
    all_headers = {**(headers or {}), **(error.headers or {}), **NOT_CACHED}
    return JSONResponse(content, error.status, all_headers)
