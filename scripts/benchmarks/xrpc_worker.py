"""A server that is measured, in a process of its own.

python -m scripts.benchmarks.xrpc_worker rescind DATABASE
python -m scripts.benchmarks.xrpc_worker bare ANSWER
python -m scripts.benchmarks.xrpc_worker asgi ANSWER

It prints its port, and for each line on stdin the seconds of CPU that it has taken so far. It ends
with stdin. `bare` and `asgi` answer every call with what a file holds.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from indexer import log, python_gc
from indexer.cli.base import make_scope
from indexer.config.settings import Settings
from indexer.identity.resolver import IdentityResolver
from indexer.journal.writer import Journal
from indexer.store.cursors import Cursor
from indexer.store.db import Database
from indexer.stream.stats import Stats
from scripts.benchmarks.xrpc_stage import answer, settings
from xrpc.auth.callers import ServiceAuth
from xrpc.publishing.pds import PdsClient
from xrpc.publishing.publisher import Publisher
from xrpc.publishing.sessions import Sessions, Vault
from xrpc.services import Services
from xrpc.serving.app import create_app
from xrpc.serving.counts import Counts
from xrpc.serving.metrics import Metrics
from xrpc.serving.server import Server


@dataclass
class Idle:
    """A stream of which nothing comes."""

    is_connected: bool = True
    position: Cursor | None = None
    applied: Cursor | None = None
    stats: Stats = field(default_factory=Stats)


async def serve_rescind(file: Path) -> None:
    """Serve what `rescind run` serves, with what works beside it."""
    made = settings(file)
    log.configure(made.log_level, "json")
    client = httpx.AsyncClient(transport=httpx.MockTransport(_answer))
    async with (
        client,
        await Database.open(made.db) as db,
        Journal.open(made.journal_file, made.journal_days) as journal,
        aclosing(IdentityResolver(made.plc, client)) as resolver,
    ):
        pds = PdsClient(client)
        sessions = Sessions(db, Vault.open(made), pds)
        publisher = Publisher(db, sessions, resolver, pds)
        auth = await ServiceAuth.open(made, resolver, db)
        services = Services(
            made, db, make_scope(made), resolver, pds, sessions, publisher, journal=journal
        )
        counts, stream = Counts(), Idle()
        metrics = Metrics(db, stream, auth.failures, counts)
        working = [asyncio.create_task(work) for work in (publisher.run(), db.keep_folding())]
        try:
            app = create_app(services, auth, stream, counts, metrics)
            await _serve(app, made, counts)
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)


async def serve_bare(file: Path) -> None:
    """Serve a handler that answers what a file holds, in the same framework."""
    content = json.loads(file.read_bytes())

    async def answer(_: Request) -> Response:
        return JSONResponse(content)

    cors = Middleware(CORSMiddleware, allow_origins=["*"])
    app = Starlette(routes=[Route("/xrpc/{nsid}", answer)], middleware=[cors])
    await _serve(app, settings(file), Counts())


async def serve_asgi(file: Path) -> None:
    """Serve a file by the least that a server can call."""
    body = file.read_bytes()

    async def answer(_: Scope, __: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    await _serve(answer, settings(file), Counts())


async def _serve(app: ASGIApp, made: Settings, counts: Counts) -> None:
    server = Server(app, made, counts)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        print(listener.getsockname()[1], flush=True)
        async for _ in _lines():
            print(json.dumps(time.process_time()), flush=True)
        server.should_exit = True
        await serving


async def _lines() -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line


def _answer(request: httpx.Request) -> httpx.Response:
    status, found = answer(request.url.path)
    return httpx.Response(status, content=_stream(json.dumps(found).encode()))


async def _stream(body: bytes) -> AsyncIterator[bytes]:
    yield body


SERVERS = {"rescind": serve_rescind, "bare": serve_bare, "asgi": serve_asgi}


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in SERVERS:
        sys.exit(__doc__)
    python_gc.settle()  # as `rescind` does
    asyncio.run(SERVERS[sys.argv[1]](Path(sys.argv[2])))


if __name__ == "__main__":
    main()
