"""The ASGI app: its routes, CORS, and every refusal as `{error, message}`."""

from importlib import metadata
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from indexer.lexicon.interpreter import Lexicons
from xrpc.auth.callers import ServiceAuth
from xrpc.errors import InternalServerError, MethodNotAllowedError, NotFoundError
from xrpc.services import Services
from xrpc.serving import limits
from xrpc.serving.counts import Counts
from xrpc.serving.endpoint import NOT_CACHED, REPO_REV, Endpoint, error_answer
from xrpc.serving.health import Stream, UnhealthyError, examine
from xrpc.serving.metrics import Metrics, metrics_routes
from xrpc.serving.page import page_routes
from xrpc.serving.wellknown import well_known_routes

CORS_MAX_AGE = 86_400  # seconds that a browser may remember a preflight


def create_app(
    services: Services, auth: ServiceAuth, stream: Stream, counts: Counts, metrics: Metrics | None
) -> Starlette:
    """Return the app that serves `METHODS` and what is around them.

    `stream` is what the indexer shows of itself. Without `metrics` none are served here.
    """
    documents = files("xrpc") / "lexicons"
    endpoint = Endpoint(services, auth, Lexicons.load(documents), counts)
    app = Starlette(
        routes=[
            # Both are called with any verb, to say themselves which one is right.
            *_either_way("/xrpc/_health", _Health(services, stream)),
            *_either_way("/xrpc/{nsid}", endpoint),
            *well_known_routes(services.settings),
            *page_routes(services.settings, documents),
            *(metrics_routes(metrics) if metrics else ()),
        ],
        # API explorers call from their page. There are no cookies, so any page may.
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=[REPO_REV, "www-authenticate", *limits.HEADERS],
                max_age=CORS_MAX_AGE,
            )
        ],
        exception_handlers={HTTPException: _answer_http_error, Exception: _answer_our_fault},
    )
    app.router.redirect_slashes = False  # a path with one more slash is another path
    return app


def _either_way(path: str, endpoint: ASGIApp) -> tuple[Route, Route]:
    """Serve a path with and without a slash at its end: the reference takes both."""
    return Route(path, endpoint), Route(f"{path}/", endpoint)


class _Health:
    """What load balancers ask: nothing of it waits for anything."""

    def __init__(self, services: Services, stream: Stream) -> None:
        self._services = services
        self._stream = stream
        self._version = metadata.version("rescind")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in {"GET", "HEAD"}:
            response = self._answer()
        else:
            refusal = MethodNotAllowedError("this is asked with GET", allow="GET, HEAD")
            response = error_answer(refusal)
        await response(scope, receive, send)

    def _answer(self) -> Response:
        services = self._services
        health = examine(self._stream, services.clock(), services.settings.max_lag)
        fields = {"version": self._version, **health.fields()}
        if health.problem is None:
            return JSONResponse(fields, headers=NOT_CACHED)
        refusal = UnhealthyError(health.problem)
        content = {"error": refusal.error, "message": refusal.message, **fields}
        return JSONResponse(content, refusal.status, NOT_CACHED)


async def _answer_http_error(_: Request, error: Exception) -> Response:
    """Answer what the router refuses: an unknown path, or a verb that it does not take."""
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for it alone)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "GET, POST")
        return error_answer(
            MethodNotAllowedError("this path is not called with this verb", allow=allow)
        )
    return error_answer(NotFoundError("there is nothing at this path; methods are at /xrpc/<NSID>"))


async def _answer_our_fault(_: Request, __: Exception) -> Response:
    """Answer where something broke around the methods. The server logs it."""
    return error_answer(InternalServerError("something went wrong here"))
