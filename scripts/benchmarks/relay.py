"""The relay of the benchmarks: a process of its own that sends as fast as it is read.

python -m scripts.benchmarks.relay DIRECTORY

Prints its URL, and ends when its standard input does. A path behind it says what is sent:
`/1000/200000` is a stream of which 1,000 frames in a million are of ours, up to the 200,000th;
then it is silent, as a relay is when nobody writes. `/1000/200000/500/1700000000000` is written
while time goes by, from then on (Unix ms) 500 frames a second, and each frame's `time` says when.
Who asks without such a path, as `rescind run` does, gets what the last line of the standard input
says, which is answered by a line. One connection is served at a time.

Nothing is encoded while it sends: the corpus lies in memory as it goes over the wire, and only
each frame's `seq` and `time` are written into it.
"""

import os
import re
import socket
import sys
import threading
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Self
from urllib.parse import parse_qs, urlsplit

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from indexer.lexicon.syntax import format_datetime
from scripts.benchmarks.stream_corpus import (
    POOLS,
    SEQ_MARK,
    TIME_LENGTH,
    TIME_MARK,
    Pool,
    load,
)

BASE = 20_000_000_000  # the seq before the first; as large as those of the network's relays
MILLION = 1_000_000
RUN = 64  # frames that are sent at once
# As the relay of the network does with long messages (bytes).
FRAGMENT = 10_000  # of a message in each WebSocket frame
OPEN_ENDED = 20_028  # beyond it, the last WebSocket frame of a message is empty

_PLAN = re.compile(r"/(\d+)/(\d+)(?:/(\d+)/(\d+))?")
_METHOD = "/xrpc/com.atproto.sync.subscribeRepos"
_SEQ = Struct(">Q")
_TIME = Struct(f"{TIME_LENGTH}s")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which frames are sent, in which order. They are numbered from 1 on."""

    ours: int  # of a million frames that concern us
    frames: int  # in all
    rate: int = 0  # of them that are written in a second; 0: all were long ago
    since: int = 0  # when the first of them was, in Unix ms

    @classmethod
    def of(cls, path: str) -> Self:
        found = _PLAN.fullmatch(path)
        assert found, path
        return cls(*(int(number) for number in found.groups() if number))

    @property
    def path(self) -> str:
        written = f"/{self.rate}/{self.since}" if self.rate else ""
        return f"/{self.ours}/{self.frames}{written}"

    def written_at(self, number: int) -> float:
        """Return when a frame is written, in Unix seconds; for a stream that has a rate."""
        return self.since / 1000 + (number - 1) / self.rate

    def written(self, now: float) -> int:
        """Return how many frames are written by now (Unix seconds)."""
        if not self.rate:
            return self.frames
        return min(self.frames, max(0, int((now - self.since / 1000) * self.rate) + 1))

    def ours_in(self, frames: int) -> int:
        """Return how many of the first `frames` are of ours."""
        return frames * self.ours // MILLION

    def runs(self, start: int) -> Iterator[tuple[Pool, int, int]]:
        """Yield what comes behind frame `start`: the stream, the place in it, and how many.

        The places go on for ever: both streams are to be wrapped.
        """
        while start < self.frames:
            ours = self.ours_in(start)
            # The next one of ours is the first by which their count grows.
            following = -(-(ours + 1) * MILLION // self.ours) if self.ours else self.frames + 1
            others = min(following - 1, self.frames) - start
            if others:
                yield "others", start - ours, others
                start += others
            if start < self.frames:
                count = self.frames - start if self.ours == MILLION else 1
                yield "ours", ours, count
                start += count


class Wire:
    """The frames of a stream as they go over the wire."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self._bytes = bytearray()
        self._starts = array("Q", [0])
        self._seqs = array("Q")  # where they are
        self._times = array("Q")
        for frame in frames:
            place = frame.index(SEQ_MARK) + len(SEQ_MARK) - _SEQ.size
            first, *rest = _in_websocket_frames(frame)
            head = len(first) - min(len(frame), FRAGMENT)
            time = frame.index(TIME_MARK, place) + len(TIME_MARK)
            assert time + _TIME.size <= FRAGMENT
            self._seqs.append(len(self._bytes) + head + place)
            self._times.append(len(self._bytes) + head + time)
            self._bytes += b"".join((first, *rest))
            self._starts.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._seqs)

    def numbered(self, first: int, count: int, seq: int) -> memoryview:
        """Return `count` frames from the place `first` on, numbered from `seq` on."""
        write, wire = _SEQ.pack_into, self._bytes
        for number, place in enumerate(self._seqs[first : first + count], seq):
            write(wire, place, number)
        return memoryview(wire)[self._starts[first] : self._starts[first + count]]

    def date(self, first: int, count: int, time: str) -> None:
        """Let `count` frames from the place `first` on say that they were written then."""
        write, wire, text = _TIME.pack_into, self._bytes, time.encode()
        for place in self._times[first : first + count]:
            write(wire, place, text)


def _in_websocket_frames(message: bytes) -> list[bytes]:
    parts = [message[at : at + FRAGMENT] for at in range(0, len(message), FRAGMENT)]
    if len(message) > OPEN_ENDED:
        parts.append(b"")
    codes = (Opcode.BINARY, *[Opcode.CONT] * (len(parts) - 1))
    return [
        Frame(code, part, fin=number == len(parts)).serialize(mask=False)
        for number, (code, part) in enumerate(zip(codes, parts, strict=True), 1)
    ]


def stream(wires: Mapping[Pool, Wire], plan: Plan, start: int) -> Iterator[memoryview]:
    """Yield what goes over the wire behind frame `start`, some frames at a time, once written."""
    number = start + 1
    for pool, place, count in plan.runs(start):
        wire, sent = wires[pool], 0
        while sent < count:
            first = (place + sent) % len(wire)
            taken = min(count - sent, RUN, len(wire) - first)
            if plan.rate:
                # Whoever asks again, and from wherever, is shown the same frame with the same date.
                run = (number - 1) // RUN * RUN + 1
                taken = min(taken, run + RUN - number, _await(plan, number))
                wire.date(first, taken, format_datetime(round(plan.written_at(run) * 1000)))
            yield wire.numbered(first, taken, BASE + number)
            sent += taken
            number += taken


def _await(plan: Plan, number: int) -> int:
    """Wait until a frame is written; return how many are, from it on."""
    while (written := plan.written(time.time())) < number:
        time.sleep(max(0.0, plan.written_at(number) - time.time()))
    return written - number + 1


class _Subscriber:
    """The other end of a connection. Raises `ConnectionError` when it leaves."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._protocol = ServerProtocol()

    def greet(self, default: str) -> tuple[Plan, int]:
        """Return what it wants to read, and the frame that it has read last."""
        while not (events := self._protocol.events_received()):
            self.hear()
        (request,) = events
        assert isinstance(request, Request)
        url = urlsplit(request.path)
        plan = Plan.of(url.path.removesuffix(_METHOD) or default)
        self._protocol.send_response(self._protocol.accept(request))
        self._answer()
        cursor = parse_qs(url.query).get("cursor")
        # Without a cursor it wants what comes from now on, which is nothing.
        return plan, max(0, int(cursor[0]) - BASE) if cursor else plan.written(time.time())

    def hear(self, *, wait: bool = True) -> None:
        """Take what it says, if it says anything or we `wait` for it: pings and its goodbye."""
        try:
            said = self._socket.recv(65_536, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not said:
            raise ConnectionResetError
        self._protocol.receive_data(said)
        self._answer()

    def send(self, data: memoryview) -> None:
        self.hear(wait=False)
        self._socket.sendall(data)

    def _answer(self) -> None:
        self._socket.sendall(b"".join(self._protocol.data_to_send()))
        if self._protocol.state > OPEN:
            raise ConnectionResetError


def serve(connection: socket.socket, wires: Mapping[Pool, Wire], default: str) -> None:
    """Serve one subscriber until it leaves: what its path says, or else this one."""
    subscriber = _Subscriber(connection)
    plan, start = subscriber.greet(default)
    for data in stream(wires, plan, start):
        subscriber.send(data)
    while True:
        subscriber.hear()


def main() -> None:
    (directory,) = sys.argv[1:]
    corpus = load(Path(directory))
    wires = {pool: Wire(corpus.frames(pool)) for pool in POOLS}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"ws://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        defaults = [Plan(0, 0).path]
        threading.Thread(target=_hear, args=(defaults,), daemon=True).start()
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    serve(connection, wires, defaults[-1])
                except ConnectionError:
                    continue


def _hear(defaults: list[str]) -> None:
    for line in sys.stdin:
        defaults.append(line.strip())
        print(flush=True)
    os._exit(0)  # the main thread waits for a subscriber


if __name__ == "__main__":
    main()
