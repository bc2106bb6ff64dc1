"""What `scripts/bench xrpc` measures is what is said: real answers, and delays that count."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from scripts.benchmarks import xrpc, xrpc_stage
from scripts.benchmarks.base import BenchError
from scripts.benchmarks.xrpc import Amount
from scripts.benchmarks.xrpc_client import (
    BadAnswerError,
    Connection,
    as_fast_as_possible,
    at_a_pace,
)
from scripts.benchmarks.xrpc_server import serving
from scripts.benchmarks.xrpc_stage import FEW, MANY, Owner, Size

SMALL = Size(owners=4, few=2, many=6)
CALLS = Amount(bare=8, few=8, many=8, paced=10, fast=10)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Answer = Callable[[bytes], Awaitable[bytes]]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[int]:
    """Serve on loopback what a function answers to each head; yield the port."""

    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        served.append(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.write(await answer(await reader.readuntil(b"\r\n\r\n")))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.wait(served)


async def test_every_call_is_answered_and_every_revocation_has_its_tombstone(
    tmp_path: Path,
) -> None:
    measured = await xrpc.measure(tmp_path, SMALL, CALLS, rounds=1)
    figures = xrpc.report(measured)
    assert figures.keys() >= {"ratio_bare", "revoke_p99_ms", "revoke_per_s"}
    assert all(figure > 0 for figure in figures.values())
    for calls, count in (
        (measured.bare, CALLS.bare),
        (measured.asgi, CALLS.bare),
        (measured.few, CALLS.few),
        (measured.many, CALLS.many),
        (measured.paced, CALLS.paced),
        (measured.fast, CALLS.fast),
    ):
        (run,) = calls.runs
        assert len(run.took.latencies) == count
        assert run.server_cpu > 0
    (few,), (many,), (bare,) = measured.few.runs, measured.many.runs, measured.bare.runs
    assert len(json.loads(few.took.answer)["invites"]) == SMALL.few
    assert len(json.loads(many.took.answer)["invites"]) == SMALL.many
    assert len(bare.took.answer) == len(few.took.answer)
    assert not list(tmp_path.iterdir())


async def test_an_answer_that_is_an_error_ends_the_bench(tmp_path: Path) -> None:
    index = tmp_path / "index.db"
    await xrpc_stage.fill(index, SMALL)
    stranger = Owner(SMALL.owners)
    with pytest.raises(BenchError, match=r"NotFound.*there is no such space"):
        async with serving("rescind", index) as server:
            await server.fast(xrpc_stage.listing([stranger], FEW))


async def test_a_server_at_rest_has_published_what_was_revoked(tmp_path: Path) -> None:
    index = tmp_path / "index.db"
    await xrpc_stage.fill(index, SMALL)
    calls = xrpc_stage.revoking(SMALL.everybody(), MANY, SMALL.owners)
    async with serving("rescind", index) as server:
        await server.fast(calls)
        await server.rest()
        with closing(sqlite3.connect(index)) as db:
            assert db.execute("select state, count(*) from outbox group by state").fetchall() == [
                ("sent", len(calls))
            ]


async def test_a_server_that_does_not_start_is_told_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"(?s)did not start.*FileNotFoundError"):
        async with serving("bare", tmp_path / "missing.json"):
            pass


async def test_every_revocation_is_of_another_invite() -> None:
    owners = SMALL.everybody()
    calls = xrpc_stage.revoking(owners, MANY, SMALL.owners * SMALL.many)
    bodies = {call.partition(b"\r\n\r\n")[2] for call in calls}
    assert len(bodies) == len(calls) == SMALL.owners * SMALL.many


async def test_calls_that_fall_due_while_the_server_stands_still_are_late_too() -> None:
    is_first = True

    async def answer(_: bytes) -> bytes:
        nonlocal is_first
        if is_first:
            is_first = False
            await asyncio.sleep(0.3)
        return OK

    async with answering(answer) as port:
        took = await at_a_pace(port, [b"GET / HTTP/1.1\r\n\r\n"] * 20, 1, per_second=100)
    assert len(took.latencies) == 20
    # The last one fell due 110 ms before the server went on.
    assert min(took.latencies) > 0.1
    assert took.quantile(99) > 0.28


async def test_all_connections_are_used_so_that_none_is_closed_for_being_idle() -> None:
    asked: set[int] = set()

    async def answer(_: bytes) -> bytes:
        task = asyncio.current_task()
        asked.add(id(task))
        return OK

    async with answering(answer) as port:
        await at_a_pace(port, [b"GET / HTTP/1.1\r\n\r\n"] * 20, 4, per_second=200)
    assert len(asked) == 4


async def test_a_call_over_a_connection_that_was_closed_does_not_wait_for_ever() -> None:
    async def answer(_: bytes) -> bytes:
        raise ConnectionResetError

    async with answering(answer) as port:
        connection = await Connection.open(port)
        with pytest.raises(BadAnswerError, match="hung up"):
            await connection.ask(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(1):
            with pytest.raises(BadAnswerError, match="before it was asked"):
                await connection.ask(b"GET / HTTP/1.1\r\n\r\n")


async def test_an_answer_may_come_in_pieces_and_one_that_fails_is_no_answer() -> None:
    async def answer(head: bytes) -> bytes:
        return OK if head.startswith(b"GET /good") else OK.replace(b"200 OK", b"500 Oh")

    requests = [b"GET /good HTTP/1.1\r\n\r\n"] * 3
    async with answering(answer) as port:
        took = await as_fast_as_possible(port, requests, 2)
        assert (len(took.latencies), took.answer) == (3, b"{}")
        with pytest.raises(BadAnswerError, match="500"):
            await as_fast_as_possible(port, [b"GET /bad HTTP/1.1\r\n\r\n"], 1)
