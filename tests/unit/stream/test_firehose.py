"""Connection after connection, whatever the relay does to them."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from itertools import islice

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response

from indexer.stream import firehose as module
from indexer.stream.firehose import (
    MAX_DELAY,
    MAX_FRAME,
    Connection,
    Firehose,
    delays,
    subscribe_url,
)
from tests.support.fake_relay import Relay, breaking, hanging, refusal, relay, sending, text

__all__ = ["relay"]  # fixtures

BIG = bytes(MAX_FRAME + 1)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.002)
    monkeypatch.setattr(module, "MAX_DELAY", 0.02)
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.1)


class Reader:
    """Reads so many connections to their ends; the cursor follows frames that are numbers."""

    def __init__(self, relay: Relay, cursor: int | None = None) -> None:
        self.cursor = cursor
        self.frames: list[bytes] = []
        self.ends: list[str] = []
        self._firehose = Firehose(relay.url)

    async def read(self, connections: int, within: float = 20.0) -> None:
        opened = self._firehose.connections(lambda: self.cursor)
        async with asyncio.timeout(within), aclosing(opened):
            async for connection in opened:
                await self._read(connection)
                if len(self.ends) == connections:
                    return

    async def _read(self, connection: Connection) -> None:
        async with aclosing(connection.frames()) as frames:
            async for frame in (frame async for several in frames for frame in several):
                self.frames.append(frame)
                if frame.isdigit():
                    self.cursor = int(frame)
                    connection.useful = True
        self.ends.append(connection.end)


def test_the_url_names_the_cursor_or_the_live_end() -> None:
    path = "/xrpc/com.atproto.sync.subscribeRepos"
    assert subscribe_url("wss://relay.test/", None) == f"wss://relay.test{path}"
    assert subscribe_url("wss://relay.test", 0) == f"wss://relay.test{path}?cursor=0"


def test_delays_double_up_to_a_minute_and_are_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.5)
    monkeypatch.setattr(module, "MAX_DELAY", MAX_DELAY)
    assert MAX_DELAY == 60
    longest = list(islice(delays(lambda: 1.0), 10))
    assert longest == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert list(islice(delays(lambda: 0.0), 10)) == pytest.approx([d / 10 for d in longest])


async def test_after_a_clean_and_an_unclean_end_it_goes_on_behind_the_cursor(relay: Relay) -> None:
    relay.scripts = [sending(b"5", b"6"), breaking(b"7"), sending(b"8")]
    reader = Reader(relay)
    await reader.read(3)
    assert relay.cursors == [None, 6, 7]
    assert reader.frames == [b"5", b"6", b"7", b"8"]
    assert reader.ends[0] == reader.ends[2] == "closed by the relay"
    assert "no close frame" in reader.ends[1]


async def test_a_frame_of_5_mb_is_taken(relay: Relay) -> None:
    relay.scripts = [sending(bytes(MAX_FRAME))]
    reader = Reader(relay)
    await reader.read(1)
    assert [len(frame) for frame in reader.frames] == [MAX_FRAME]


async def test_a_frame_of_more_ends_the_connection_and_is_stepped_over_at_last(
    relay: Relay,
) -> None:
    async def oversized(relay: Relay, socket: ServerConnection, cursor: int | None) -> None:
        await sending(*([BIG] if cursor == 7 else [b"9"]))(relay, socket, cursor)

    relay.scripts = [sending(b"7", BIG), *[oversized] * 4]
    reader = Reader(relay)
    await reader.read(4)
    assert relay.cursors == [None, 7, 7, 8]
    assert reader.frames == [b"7", b"9"]
    assert "1009" in reader.ends[0]


async def test_one_after_the_other_is_stepped_over_until_the_stream_goes_on(relay: Relay) -> None:
    relay.scripts = [sending(BIG)] * 5 + [sending(b"9")]
    reader = Reader(relay, cursor=3)
    await reader.read(6)
    assert relay.cursors == [3, 3, 3, 4, 5, 6]
    assert reader.cursor == 9


async def test_text_comes_as_its_bytes_also_if_it_is_none(relay: Relay) -> None:
    relay.scripts = [sending("hello"), text(b"\xff\xfe")]
    reader = Reader(relay)
    await reader.read(2)
    assert reader.frames == [b"hello", b"\xff\xfe"]
    assert reader.ends == ["closed by the relay"] * 2


async def test_a_dead_connection_is_noticed_by_its_missing_pongs(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(module, "PING_TIMEOUT", 0.05)
    relay.scripts = [hanging, sending(b"1")]
    reader = Reader(relay)
    await reader.read(2)
    assert "keepalive ping timeout" in reader.ends[0]
    assert reader.frames == [b"1"]


async def test_a_quiet_connection_that_answers_pings_is_kept(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_INTERVAL", 0.03)
    monkeypatch.setattr(module, "PING_TIMEOUT", 0.2)
    reader = Reader(relay)
    with pytest.raises(TimeoutError):
        await reader.read(1, within=0.5)
    assert len(relay.cursors) == 1


@pytest.mark.parametrize(
    "answer",
    [
        refusal(503),
        refusal(429),
        refusal(400),
        refusal(200),
        refusal(302),
        refusal(302, Location="https://[bad"),
        refusal(302, Location="ws://127.0.0.1:99999/"),
        refusal(302, Location=f"ws://{'x' * 70}.invalid/"),
        refusal(302, Location="ws://x..y/"),
        refusal(302, Location="ftp://example.invalid/"),
    ],
    ids=lambda answer: f"{answer.status_code} {answer.headers.get('Location', '')}"[:30],
)
async def test_a_relay_that_refuses_is_tried_again(relay: Relay, answer: Response) -> None:
    relay.answers = [answer] * 3
    relay.scripts = [sending(b"1")]
    reader = Reader(relay, cursor=4)
    await reader.read(1)
    assert relay.cursors == [4]
    assert reader.frames == [b"1"]


async def test_nobody_there_is_tried_again_until_somebody_is(relay: Relay) -> None:
    reader = Reader(relay)
    url = relay.url
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    reader._firehose._relay = f"ws://127.0.0.1:{port}"
    reading = asyncio.create_task(reader.read(1))
    await asyncio.sleep(0.1)
    assert not reading.done()
    relay.scripts = [sending(b"1")]
    reader._firehose._relay = url
    await reading
    assert reader.frames == [b"1"]


async def test_a_host_that_speaks_no_websocket_is_tried_again(relay: Relay) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n" * 100)
        writer.close()

    async with await asyncio.start_server(garbage, "127.0.0.1", 0) as server:
        reader = Reader(relay)
        reader._firehose._relay = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(TimeoutError):
            await reader.read(1, within=0.2)


async def test_attempts_slow_down_and_a_useful_connection_speeds_them_up_again(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []

    def counted() -> Iterator[float]:
        number = 0
        while True:
            number += 1
            pauses.append(number)
            yield 0.001

    monkeypatch.setattr(module, "delays", counted)
    relay.scripts = [sending(), sending(b"x"), sending(b"1"), sending()]
    await Reader(relay).read(4)
    assert pauses == [1, 2, 1]


async def test_who_stops_reading_leaves_no_connection_open(relay: Relay) -> None:
    relay.add(1, b"1")
    connections = Firehose(relay.url).connections(lambda: 0)
    connection = await anext(connections)
    frames = connection.frames()
    assert await anext(frames) == [b"1"]
    await frames.aclose()
    await connections.aclose()
    with pytest.raises(ConnectionClosed):
        await connection._socket.receive()
