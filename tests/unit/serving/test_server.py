"""No client can keep what others need: not by saying nothing, not by hearing nothing."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from indexer.config.settings import Settings
from tests.support.xrpc_world import eventually
from xrpc.serving import server as module
from xrpc.serving.counts import Counts
from xrpc.serving.server import Server

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = 20_000_000  # bytes: more than the kernel keeps for two sockets


class App:
    """Answers with `size` bytes; with `hold` it waits, after the head has come, until let go."""

    def __init__(self, size: int = 2, *, hold: bool = False) -> None:
        self.size = size
        self.calls = 0
        self.ended = 0
        self.open = asyncio.Event()
        if not hold:
            self.open.set()

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        self.calls += 1
        try:
            await self.open.wait()
            length = [(b"content-length", str(self.size).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": length})
            await send({"type": "http.response.body", "body": b"x" * self.size})
        finally:
            self.ended += 1


class Served:
    """A server on loopback; its clients are raw sockets."""

    def __init__(self, app: ASGIApp, **settings: Any) -> None:
        self.counts = Counts()
        self.server = Server(app, Settings.load(settings), self.counts)
        self.clients: list[asyncio.StreamWriter] = []
        self.port = 0

    async def connect(
        self, *, small: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = socket.socket()
        if small:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=made, limit=4_096)
        self.clients.append(writer)
        return reader, writer

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def has(self, count: int, within: float = 5.0) -> None:
        async def are_there() -> bool:
            return self.connections == count

        await eventually(are_there, within)


@asynccontextmanager
async def serving(app: ASGIApp, *, small: bool = False, **settings: Any) -> AsyncIterator[Served]:
    """Serve on loopback; with `small` the kernel keeps some KB of an answer only."""
    made = Served(app, **settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        made.port = listener.getsockname()[1]
        task = asyncio.create_task(made.server.serve(sockets=[listener]))
        await eventually(_is_true(lambda: made.server.started))
        try:
            yield made
        finally:
            for client in made.clients:
                client.transport.abort()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for connection in list(made.server.server_state.connections):
                connection.transport.abort()
            for one in made.server.servers:
                one.close()
            await asyncio.sleep(0.01)


def _is_true(look: Callable[[], object]) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return bool(look())

    return holds


async def rest(reader: asyncio.StreamReader, within: float = 3.0) -> bytes:
    """Return what comes until the connection is closed."""
    async with asyncio.timeout(within):
        with contextlib.suppress(ConnectionError):
            return await reader.read(-1)
        return b""


def refusal(raw: bytes) -> tuple[str, str]:
    """Return the status line and the name of an error, which must come as JSON."""
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    found = json.loads(body)
    assert found.keys() == {"error", "message"}
    return head.split(b"\r\n")[0].decode(), found["error"]


async def test_an_answer_does_not_wait_for_an_acknowledgement() -> None:
    async with serving(App()) as served:
        reader, writer = await served.connect()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(20):
            writer.write(GET)
            await reader.readuntil(b"xx")
        assert loop.time() - began < 0.5  # at 40 ms each it would be 0.8


# --- clients that do not take their answer ---


async def test_a_client_that_does_not_take_its_answer_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TAKE_WITHIN", 0.3)
    app = App(BIG)
    async with serving(app) as served:
        _, writer = await served.connect(small=True)
        writer.write(GET)
        await served.has(1)
        await served.has(0)
        assert app.ended == 1
        assert served.counts.dropped == {"unread": 1}


async def test_the_end_of_an_answer_has_to_be_taken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left here is too little for a transport to speak of it by itself."""
    monkeypatch.setattr(module, "TAKE_WITHIN", 0.3)
    async with serving(App(60_000), small=True) as served:
        _, writer = await served.connect(small=True)
        writer.write(GET)
        await served.has(1)
        await served.has(0)
        assert served.counts.dropped == {"unread": 1}


async def test_a_client_that_takes_its_answer_drop_by_drop_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TAKE_WITHIN", 0.4)
    async with serving(App(BIG)) as served:
        reader, writer = await served.connect(small=True)
        writer.write(GET)
        await served.has(1)

        async def sip() -> None:
            with contextlib.suppress(ConnectionError):
                while await reader.read(2_000):
                    await asyncio.sleep(0.02)

        sipping = asyncio.create_task(sip())
        await served.has(0, within=2)
        sipping.cancel()
        assert served.counts.dropped == {"unread": 1}


async def test_calls_without_end_whose_answers_nobody_takes_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TAKE_WITHIN", 0.3)
    app = App(500_000)
    async with serving(app) as served:
        _, writer = await served.connect(small=True)
        writer.write(GET * 100)
        await served.has(1)
        await served.has(0)
        assert app.calls < 40  # it was not asked again for what is not taken


async def test_a_slow_client_that_takes_its_answer_in_time_gets_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TAKE_WITHIN", 3.0)
    async with serving(App(BIG)) as served:
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await asyncio.sleep(0.3)
        raw = await rest(reader, 10)
        assert len(raw.partition(b"\r\n\r\n")[2]) == BIG
        assert served.counts.dropped == {}


# --- clients that do not ask ---


async def test_a_connection_that_has_been_answered_is_not_kept_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.2)
    async with serving(App()) as served:
        reader, writer = await served.connect()
        writer.write(GET)
        assert (await rest(reader)).endswith(b"xx")
        await served.has(0)


async def test_a_body_without_end_behind_an_answer_does_not_keep_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HEAD_WITHIN", 0.3)
    async with serving(App()) as served:
        reader, writer = await served.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.readuntil(b"xx")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(3):
                while not reader.at_eof():
                    writer.write(b"1\r\nx\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.05)
        await served.has(0)
        assert served.counts.dropped == {"slow_head": 1}


# --- too many connections ---


async def test_the_one_that_waits_for_longest_makes_room_for_another() -> None:
    async with serving(App(), max_connections=3) as served:
        clients = [await served.connect() for _ in range(3)]
        await served.has(3)
        clients[0][1].write(GET)  # so that the second has waited for longest
        await clients[0][0].readuntil(b"xx")
        newcomer, writer = await served.connect()
        writer.write(GET)
        await newcomer.readuntil(b"xx")
        assert await rest(clients[1][0]) == b""
        assert served.counts.dropped == {"crowded": 1}
        for reader, _ in (clients[0], clients[2]):
            assert not reader.at_eof()


async def test_who_comes_when_all_are_busy_is_refused_as_json() -> None:
    app = App(hold=True)
    async with serving(app, max_connections=2) as served:
        busy = [await served.connect() for _ in range(2)]
        for _, writer in busy:
            writer.write(GET)
        await eventually(_is_true(lambda: app.calls == 2))
        reader, writer = await served.connect()
        raw = await rest(reader)
        assert refusal(raw) == ("HTTP/1.1 503 Service Unavailable", "NotEnoughResources")
        assert b"retry-after: 1" in raw.lower()
        app.open.set()
        for busy_reader, _ in busy:
            await busy_reader.readuntil(b"xx")


async def test_a_crowd_that_only_connects_keeps_nobody_out() -> None:
    async with serving(App(), max_connections=20) as served:
        for _ in range(60):
            await served.connect()
        reader, writer = await served.connect()
        writer.write(GET)
        await reader.readuntil(b"xx")
        assert served.connections <= 21


async def test_a_crowd_whose_bodies_do_not_come_keeps_nobody_out() -> None:
    app = App(hold=True)
    async with serving(app, max_connections=3) as served:
        slow = [await served.connect() for _ in range(3)]
        for _, writer in slow:
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        await eventually(_is_true(lambda: app.calls == 3))
        for _, writer in slow[:2]:
            writer.write(b"x" * 9)  # whole: these are at work now, and wait for nobody
        await asyncio.sleep(0.05)
        reader, writer = await served.connect()
        writer.write(GET)
        await eventually(_is_true(lambda: app.calls == 4))
        app.open.set()
        for taken in (reader, slow[0][0], slow[1][0]):
            await taken.readuntil(b"xx")
        assert await rest(slow[2][0]) == b""
        assert served.counts.dropped == {"crowded": 1}


# --- what is not HTTP ---


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without Host
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: nonsense\r\n\r\n",
        b"GET /\xc3\xbc HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_as_json_and_counted(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(App()) as served:
        reader, writer = await served.connect()
        writer.write(raw)
        assert refusal(await rest(reader)) == ("HTTP/1.1 400 Bad Request", "InvalidRequest")
        await served.has(0)
        assert served.counts.dropped == {"malformed": 1}
    assert not caplog.records  # strangers do not write our log


@pytest.mark.parametrize("hold", [True, False])
async def test_a_body_that_is_not_http_ends_the_connection_in_order(
    hold: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(hold=hold)
    async with serving(app) as served:
        reader, writer = await served.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await eventually(_is_true(lambda: app.calls == 1))
        await asyncio.sleep(0.05)
        writer.write(b"nonsense\r\n")
        raw = await rest(reader)
        assert raw.startswith(b"HTTP/1.1 400" if hold else b"HTTP/1.1 200")
        app.open.set()
        await eventually(_is_true(lambda: app.ended == 1))
        await served.has(0)
    assert not caplog.records


async def test_an_offer_of_another_protocol_is_not_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(App()) as served:
        reader, writer = await served.connect()
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert (await reader.readuntil(b"xx")).startswith(b"HTTP/1.1 200")
    assert not caplog.records
