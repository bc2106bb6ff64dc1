"""An HTTP client that does next to nothing, so that what it measures is the server."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Self

WITHIN = 120.0  # seconds for a run, besides what its pace takes

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class BadAnswerError(Exception):
    """Something else was answered than what is measured."""


class Connection(asyncio.Protocol):
    """A connection that is kept, with one request at a time, and answers of status 200 only."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, port: int) -> Self:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; the future is its answer's body."""
        assert self._transport
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._answer.set_exception(BadAnswerError("the server hung up before it was asked"))
        self._transport.write(request)
        return self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n") if blank else None
        if length is None or len(body) < int(length[1]):
            return
        self._received = b""
        assert self._answer
        if self._answer.done():
            return
        if head.startswith(b"HTTP/1.1 200 "):
            self._answer.set_result(body)
        else:
            self._answer.set_exception(BadAnswerError(f"{head[:12]!r}: {body[:300]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(BadAnswerError(f"the server hung up: {exc}"))


@dataclass(frozen=True, slots=True)
class Took:
    """What some calls took. `cpu` is this process's own: a client that is busy measures itself."""

    seconds: float
    cpu: float
    latencies: list[float]  # seconds, one a call
    answer: bytes  # the body of one of them

    def quantile(self, percent: int) -> float:
        """Return within how many seconds this part of the calls was answered."""
        return quantiles(self.latencies, n=100, method="inclusive")[percent - 1]


async def as_fast_as_possible(port: int, requests: Sequence[bytes], connections: int) -> Took:
    """Ask over some connections, over each as soon as it has its answer."""
    waiting = iter(requests)
    latencies: list[float] = []
    answer = b""

    async def ask(connection: Connection) -> None:
        nonlocal answer
        for request in waiting:
            since = time.perf_counter()
            answer = await connection.ask(request)
            latencies.append(time.perf_counter() - since)

    async with _connected(port, connections) as connected:
        start, cpu = time.perf_counter(), time.process_time()
        async with asyncio.timeout(WITHIN), first_failure_alone() as tasks:
            for connection in connected:
                tasks.create_task(ask(connection))
        return Took(time.perf_counter() - start, time.process_time() - cpu, latencies, answer)


async def at_a_pace(
    port: int, requests: Sequence[bytes], connections: int, per_second: float
) -> Took:
    """Ask at fixed times, whether the answers before have come or not.

    An answer's latency counts from the time that its call was due at: a server that stops for a
    while is late for all the calls of that while.
    """
    latencies: list[float] = []
    answer = b""
    # All of them in turn: the server closes one that is idle for some seconds.
    free: asyncio.Queue[Connection] = asyncio.Queue()

    async def ask(request: bytes, due: float) -> None:
        nonlocal answer
        connection = await free.get()
        answer = await connection.ask(request)
        latencies.append(time.perf_counter() - due)
        free.put_nowait(connection)

    async with _connected(port, connections) as connected:
        for connection in connected:
            free.put_nowait(connection)
        start, cpu = time.perf_counter(), time.process_time()
        within = WITHIN + len(requests) / per_second
        async with asyncio.timeout(within), first_failure_alone() as tasks:
            for number, request in enumerate(requests):
                due = start + number / per_second
                await asyncio.sleep(due - time.perf_counter())
                tasks.create_task(ask(request, due))
        return Took(time.perf_counter() - start, time.process_time() - cpu, latencies, answer)


@asynccontextmanager
async def _connected(port: int, count: int) -> AsyncIterator[list[Connection]]:
    connections: list[Connection] = []
    try:
        for _ in range(count):
            connections.append(await Connection.open(port))
        yield connections
    finally:
        for connection in connections:
            connection.close()


@asynccontextmanager
async def first_failure_alone() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group of which the first failure leaves alone, not in a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
