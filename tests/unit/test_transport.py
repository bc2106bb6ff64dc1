"""Messages come out as they were sent, however they were cut up on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from indexer import transport as module
from indexer.transport import MAX_FRAME, StreamSocket

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


@asynccontextmanager
async def reading(
    stream: bytes, cuts: list[int] | None = None, *, stays: bool = False
) -> AsyncIterator[StreamSocket]:
    """Open a connection to a host that sends these bytes, in these pieces, the handshake too.

    With `stays` it then leaves the connection open, even if it said goodbye.
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
        if not stays:
            writer.write_eof()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        options = {"max_size": MAX_FRAME, "compression": None, "close_timeout": 0.5}
        async with connect(
            f"ws://127.0.0.1:{port}", create_connection=StreamSocket, proxy=None, **options
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
        (Frame(Opcode.BINARY, b"masked").serialize(mask=True), 1002),
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
