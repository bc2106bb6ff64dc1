"""Messages come out as they were sent, however they were cut up on the way."""

import asyncio
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidMessage,
)
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from indexer.stream import transport as module
from indexer.stream.transport import MAX_FRAME, StreamSocket
from tests.support import http_host

GOODBYE = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)


def frame(data: bytes, opcode: Opcode = Opcode.BINARY, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


def fragmented(data: bytes, cuts: list[int]) -> bytes:
    """Return a message in several frames, with pings between them."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    frames = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        opcode = Opcode.BINARY if number == 0 else Opcode.CONT
        frames.append(frame(data[start:stop], opcode, fin=number == len(edges) - 2))
    return frame(b"?", Opcode.PING).join(frames)


contexts = http_host.tls  # a fixture
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]  # of the host, and of who connects to it
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def reading(
    stream: bytes,
    cuts: list[int] | None = None,
    *,
    stays: bool = False,
    then: Script | None = None,
    tls: Contexts | None = None,
) -> AsyncIterator[StreamSocket]:
    """Open a connection to a host that sends these bytes, in these pieces, the handshake too.

    `then` goes on. With `stays` it leaves the connection open, even if it said goodbye.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(
            line.partition(": ")[2] for line in head.split("\r\n") if "Sec-WebSocket-Key" in line
        )
        sent = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n"
        ).encode() + stream
        edges = [0, *sorted(cut % (len(sent) + 1) for cut in cuts or []), len(sent)]
        for start, stop in pairwise(edges):
            writer.write(sent[start:stop])
            await writer.drain()
            await asyncio.sleep(0)
        with suppress(ConnectionError):
            if then is not None:
                await then(reader, writer)
            if not stays and writer.can_write_eof():
                writer.write_eof()
            elif not stays:  # TLS has no half of a connection
                writer.close()
            await reader.read()
        writer.close()

    host_context, context = tls or (None, None)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=host_context) as server:
        port = server.sockets[0].getsockname()[1]
        options: dict[str, Any] = {"max_size": MAX_FRAME, "compression": None, "close_timeout": 0.5}
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"
        async with connect(
            url, create_connection=StreamSocket, proxy=None, ssl=context, **options
        ) as socket:
            assert isinstance(socket, StreamSocket)
            yield socket


async def received(socket: StreamSocket) -> tuple[list[bytes], ConnectionClosed]:
    """Return all messages to the end, and the end."""
    messages: list[bytes] = []
    async with asyncio.timeout(10):
        while True:
            try:
                messages += await socket.receive()
            except ConnectionClosed as closed:
                return messages, closed


MESSAGES = st.lists(
    st.tuples(
        st.one_of(
            st.binary(max_size=300),
            st.integers(120, 70_000).map(lambda size: bytes(size % 251 for _ in range(size))),
        ),
        st.one_of(st.none(), st.lists(st.integers(0, 70_000), max_size=3)),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(MESSAGES, st.lists(st.integers(0, 400_000), max_size=12))
def test_messages_come_in_order_however_they_are_cut_up(
    messages: list[tuple[bytes, list[int] | None]], cuts: list[int]
) -> None:
    stream = b"".join(
        frame(data) if fragments is None else fragmented(data, fragments)
        for data, fragments in messages
    )

    async def read() -> tuple[list[bytes], ConnectionClosed]:
        async with reading(stream + GOODBYE, cuts) as socket:
            return await received(socket)

    found, end = asyncio.run(read())
    assert found == [data for data, _ in messages]
    assert isinstance(end, ConnectionClosedOK)


async def test_byte_by_byte_it_comes_too() -> None:
    stream = frame(b"a" * 200) + frame(b"") + frame(b"?", Opcode.PING) + frame(b"b") + GOODBYE
    async with reading(stream, list(range(600))) as socket:
        assert (await received(socket))[0] == [b"a" * 200, b"", b"b"]


async def test_a_ping_between_the_pieces_of_a_message_is_no_piece() -> None:
    ping = frame(b"?", Opcode.PING)
    pieces = (
        Frame(Opcode.TEXT, b"a", fin=False).serialize(mask=False),
        frame(b"b", Opcode.CONT, fin=False),
        frame(b"c", Opcode.CONT),
    )
    async with reading(ping.join(pieces) + frame(b"d") + GOODBYE) as socket:
        found, end = await received(socket)
    assert found == [b"abc", b"d"]
    assert isinstance(end, ConnectionClosedOK)


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536, MAX_FRAME])
async def test_a_message_of_each_form_of_length_is_taken(size: int) -> None:
    async with reading(frame(bytes(size)) + frame(b"next") + GOODBYE) as socket:
        found, end = await received(socket)
    assert [len(message) for message in found] == [size, 4]
    assert isinstance(end, ConnectionClosedOK)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(bytes(MAX_FRAME + 1)), 1009),
        (b"\x82\x7f\xff" + bytes(7), 1009),
        (fragmented(bytes(MAX_FRAME + 1), [2_000_000]), 1009),
        pytest.param(Frame(Opcode.BINARY, b"masked").serialize(mask=True), 1002, id="masked"),
        (b"\xc2\x01x", 1002),  # a reserved bit
        (b"\x83\x01x", 1002),  # an opcode that does not exist
        (frame(b"x", Opcode.CONT), 1002),
        (frame(b"begun", fin=False) + frame(b"another"), 1002),
        (b"\x89\x7e\x00\x7e" + bytes(126), 1002),  # a ping that is too long
    ],
    ids=lambda value: str(value)[:20],
)
async def test_what_breaks_the_protocol_ends_the_connection(stream: bytes, code: int) -> None:
    async with reading(frame(b"before") + stream + frame(b"behind") + GOODBYE) as socket:
        found, end = await received(socket)
    assert found == [b"before"]
    assert isinstance(end, ConnectionClosedError)
    assert end.sent is not None
    assert end.sent.code == code


async def test_a_length_that_comes_in_two_parts_is_too_large_all_the_same() -> None:
    head = b"\x82\x7f" + (0x7FFF82).to_bytes(8)

    async def later(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)  # what was sent shall arrive
        writer.write(head[-1:] + b"\x05hello" + bytes(100))

    async with reading(head[:-1], then=later) as socket:
        found, end = await received(socket)
    assert found == []
    assert end.sent is not None
    assert end.sent.code == 1009


async def test_pieces_that_are_empty_take_no_memory() -> None:
    piece = frame(b"", Opcode.CONT, fin=False)
    async with reading(frame(b"begun", fin=False) + piece * 50_000, stays=True) as socket:
        tracemalloc.start()
        await asyncio.sleep(0.5)
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert socket._begun is not None
        assert bytes(socket._begun) == b"begun"
    assert used < 300_000


async def test_who_pings_and_takes_no_answer_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT", 100_000)

    async def pinging(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        while True:
            writer.write(frame(bytes(125), Opcode.PING) * 1_000)
            await writer.drain()

    async with reading(b"", then=pinging) as socket:
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(10):
                await socket.receive()


async def test_an_answer_without_end_to_the_handshake_does_not_hold_up_others() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\n" * 1_000_000)
        await reader.read()
        writer.close()

    clock = asyncio.get_running_loop().time
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        opening = asyncio.ensure_future(
            connect(url, create_connection=StreamSocket, proxy=None, open_timeout=1).__aenter__()
        )
        longest = 0.0
        while not opening.done():
            before = clock()
            await asyncio.sleep(0)
            longest = max(longest, clock() - before)
        assert isinstance(opening.exception(), InvalidMessage)
    assert longest < 0.5


@pytest.mark.parametrize("seed", range(8))
async def test_over_tls_it_is_the_same(
    contexts: Contexts, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 100_000)
    rng = Random(seed)
    messages, stream = [], b""
    for _ in range(200):
        messages.append(rng.randbytes(rng.choice((0, 1, 125, 126, 4_000, 65_536, 300_000))))
        cuts = [rng.randrange(300_000) for _ in range(rng.choice((0, 3)))]
        stream += fragmented(messages[-1], cuts) if rng.random() < 0.3 else frame(messages[-1])
    cuts = [rng.randrange(len(stream)) for _ in range(50)]
    async with reading(stream + GOODBYE, cuts, stays=True, tls=contexts) as socket:
        await asyncio.sleep(0.05)  # it has to stop meanwhile
        assert sum(map(len, socket._messages)) <= 100_000 + 2 * 600_000
        found, end = await received(socket)
    assert found == messages
    assert isinstance(end, ConnectionClosedOK)


@pytest.mark.parametrize("goodbye", [GOODBYE, b""], ids=["goodbye", "none"])
async def test_what_came_before_the_end_of_tls_is_still_read(
    contexts: Contexts, goodbye: bytes
) -> None:
    stream = b"".join(frame(n.to_bytes(4) + bytes(1_000)) for n in range(2_000))
    async with reading(stream + goodbye, tls=contexts) as socket:
        await asyncio.sleep(0.2)
        found, _ = await received(socket)
    assert [int.from_bytes(message[:4]) for message in found] == list(range(2_000))


async def test_what_came_before_the_end_is_still_read() -> None:
    async with reading(frame(b"1") + frame(b"2") + GOODBYE + frame(b"3")) as socket:
        await asyncio.sleep(0.1)
        assert await socket.receive() == [b"1", b"2"]
        with pytest.raises(ConnectionClosedOK):
            await socket.receive()


@pytest.mark.parametrize("stream", [GOODBYE, b"\xff" * 20], ids=["goodbye", "garbage"])
async def test_a_host_that_does_not_hang_up_is_hung_up_on(stream: bytes) -> None:
    async with reading(frame(b"1") + stream, stays=True) as socket, asyncio.timeout(3):
        assert await socket.receive() == [b"1"]
        with pytest.raises(ConnectionClosed):
            await socket.receive()


async def test_a_reader_that_does_not_come_stops_the_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 100_000)
    count = 2_000
    stream = b"".join(frame(n.to_bytes(4) + bytes(10_000)) for n in range(count))
    async with reading(stream + GOODBYE) as socket:
        await asyncio.sleep(0.3)
        waiting = sum(map(len, socket._messages))
        assert waiting <= 100_000 + 2 * 262_144  # what one read of a socket brings comes whole
        found, _ = await received(socket)
    assert [int.from_bytes(message[:4]) for message in found] == list(range(count))


async def test_who_leaves_while_it_pours_says_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1_000)
    stream = b"".join(frame(bytes(10_000)) for _ in range(2_000))
    async with reading(stream + GOODBYE) as socket:
        await socket.receive()
    assert socket.close_code == 1000
    assert sum(map(len, socket._messages)) < 1_000_000
