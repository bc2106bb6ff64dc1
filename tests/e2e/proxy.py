"""A relay that does with the frames of a PDS what a test wants: drops, changes and adds some."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import libipld
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.localnet.firehose import MAX_FRAME

Body = dict[str, Any]
Change = Callable[[str | None, Body], Body | None]  # by type and body; None drops the frame


def unchanged(_kind: str | None, body: Body) -> Body | None:
    return body


@dataclass(slots=True, eq=False)
class FrameProxy:
    """Passes the frames of a PDS on, each through `change`. It serves the stream and no more."""

    upstream: str  # ws:// URL
    change: Change = unchanged
    dropped: int = 0
    _clients: set[ServerConnection] = field(default_factory=set)
    _server: Server | None = None
    _seq: int = 0  # of the last frame that was passed on

    @property
    def ws_url(self) -> str:
        assert self._server is not None
        return f"ws://localhost:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def start(self) -> Self:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, compression=None, process_request=_refuse_others
        )
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def inject(self, kind: str, body: Body) -> None:
        """Add a frame, with the seq of the one before it."""
        frame = _encode({"op": 1, "t": kind}, {**body, "seq": self._seq})
        for client in self._clients:
            await client.send(frame)

    def drop(self, did: str) -> None:
        """From now on, let what an account does go by unseen."""

        def change(_kind: str | None, body: Body) -> Body | None:
            return None if did in (body.get("repo"), body.get("did")) else body

        self.change = change

    def pass_on(self) -> None:
        self.change = unchanged

    async def _serve(self, client: ServerConnection) -> None:
        assert client.request is not None
        self._clients.add(client)
        try:
            async with connect(
                self.upstream + client.request.path, max_size=MAX_FRAME, proxy=None
            ) as stream:
                async for message in stream:
                    assert isinstance(message, bytes)
                    header, body = libipld.decode_dag_cbor_multi(message)
                    changed = self.change(header.get("t"), body)
                    if changed is None:
                        self.dropped += 1
                        continue
                    self._seq = body.get("seq", self._seq)
                    await client.send(message if changed is body else _encode(header, changed))
        except ConnectionClosed:
            pass
        finally:
            self._clients.discard(client)


def _encode(header: Body, body: Body) -> bytes:
    return libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body)


def _refuse_others(client: ServerConnection, request: Request) -> Response | None:
    if request.path.startswith("/xrpc/com.atproto.sync.subscribeRepos"):
        return None
    return client.respond(501, '{"error":"MethodNotImplemented","message":"a stream only"}')
