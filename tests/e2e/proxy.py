"""A relay that does with the frames of a PDS what a test wants: drops, changes and adds some."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import libipld
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.e2e.daemon import eventually
from tests.localnet.firehose import MAX_FRAME

Body = dict[str, Any]
Change = Callable[[str | None, Body], Body | None]  # by type and body; None drops the frame

CLOSE_TIMEOUT = 2.0  # seconds for either side to say goodbye
STOP_WITHIN = 10.0  # seconds


def unchanged(_kind: str | None, body: Body) -> Body | None:
    return body


@dataclass(slots=True, eq=False)
class FrameProxy:
    """Passes the frames of a PDS on, each through `change`. It serves the stream and no more."""

    upstream: str  # ws:// URL
    change: Change = unchanged
    _dropped: int = 0
    _clients: set[ServerConnection] = field(default_factory=set)
    _server: Server | None = None
    _seq: int = 0  # of the last frame that was passed on

    @property
    def ws_url(self) -> str:
        assert self._server is not None
        return f"ws://localhost:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def start(self) -> Self:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, compression=None, process_request=_refuse_others,
            close_timeout=CLOSE_TIMEOUT,
        )  # fmt: skip
        return self

    async def stop(self) -> None:
        """Leave both sides. Raises TimeoutError."""
        assert self._server is not None
        self._server.close()
        async with asyncio.timeout(STOP_WITHIN):
            await self._server.wait_closed()

    async def inject(self, kind: str, body: Body) -> None:
        """Add a frame, with the seq of the one before it."""
        frame = _encode({"op": 1, "t": kind}, {**body, "seq": self._seq})
        for client in tuple(self._clients):
            await client.send(frame)

    def drop(self, did: str, only: str | None = None) -> None:
        """From now on, let what an account does go by unseen: all of it, or one type of frames."""

        def change(kind: str | None, body: Body) -> Body | None:
            is_theirs = did in (body.get("repo"), body.get("did"))
            return None if is_theirs and only in (None, kind) else body

        self.change = change

    def pass_on(self) -> None:
        """From now on, change nothing."""
        self.change = unchanged

    async def cut(self) -> None:
        """Break all connections, without a goodbye."""
        for client in tuple(self._clients):
            client.transport.abort()

    async def has_dropped(self, count: int) -> None:
        """Wait until so many frames were dropped in all."""

        async def find() -> bool:
            return self._dropped >= count

        await eventually(find, STOP_WITHIN, f"{count} dropped frames")

    async def _serve(self, client: ServerConnection) -> None:
        # Both sides are watched: a quiet PDS would never tell that our client has left, and the
        # server does not stop while this runs.
        pump = asyncio.create_task(self._pump(client))
        left = asyncio.create_task(client.wait_closed())
        self._clients.add(client)
        try:
            await asyncio.wait((pump, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clients.discard(client)
            pump.cancel()
            left.cancel()
            await asyncio.wait((pump, left))
        if not pump.cancelled():
            pump.result()  # what a `change` raises is logged, and shown where a test fails

    async def _pump(self, client: ServerConnection) -> None:
        assert client.request is not None
        url = self.upstream + client.request.path
        try:
            async with connect(
                url, max_size=MAX_FRAME, proxy=None, close_timeout=CLOSE_TIMEOUT
            ) as stream:
                try:
                    async for message in stream:
                        assert isinstance(message, bytes)
                        header, body = libipld.decode_dag_cbor_multi(message)
                        changed = self.change(header.get("t"), body)
                        if changed is None:
                            self._dropped += 1
                            continue
                        self._seq = body.get("seq", self._seq)
                        await client.send(message if changed is body else _encode(header, changed))
                finally:
                    stream.transport.abort()  # at once: the PDS needs no goodbye
        except ConnectionClosed:
            pass


def _encode(header: Body, body: Body) -> bytes:
    return libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body)


def _refuse_others(client: ServerConnection, request: Request) -> Response | None:
    if request.path.startswith("/xrpc/com.atproto.sync.subscribeRepos"):
        return None
    return client.respond(501, '{"error":"MethodNotImplemented","message":"a stream only"}')
