"""A relay on loopback that keeps to the protocol, or breaks it, connection by connection."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

# Faults are what it is for: no log of them.
_log = logging.getLogger("relay")
_log.addHandler(logging.NullHandler())
_log.propagate = False

Script = Callable[["Relay", ServerConnection, int | None], Awaitable[None]]


class Relay:
    """Serves `frames` behind the cursor and then what is added; a script may do otherwise."""

    def __init__(self) -> None:
        self.url = ""
        self.cursors: list[int | None] = []  # those that it was asked for
        self.frames: list[tuple[int, bytes]] = []
        self.scripts: list[Script] = []  # for the next connections, one each
        self.answers: list[Response] = []  # to the next handshakes, in place of a connection
        self.sent = 0
        self.errors: list[Exception] = []  # of scripts: a test has one too many
        self._more = asyncio.Event()

    def add(self, seq: int, frame: bytes) -> None:
        self.frames.append((seq, frame))
        self._more.set()

    async def stream(self, socket: ServerConnection, cursor: int | None) -> None:
        """Do what a relay does."""
        place = len(self.frames) if cursor is None else 0
        while True:
            self._more.clear()
            for seq, frame in self.frames[place:]:
                place += 1
                if cursor is None or seq > cursor:
                    await socket.send(frame)
                    self.sent += 1
            await self._more.wait()

    async def _handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        query = parse_qs(urlsplit(socket.request.path).query)
        cursor = int(query["cursor"][0]) if "cursor" in query else None
        self.cursors.append(cursor)
        script = self.scripts.pop(0)(self, socket, cursor) if self.scripts else None
        playing = asyncio.ensure_future(script or self.stream(socket, cursor))
        closed = asyncio.ensure_future(socket.wait_closed())
        await asyncio.wait({playing, closed}, return_when=asyncio.FIRST_COMPLETED)
        for task in (playing, closed):
            task.cancel()
        (error, _) = await asyncio.gather(playing, closed, return_exceptions=True)
        if isinstance(error, Exception) and not isinstance(error, ConnectionClosed):
            self.errors.append(error)

    def _answer(self, _: ServerConnection, __: Request) -> Response | None:
        return self.answers.pop(0) if self.answers else None


@asynccontextmanager
async def relaying(tls: ssl.SSLContext | None = None) -> AsyncIterator[Relay]:
    relay = Relay()
    server = await serve(
        relay._handle,
        "127.0.0.1",
        0,
        ssl=tls,
        process_request=relay._answer,
        max_size=None,
        compression=None,
        logger=_log,
        close_timeout=0.1,
        ping_interval=None,
    )
    relay.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        for connection in server.connections:
            connection.transport.abort()
        server.close()
        await server.wait_closed()
        # A client that was cancelled while it connected closes its socket in the loop's next
        # turns: there have to be some.
        await asyncio.sleep(0.05)
    assert relay.errors == []


# --- scripts ---


def sending(*messages: bytes | str) -> Script:
    """Send these and close in order. Text given as bytes can't be sent so; see `text`."""

    async def script(_: Relay, socket: ServerConnection, __: int | None) -> None:
        for message in messages:
            await socket.send(message)
        await socket.close()

    return script


def text(data: bytes) -> Script:
    """Send these bytes as a text message, which they need not be, and close in order."""

    async def script(_: Relay, socket: ServerConnection, __: int | None) -> None:
        await socket.send(data, text=True)
        await socket.close()

    return script


def breaking(*messages: bytes) -> Script:
    """Send these and drop the connection without a word."""

    async def script(_: Relay, socket: ServerConnection, __: int | None) -> None:
        for message in messages:
            await socket.send(message)
        await asyncio.sleep(0.02)  # what was sent shall arrive
        socket.transport.abort()

    return script


async def hanging(_: Relay, socket: ServerConnection, __: int | None) -> None:
    """Say nothing and answer nothing, pings neither: a machine that is gone."""
    socket.transport.pause_reading()
    await asyncio.sleep(3_600)


def refusal(status: int, **headers: str) -> Response:
    return Response(status, HTTPStatus(status).phrase, Headers(headers), b"")


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with relaying() as relay:
        yield relay
