"""Socket to raw frames: connections to `com.atproto.sync.subscribeRepos`, one after another.

Source: atproto.com/specs/event-stream and atproto.com/specs/sync.
"""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidURI,
    ProxyError,
)

from indexer import log
from indexer.net.egress import cause_of, open_tunnel, proxy_for, trust
from indexer.net.guard import MAX_ADDRESSES
from indexer.net.public_addresses import is_public
from indexer.stream.transport import MAX_FRAME, StreamSocket

OPEN_TIMEOUT = 15.0  # seconds for DNS, TCP, TLS and the handshake together
CLOSE_TIMEOUT = 2.0  # seconds for the other side to say goodbye
PING_INTERVAL = 20.0  # seconds; a quiet stream is told from a dead one by its pongs
PING_TIMEOUT = 20.0  # seconds
FIRST_DELAY = 0.5  # seconds before the first new attempt
MAX_DELAY = 60.0  # seconds
TOO_BIG = 1009  # the close code of RFC 6455 for a message that the receiver does not take
OVERSIZED_TRIES = 3

_log = log.get("firehose")


def subscribe_url(relay: str, cursor: int | None) -> str:
    """Return where to read the stream of a relay: behind `cursor`, or, if None, from now on."""
    url = f"{relay.rstrip('/')}/xrpc/com.atproto.sync.subscribeRepos"
    return url if cursor is None else f"{url}?cursor={cursor}"


def delays(rng: Callable[[], float] = random.random) -> Iterator[float]:
    """Yield seconds to wait before each attempt: doubling, with full jitter, up to a minute.

    Full jitter, since all consumers of a relay lose it at the same moment.
    """
    ceiling = FIRST_DELAY
    while True:
        yield ceiling * (0.1 + 0.9 * rng())
        ceiling = min(ceiling * 2, MAX_DELAY)


class Socket(Protocol):
    """What frames are received from."""

    async def receive(self) -> list[bytes]:
        """Return those that have come; none at the end, or raise `ConnectionClosed`."""


class Connection:
    """One open connection."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.useful = False  # set by the reader: a frame has moved its cursor
        self.stepped_over = False  # frames behind the cursor, which are too large to be read
        self.end = "left by the reader"  # why it ended, for the log
        self.oversized = False

    async def frames(self) -> AsyncGenerator[list[bytes], None]:
        """Yield its frames until it ends, for whatever reason, as many at once as have come."""
        try:
            # Text comes as its bytes: the protocol knows binary frames only, and the decoder says
            # so of this one.
            while frames := await self._socket.receive():
                yield frames
        except ConnectionClosedOK:
            self.end = "closed by the relay"
        except ConnectionClosed as closed:
            self.end = str(closed)
            self.oversized = closed.sent is not None and closed.sent.code == TOO_BIG


class Source(Protocol):
    """Where the stream comes from, connection after connection."""

    def connections(self, cursor: Callable[[], int | None]) -> AsyncGenerator[Connection, None]:
        """Yield open connections; leaving the loop over one's frames asks for the next.

        `cursor` is asked before each of them: the seq to go on behind, or None for the live end.
        """


class Firehose:
    """The stream of one relay: it never ends."""

    def __init__(self, relay: str, *, allow_private: bool = False) -> None:
        self._relay = relay
        self._allow_private = allow_private
        self._trust: ssl.SSLContext | None = None
        if relay.startswith("wss:"):
            self._trust = trust()
            proxy_for("", 443)  # what can't be used is to be told at once

    async def connections(
        self, cursor: Callable[[], int | None]
    ) -> AsyncGenerator[Connection, None]:
        """Yield open connections for ever, as a `Source`."""
        delay = delays()
        oversized = 0  # connections in a row that ended at a frame beyond MAX_FRAME
        while True:
            behind = cursor()
            steps_over = behind is not None and oversized >= OVERSIZED_TRIES
            if behind is not None and steps_over:
                # Such a frame is against the spec and would end every connection at this place:
                # step over one seq after the other until the stream goes on.
                behind += oversized - OVERSIZED_TRIES + 1
                _log.error("frame.skipped", reason="over 5 MB", seq=behind)
            connection: Connection | None = None
            async with AsyncExitStack() as stack:
                try:
                    socket = await stack.enter_async_context(self._connect(behind))
                    assert isinstance(socket, StreamSocket)  # noqa: S101 (as asked for)
                except _UNREACHABLE as error:
                    reason = cause_of(error) or str(error) or type(error).__name__
                else:
                    _log.info("firehose.connected", relay=self._relay, cursor=behind)
                    connection = Connection(socket)
                    connection.stepped_over = steps_over
                    yield connection
                    reason = connection.end
            if connection is not None and connection.useful:
                delay = delays()
            if connection is not None and connection.oversized:
                oversized = 1 if connection.useful else oversized + 1
            else:
                oversized = 0
            pause = next(delay)
            _log.warning(
                "firehose.unreachable" if connection is None else "firehose.disconnected",
                relay=self._relay,
                reason=reason,
                retry_in_s=round(pause, 1),
            )
            await asyncio.sleep(pause)

    def _connect(self, cursor: int | None) -> "_Connect":
        return _Connect(
            subscribe_url(self._relay, cursor),
            self._trust,
            self._allow_private,
            create_connection=StreamSocket,
            max_size=MAX_FRAME,
            compression=None,  # relays send none, and a stranger's could be a bomb
            open_timeout=OPEN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_TIMEOUT,
            user_agent_header="rescind",
        )


class _Connect(connect):
    """websockets', but that it takes the way out that all other traffic takes.

    Through a proxy the relay's name is looked up and judged here, and the proxy told an address.
    """

    def __init__(
        self, url: str, trusted: ssl.SSLContext | None, allow_private: bool, **options: Any
    ) -> None:
        if trusted is not None:
            options["ssl"] = trusted
        super().__init__(url, proxy=None, **options)
        self._allow_private = allow_private

    async def open_tcp_connection(self) -> ClientConnection:
        at = self.ws_uri
        proxy = proxy_for(at.host, at.port) if at.secure else None
        if proxy is None:
            return await super().open_tcp_connection()
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(at.host, at.port, type=socket.SOCK_STREAM)
        addresses = [(str(to[0]), int(to[1])) for *_, to in found]
        if not self._allow_private and not all(is_public(address) for address, _ in addresses):
            raise OSError("the relay's name leads to an address that is not public")
        options = self.create_connection_kwargs
        options["sock"] = await open_tunnel(proxy, addresses[:MAX_ADDRESSES])
        try:
            return await super().open_tcp_connection()
        finally:
            del options["sock"]  # a redirect leads to another one


# A ValueError is a redirect to a host name or a port that can't be.
_UNREACHABLE = (OSError, TimeoutError, InvalidHandshake, InvalidURI, ProxyError, ValueError)
