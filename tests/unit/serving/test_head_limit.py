"""A request's line and headers may be just so long, however they are cut into packets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import pairwise
from pathlib import Path

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.xrpc_world import World, make_world
from xrpc.serving import server as module

LIMIT = 16_384 + 16_384  # bytes: of parameters, and of the rest
START, END = b"GET /xrpc/_health HTTP/1.1\r\nHost: x\r\n", b"\r\n\r\n"
PLAIN = START + b"\r\n"
POST = b"POST /xrpc/x HTTP/1.1\r\nHost: x\r\n"


def head(size: int, start: bytes = START) -> bytes:
    """Return a good head of just so many bytes."""
    return start + b"X: ".ljust(size - len(start) - len(END), b"x") + END


def padded(size: int) -> bytes:
    """Return one that is mostly blanks, which are no part of the value that they stand before."""
    return START + b"X:".ljust(size - len(START) - len(END) - 1) + b"x" + END


def many(size: int) -> bytes:
    """Return one that is mostly names of headers."""
    lines = b"X: \r\n" * ((size - len(START)) // 5 - 10)
    return head(size, START + lines)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made, made.serving():
        yield made


async def statuses(world: World, packets: Iterable[bytes]) -> list[tuple[int, str]]:
    """Send these packets; return what each answer says until the connection is closed."""
    port = int(world.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        for packet in packets:
            if writer.is_closing():
                break
            writer.write(packet)
            await asyncio.sleep(0)
        writer.write(b"")
        found = []
        async with asyncio.timeout(5):
            while not reader.at_eof():
                try:
                    answer = await reader.readuntil(b"\r\n\r\n")
                except (asyncio.IncompleteReadError, ConnectionError):
                    break
                lines = answer.lower().split(b"\r\n")
                [length] = [line for line in lines if line.startswith(b"content-length: ")]
                body = json.loads(await reader.readexactly(int(length.partition(b" ")[2])))
                found.append((int(answer.split(b" ")[1]), body.get("error", "")))
                if b"connection: close" in lines:
                    assert await reader.read() == b""
        return found
    finally:
        writer.close()


def cut(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


LAST = START + b"Connection: close\r\n"
OK, TOO_LONG = (200, ""), (431, "RequestHeaderFieldsTooLarge")


@pytest.mark.parametrize("size", [100_000, 20_000, 1_400, 97])
async def test_a_head_may_be_as_long_as_the_limit(world: World, size: int) -> None:
    assert await statuses(world, cut(head(LIMIT, LAST), size)) == [OK]


@pytest.mark.parametrize("over", [1, 67_232, 220_000])
@pytest.mark.parametrize("size", [1_000_000, 20_000, 1_400])
async def test_a_head_may_not_be_longer_also_in_one_packet(
    world: World, size: int, over: int
) -> None:
    assert await statuses(world, cut(head(LIMIT + over), size)) == [TOO_LONG]
    assert world.counts.dropped == {"long_head": 1}


@pytest.mark.parametrize("make", [padded, many])
async def test_all_bytes_of_a_head_count(world: World, make: Callable[[int], bytes]) -> None:
    for size, answer in ((LIMIT + 1, TOO_LONG), (LIMIT, OK)):
        raw = make(size)
        assert len(raw) == size
        for packets in ([raw + LAST + b"\r\n"], [*cut(raw, 1_400), LAST + b"\r\n"]):
            assert (await statuses(world, packets))[0] == answer


async def test_the_limit_holds_for_each_request_of_a_connection(world: World) -> None:
    for size in (1_000_000, 1_400):
        raw = head(LIMIT) + PLAIN + head(LIMIT) + head(LIMIT + 1) + PLAIN
        assert await statuses(world, cut(raw, size)) == [OK, OK, OK, TOO_LONG]


async def test_a_body_before_it_takes_nothing_from_a_head(world: World) -> None:
    for body in (
        b"Content-Length: 50000\r\n\r\n" + b"x" * 50_000,
        b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nxxxxx\r\n" * 5_000 + b"0\r\n\r\n",
    ):
        for size in (1_000_000, 1_400):
            raw = POST + body + head(LIMIT, LAST)
            assert await statuses(world, cut(raw, size)) == [(501, "MethodNotImplemented"), OK]
            raw = POST + body + head(LIMIT + 1)
            found = await statuses(world, cut(raw, size))
            assert found == [(501, "MethodNotImplemented"), TOO_LONG]


async def test_a_long_head_of_a_head_is_answered_too(world: World) -> None:
    start = START.replace(b"GET", b"HEAD")
    assert await statuses(world, [head(LIMIT + 1, start)]) == [TOO_LONG]


async def refused(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection whose client goes on sending after its head was refused."""
    port = int(world.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(LIMIT + 1))
    assert (await reader.read()).startswith(b"HTTP/1.1 431")
    writer.write(b"x" * 500_000)
    return reader, writer


async def test_a_client_that_goes_on_sending_is_left_soon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINGER", 0.1)
    _, writer = await refused(world)

    async def go_on() -> None:
        while True:
            writer.write(b"x" * 1_000)
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(go_on(), 5)


async def test_a_client_that_goes_on_sending_does_not_hold_up_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut: list[module._Protocol] = []
    known = module._Protocol.connection_made
    monkeypatch.setattr(module, "LINGER", 3_600)
    monkeypatch.setattr(
        module._Protocol, "connection_made", lambda self, to: (shut.append(self), known(self, to))
    )
    _, writer = await refused(world)
    [connection] = shut
    connection.shutdown()
    async with asyncio.timeout(5):
        while connection in connection.connections:
            await asyncio.sleep(0.01)
    writer.close()


# Without a socket, whose packets nobody can be sure of.

SMALL = 200


def outcomes(packets: Iterable[bytes]) -> list[str]:
    """Return what a connection makes of these packets; every request is answered at once."""
    connection = module._Connection(SMALL)
    found: list[str] = []
    for packet in packets:
        connection.receive_data(packet)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return [*found, str(connection.hint)]
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.EndOfMessage):
                found.append("read")
                length = h11.Response(status_code=200, headers=[("content-length", "0")])
                connection.send(length)
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
    return found


@given(
    st.lists(st.integers(SMALL - 60, SMALL + 60), min_size=1, max_size=4),
    st.booleans(),
    st.sets(st.integers(1, 1_500), max_size=30),
)
def test_no_cut_changes_what_is_read(sizes: list[int], has_body: bool, cuts: set[int]) -> None:
    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n" + b"x" * 300
    raw = b"".join(head(size) + body * has_body for size in sizes)
    ends = [0, *sorted(end for end in cuts if end < len(raw)), len(raw)]
    packets = [raw[start:end] for start, end in pairwise(ends)]
    expected: list[str] = []
    for size in sizes:
        if size > SMALL:
            expected.append("431")
            break
        expected += ["read"] * (1 + has_body)
    assert outcomes(packets) == expected


def test_trailers_may_not_be_longer_either() -> None:
    start = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nxxxxx\r\n0\r\n"
    assert outcomes([start + b"X: " + b"x" * SMALL + b"\r\n\r\n"]) == ["431"]
    assert outcomes([start + b"X: " + b"x" * 100 + b"\r\n\r\n"]) == ["read"]
