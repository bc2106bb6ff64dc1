"""The ASGI app: routes, limits, CORS, and every error as `{error, message}`.

Source: atproto.com/specs/xrpc. A method is a name in `METHODS`; whether it is a query or a
procedure, and what goes in and out, is said by its lexicon document.
"""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from indexer import log
from indexer.lexicon import LexiconError, Lexicons
from indexer.net import parse_json
from xrpc import invites, verifications
from xrpc.auth import ServiceAuth
from xrpc.errors import (
    InternalServerError,
    InvalidRequestError,
    MethodNotAllowedError,
    MethodNotImplementedError,
    NotFoundError,
    PayloadTooLargeError,
    XrpcError,
)
from xrpc.services import Call, Services

MAX_BODY = 256_000  # bytes
BODY_WITHIN = 10.0  # seconds for a body to arrive whole
CORS_MAX_AGE = 86_400  # seconds that a browser may remember a preflight

Handler = Callable[[Services, Call], Awaitable[dict[str, Any]]]

METHODS: dict[str, Handler] = {
    "rsvp.atmo.space.invite.revoke": invites.revoke,
    "tools.ozone.verification.revokeVerifications": verifications.revoke,
}

_log = log.get("xrpc")


def create_app(services: Services, auth: ServiceAuth) -> Starlette:
    """Return the app that serves `METHODS` and the service's own DID document."""
    endpoint = _Endpoint(services, auth)
    app = Starlette(
        routes=[
            Route("/xrpc/{nsid}", endpoint.call, methods=_VERBS),
            Route("/.well-known/did.json", endpoint.did_document, methods=["GET"]),
        ],
        # API explorers call from their page. There are no cookies, so any page may.
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                max_age=CORS_MAX_AGE,
            )
        ],
        exception_handlers={
            XrpcError: _answer_error,
            HTTPException: _answer_http_error,
        },
    )
    app.router.redirect_slashes = False  # a path with one more slash is another path
    return app


class _Endpoint:
    def __init__(self, services: Services, auth: ServiceAuth) -> None:
        self._services = services
        self._auth = auth
        self._lexicons = Lexicons.load(files("xrpc") / "lexicons")

    async def call(self, request: Request) -> Response:
        """Run a method. Our own fault is logged whole, and told to the caller without details."""
        nsid = request.path_params["nsid"]
        try:
            return await self._call(request, nsid)
        except XrpcError:
            raise
        except Exception:
            _log.exception("request.failed", method=nsid)
            raise InternalServerError(
                "something went wrong here; the operator's log says what"
            ) from None

    async def _call(self, request: Request, nsid: str) -> Response:
        """Guard clauses in order, then the handler."""
        arrived = asyncio.get_running_loop().time()
        handler = METHODS.get(nsid)
        if handler is None:
            raise MethodNotImplementedError("this service has no such method")
        verb = "POST" if self._lexicons.kind(nsid) == "procedure" else "GET"
        if request.method != verb:
            raise MethodNotAllowedError(f"this method is called with {verb}", allow=verb)
        _check_length(request)
        caller = await self._auth.authenticate(request.headers.get("authorization"), nsid)
        body = await self._body(request, nsid)
        output = await handler(self._services, Call(caller, body, arrived))
        # Our own promise to clients. A miss is a bug here, so it must not pass in silence.
        return JSONResponse(self._lexicons.output(nsid, output))

    async def _body(self, request: Request, nsid: str) -> dict[str, Any]:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise InvalidRequestError("the body must be JSON, with Content-Type application/json")
        try:
            async with asyncio.timeout(BODY_WITHIN):
                raw = await _read(request)
        except (TimeoutError, ClientDisconnect):
            raise InvalidRequestError("the body did not arrive in time") from None
        try:
            value = parse_json(raw)
        except ValueError:
            raise InvalidRequestError("the body is not valid JSON") from None
        try:
            checked: dict[str, Any] = self._lexicons.input(nsid, value)
        except LexiconError as error:
            raise InvalidRequestError(str(error)) from None
        return checked

    async def did_document(self, _: Request) -> Response:
        """`did:web`: where the service that our DID names is to be found."""
        settings = self._services.settings
        return JSONResponse(
            {
                "@context": ["https://www.w3.org/ns/did/v1"],
                "id": settings.service_did,
                "service": [
                    {
                        "id": f"#{settings.service_id}",
                        "type": "RescindAppView",
                        "serviceEndpoint": settings.url,
                    }
                ],
            }
        )


_VERBS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def _check_length(request: Request) -> None:
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > MAX_BODY:
        raise PayloadTooLargeError(f"the body must be at most {MAX_BODY} bytes")


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise PayloadTooLargeError(f"the body must be at most {MAX_BODY} bytes")
    return bytes(body)


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, XrpcError)  # noqa: S101 (registered for it alone)
    content = {"error": error.error, "message": error.message}
    return JSONResponse(content, error.status, error.headers)


async def _answer_http_error(_: Request, error: Exception) -> Response:
    """Answer what the router refuses: an unknown path, or a verb that it does not take."""
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for it alone)
    refusal: XrpcError
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "GET, POST")
        refusal = MethodNotAllowedError("this path is not called with this verb", allow=allow)
    else:
        refusal = NotFoundError("there is nothing at this path; methods are at /xrpc/<NSID>")
    return await _answer_error(_, refusal)
