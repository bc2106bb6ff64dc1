"""A server under measurement, as its client sees it: a process of its own, on a core of its own."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from indexer.config.settings import PREFIX
from scripts.benchmarks.base import ROOT, BenchError
from scripts.benchmarks.cores import BESIDE, MEASURED, on
from scripts.benchmarks.xrpc_client import BadAnswerError, Took, as_fast_as_possible, at_a_pace
from xrpc.publishing.publisher import REST

CONNECTIONS = 32  # at once
START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 20.0  # seconds
REST_TIMEOUT = 60.0  # seconds
LOOK_EVERY = 2 * REST  # seconds, to see whether it is at rest: not between a nudge and its work
AT_REST = 0.05  # of a core's time: what it does when nobody calls
MAX_WORDS = 4_000  # characters of its log that are shown when it fails


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of calls took, here and there."""

    took: Took
    server_cpu: float  # seconds, of all threads


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs."""

    port: int
    process: Process

    async def fast(self, requests: Sequence[bytes], connections: int = CONNECTIONS) -> Run:
        """Call it as fast as it answers."""
        before = await self._cpu()
        took = await as_fast_as_possible(self.port, requests, connections)
        return Run(took, await self._cpu() - before)

    async def paced(self, requests: Sequence[bytes], per_second: float) -> Run:
        """Call it at fixed times."""
        before = await self._cpu()
        took = await at_a_pace(self.port, requests, CONNECTIONS, per_second)
        return Run(took, await self._cpu() - before)

    async def rest(self) -> None:
        """Wait until it has nothing left to do, such as to publish; TimeoutError if it goes on."""
        before = await self._cpu()
        async with asyncio.timeout(REST_TIMEOUT):
            while True:
                await asyncio.sleep(LOOK_EVERY)
                now = await self._cpu()
                if now - before < LOOK_EVERY * AT_REST:
                    return
                before = now

    async def _cpu(self) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(b"\n")
        seconds: float = json.loads(await self.process.stdout.readline())
        return seconds


@asynccontextmanager
async def serving(what: str, file: Path) -> AsyncIterator[Served]:
    """Run a server of `xrpc_worker`; `BenchError` if it does not start, or dies."""
    words = file.with_name("server.log")
    # The defaults are measured, not what is set here for a daemon, nor in an `.env`.
    environment = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    command = (sys.executable, "-P", "-m", "scripts.benchmarks.xrpc_worker", what, str(file))
    with words.open("wb") as errors, on(MEASURED):
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            cwd=file.parent,
            env={**environment, "PYTHONPATH": str(ROOT)},
        )
    assert process.stdin
    assert process.stdout
    try:
        async with asyncio.timeout(START_TIMEOUT):
            port = await process.stdout.readline()
        if not port:
            raise BenchError(f"the server {what} did not start:\n{_end(words)}")
        with on(BESIDE):
            yield Served(int(port), process)
        process.stdin.close()  # which ends it
        async with asyncio.timeout(STOP_TIMEOUT):
            if await process.wait():
                raise BenchError(f"the server {what} failed:\n{_end(words)}")
    except (TimeoutError, BadAnswerError) as error:
        raise BenchError(f"the server {what}: {error or 'no answer'}\n{_end(words)}") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _end(words: Path) -> str:
    return words.read_text(errors="replace")[-MAX_WORDS:]
