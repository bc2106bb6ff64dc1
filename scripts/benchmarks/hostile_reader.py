"""Reads frames of one kind through Rescind's pipeline, and tells how long its loop stood.

python -m scripts.benchmarks.hostile_reader KIND CACHE
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from indexer import log, python_gc
from indexer.consumer import Consumer, cursor_checkpoint
from indexer.identity.resolver import IdentityResolver
from indexer.prover import Prover
from indexer.store import repos
from indexer.store.db import Database
from indexer.stream.firehose import Connection
from scripts.benchmarks.base import MB
from scripts.benchmarks.hostile_frames import KINDS
from scripts.benchmarks.usage import memory, resident
from scripts.benchmarks.worker import document
from tests.support.account_keys import Key
from tests.support.frames import ALICE, BOB, COLLECTIONS, SCOPE, VERIFICATION, Author, verification

RELAY = "bench"
PLC_TAKES = 0.06  # seconds
AT_ONCE = 1_000_000  # bytes of frames that have come when the socket is looked at
RECONNECT = 0.3  # seconds, as the first attempts of the firehose take on average


class Frames:
    """A source that has all frames, and goes on behind a cursor when it is left."""

    def __init__(self, frames: list[tuple[int, bytes]]) -> None:
        self._frames = frames

    async def connections(
        self, cursor: Callable[[], int | None]
    ) -> AsyncGenerator[Connection, None]:
        while True:
            behind = cursor() or 0
            yield Connection(_Socket([data for seq, data in self._frames if seq > behind]))
            await asyncio.sleep(RECONNECT)


class _Socket:
    def __init__(self, frames: list[bytes]) -> None:
        self._frames = frames[::-1]

    async def receive(self) -> list[bytes]:
        await asyncio.sleep(0)
        if not self._frames:
            await asyncio.Event().wait()
        come, size = [], 0
        while self._frames and size < AT_ONCE:
            come.append(self._frames.pop())
            size += len(come[-1])
        return come


class Watch:
    """Wants a turn each millisecond."""

    stall = stall_cpu = 0.0  # ms

    async def run(self) -> None:
        while True:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            self.stall = max(self.stall, (time.perf_counter() - wall) * 1_000 - 1)
            self.stall_cpu = max(self.stall_cpu, (time.thread_time() - cpu) * 1_000)


async def read(kind: str, file: Path) -> dict[str, float]:
    frames = list(KINDS[kind]())
    last = frames[-1][0] + 1
    frames.append((last, Author(BOB).commit(last, {f"{VERIFICATION}/good": verification()})))
    key = Key.k256().did_key if kind.startswith("bad signatures") else Author.key.did_key

    async def plc(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(PLC_TAKES)
        did = request.url.path.removeprefix("/")
        found = document(did, Author.key.did_key if did == BOB else key)
        return httpx.Response(200, content=_stream(json.dumps(found).encode()))

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(plc)) as client,
        aclosing(IdentityResolver("http://plc", client)) as resolver,
        await Database.open(file) as db,
    ):
        async with db.transaction() as tx:
            await repos.save(tx, [repos.Repo(ALICE)])
        consumer = Consumer(
            db,
            SCOPE,
            Prover(resolver, SCOPE.collections.__contains__),
            source=Frames(frames),
            relay=RELAY,
            start=0,
            checkpoint=cursor_checkpoint(RELAY),
        )
        watch = Watch()
        python_gc.settle()
        before, began = resident(), time.perf_counter()
        watching = asyncio.create_task(watch.run())
        consuming = asyncio.create_task(consumer.run())
        good = 0
        while not good and not consuming.done() and time.perf_counter() - began < 300:
            await asyncio.sleep(0.02)
            good = len(await db.all("select 1 from verifications where uri like '%/good'", {}))
        seconds = time.perf_counter() - began
        for task in (consuming, watching):
            task.cancel()
        await asyncio.gather(consuming, watching, return_exceptions=True)
    return {
        "frames": len(frames),
        "seconds": seconds,
        "good": good,
        "stall": watch.stall,
        "stall_cpu": watch.stall_cpu,
        "growth": max(0, memory() - before) / MB,
    }


async def _stream(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content


def main() -> None:
    kind, cache = sys.argv[1:]
    log.configure("error", "json")
    assert SCOPE.collections == COLLECTIONS
    with TemporaryDirectory(prefix="hostile-", dir=cache) as directory:
        print(json.dumps(asyncio.run(read(kind, Path(directory) / "index.db"))))


if __name__ == "__main__":
    main()
