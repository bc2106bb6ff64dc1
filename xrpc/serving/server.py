"""The HTTP server around the app: how long a client may take, and how many there may be."""

import asyncio
import json
import logging
import socket
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from indexer.config.settings import Settings
from xrpc.errors import InvalidRequestError, NotEnoughResourcesError, XrpcError
from xrpc.serving.counts import Counts, Drop

GRACE = 10  # seconds for calls under way when the daemon is told to stop
KEEP_ALIVE = 15  # seconds that an idle connection of a client is kept
HEAD_ROOM = 16_384  # bytes of a request's line and headers, besides its parameters
HEAD_WITHIN = 10.0  # seconds for these to arrive
TAKE_WITHIN = 30.0  # seconds for a client to take what it is answered

# A client's faults are counted, not logged: strangers would write our log.
_quiet = logging.getLogger("rescind.http")
_quiet.setLevel(logging.ERROR)


class _Protocol(H11Protocol):
    """uvicorn's, but that no client can keep a connection by doing nothing.

    uvicorn waits for ever for a head, and for an answer to be taken. When there are too many
    connections, the one that has waited longest for its client's request to be whole makes room.
    """

    def __init__(self, *args: Any, counts: Counts, limit: int, waiting: "_Waiting", **more: Any):
        super().__init__(*args, **more)
        self.logger = _quiet
        self._counts = counts
        self._limit = limit
        self._waiting = waiting
        self._timers: dict[Drop, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Else a body waits 40 ms behind its head, for the client's delayed acknowledgement: asyncio
        # sees to it only for sockets that were made with their protocol named.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # So that we hear of every byte that the client leaves where it is.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self._limit and not self._make_room():
            self._refuse(NotEnoughResourcesError("there are too many connections; try again"))
            self._drop("crowded")
            return
        self._waiting[self] = None
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.pop(self, None)
        for reason in tuple(self._timers):
            self._is_in_time(reason)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._waiting[self] = None
        super().on_response_complete()
        self._note_call()  # the next request may have been here already

    def pause_writing(self) -> None:
        super().pause_writing()
        self._time("unread", TAKE_WITHIN)

    def resume_writing(self) -> None:
        self._is_in_time("unread")
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, if there is still an answer to give."""
        self._counts.dropped["malformed"] += 1
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its call is answered here
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._refuse(InvalidRequestError("this is not HTTP/1.1, or its head is too long"))
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return False  # an offer that need not be taken

    def _refuse(self, error: XrpcError) -> None:
        body = json.dumps({"error": error.error, "message": error.message}).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "access-control-allow-origin": "*",
            "connection": "close",
            **(error.headers or {}),
        }
        reason = HTTPStatus(error.status).phrase.encode()
        for event in (
            h11.Response(status_code=error.status, headers=list(headers.items()), reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")

    def _make_room(self) -> bool:
        """Drop the client that has been waited for longest; False if none is."""
        if not self._waiting:
            return False
        longest, _ = self._waiting.popitem(last=False)
        longest._drop("crowded")
        return True

    def _watch_head(self) -> None:
        if self._note_call():
            self._is_in_time("slow_head")
        else:
            self._time("slow_head", HEAD_WITHIN)

    def _note_call(self) -> bool:
        """Whether a call is under way; with its body whole, nothing is waited for any more."""
        is_calling = self.cycle is not None and not self.cycle.response_complete
        if is_calling and self.conn.their_state is not h11.SEND_BODY:
            self._waiting.pop(self, None)
        return is_calling

    def _time(self, reason: Drop, seconds: float) -> None:
        if reason not in self._timers:
            self._timers[reason] = self.loop.call_later(seconds, self._drop, reason)

    def _is_in_time(self, reason: Drop) -> None:
        if timer := self._timers.pop(reason, None):
            timer.cancel()

    def _drop(self, reason: Drop) -> None:
        self._counts.dropped[reason] += 1
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait for the client to take the rest
        else:
            self.transport.close()


_Waiting = OrderedDict[_Protocol, None]  # for a request of their clients, the longest first


class Server(uvicorn.Server):
    """uvicorn, but for its signals: the daemon has its own. `counts` is told of who is dropped."""

    def __init__(self, app: ASGIApp, settings: Settings, counts: Counts) -> None:
        protocol = partial(
            _Protocol, counts=counts, limit=settings.max_connections, waiting=_Waiting()
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,  # type: ignore[arg-type] # h11: httptools takes 100 MB of headers
                h11_max_incomplete_event_size=settings.max_params + HEAD_ROOM,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=GRACE,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
