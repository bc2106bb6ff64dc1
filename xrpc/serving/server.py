"""The HTTP server around the app: how long a client may take, and how many there may be."""

import asyncio
import json
import logging
import socket
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from indexer.config.settings import Settings
from xrpc.errors import (
    HeadTooLargeError,
    InvalidRequestError,
    NotEnoughResourcesError,
    XrpcError,
)
from xrpc.serving.counts import Counts, Drop
from xrpc.serving.endpoint import NOT_CACHED

BACKLOG = 512  # connections that wait to be taken
GRACE = 10  # seconds for calls under way when the daemon is told to stop
KEEP_ALIVE = 15  # seconds that an idle connection of a client is kept
HEAD_ROOM = 16_384  # bytes of a request's line and headers, besides its parameters
HEAD_WITHIN = 10.0  # seconds for these to arrive
TAKE_WITHIN = 30.0  # seconds for a client to take what it is answered
LINGER = 2.0  # seconds for one whose request is refused half-way to stop sending

# A client's faults are counted, not logged: strangers would write our log.
_quiet = logging.getLogger("rescind.http")
_quiet.setLevel(logging.ERROR)


class _Connection(h11.Connection):
    """h11's, but that a head may be just so long, however it is cut into packets.

    h11 measures what is incomplete, and so nothing of what comes whole. `most` is in bytes, of
    the request's line and headers; of trailers too. `hint` is the status of what was refused.
    """

    def __init__(self, most: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=most)
        self.most = most
        self._received = 0  # bytes
        self._read_up_to = 0  # the end of the request before
        self.hint = 400

    def receive_data(self, data: bytes) -> None:
        self._received += len(data)
        super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._check(self._step())
            elif isinstance(event, h11.EndOfMessage):
                self._check(sum(len(name) + len(value) + 4 for name, value in event.headers))
                self._step()
        except h11.RemoteProtocolError as error:
            self.hint = error.error_status_hint
            raise
        return event

    def _step(self) -> int:
        """Return how many bytes were read since the last step."""
        before, self._read_up_to = self._read_up_to, self._received - len(self.trailing_data[0])
        return self._read_up_to - before

    def _check(self, size: int) -> None:
        if size > self.most:
            raise h11.RemoteProtocolError("too long", error_status_hint=431)


class _Protocol(H11Protocol):
    """uvicorn's, but that no client can keep a connection by doing nothing.

    uvicorn waits for ever for a head, and for an answer to be taken. When there are too many
    connections, the one that has waited longest for its client's request to be whole makes room.
    """

    def __init__(
        self, *args: Any, counts: Counts, settings: Settings, waiting: "_Waiting", **more: Any
    ):
        super().__init__(*args, **more)
        self.logger = _quiet
        self._counts = counts
        self._limit = settings.max_connections
        self._waiting = waiting
        self._timers: dict[Drop, asyncio.TimerHandle] = {}
        self._leaving: asyncio.TimerHandle | None = None
        self.conn: _Connection = _Connection(HEAD_ROOM + settings.max_params)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Else a body waits 40 ms behind its head, for the client's delayed acknowledgement: asyncio
        # sees to it only for sockets that were made with their protocol named.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # So that we hear of every byte that the client leaves where it is.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > self._limit and not self._make_room():
            self._refuse(NotEnoughResourcesError("there are too many connections"))
            self._drop("crowded")
            return
        self._waiting[self] = None
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        if self._leaving or self.transport.is_closing():
            return
        super().data_received(data)
        if self._leaving:
            return
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.pop(self, None)
        for reason in tuple(self._timers):
            self._is_in_time(reason)
        if self._leaving:
            self._leaving.cancel()
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
        """Answer what is not HTTP, or too long, if there is still an answer to give."""
        is_long = self.conn.hint == 431
        self._counts.dropped["long_head" if is_long else "malformed"] += 1
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its call is answered here
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._refuse(
                HeadTooLargeError(f"a request's line and headers may have {self.conn.most} bytes")
                if is_long
                else InvalidRequestError("this is not HTTP/1.1")
            )
        self._leave()

    def shutdown(self) -> None:
        if self._leaving:
            self.transport.close()
        else:
            super().shutdown()

    def _should_upgrade(self) -> bool:
        return False  # an offer that need not be taken

    def _refuse(self, error: XrpcError) -> None:
        # Not by the connection's own state: to a HEAD it would let no body go.
        voice = h11.Connection(h11.SERVER)
        body = json.dumps({"error": error.error, "message": error.message}).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "access-control-allow-origin": "*",
            **NOT_CACHED,
            "connection": "close",
            **(error.headers or {}),
        }
        reason = HTTPStatus(error.status).phrase.encode()
        for event in (
            h11.Response(status_code=error.status, headers=list(headers.items()), reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(voice.send(event) or b"")

    def _leave(self) -> None:
        """Close the connection, but not in the face of a client that still sends.

        What is closed with bytes unread is reset, and the client loses the answer to them.
        """
        self._is_in_time("slow_head")
        self._leaving = self.loop.call_later(LINGER, self.transport.close)
        self.flow.resume_reading()
        with suppress(OSError):  # it is gone already
            self.transport.write_eof()

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
        protocol = partial(_Protocol, counts=counts, settings=settings, waiting=_Waiting())
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,  # type: ignore[arg-type] # h11: httptools takes 100 MB of headers
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                # At each turn asyncio takes up to so many, and when no descriptor is free, it
                # sets so many timers to try again, each of which sets as many. The listener's
                # own is set by `startup`.
                backlog=1,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=GRACE,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
