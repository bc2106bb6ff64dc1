"""The real daemon as a child process, and the index that it writes, seen from outside."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from tests.localnet import LocalNetwork

T = TypeVar("T")

RESCIND = (sys.executable, "-m", "indexer")
# `rescind`, but that it ends (SIGTERM) when its standard input does: whatever becomes of the demo,
# its end of the pipe closes. `os.read`, because a buffered read can't be left at the exit.
LEASHED = """
import os, signal, threading
from indexer.cli import main

def end_with_parent():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_with_parent, daemon=True).start()
main(prog_name="rescind")
"""
READY_WITHIN = 20.0  # seconds
STOP_WITHIN = 15.0  # seconds
SERVICE_ID = "rescind"
# What a replay must not change, row for row.
INDEX_TABLES = (
    "repos", "spaces", "invites", "untrusted_invites", "verifications", "tombstones", "outbox",
    "audit", "members", "invite_tokens",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Daemon:
    """`rescind run` on a database of its own; it can be stopped, killed and started again."""

    directory: Path
    environment: Mapping[str, str]
    port: int = field(default_factory=free_port)
    process: Process | None = None

    @classmethod
    def on(cls, network: LocalNetwork, directory: Path, **settings: str) -> Self:
        """Prepare a daemon that reads the network's PDS as its relay."""
        directory.mkdir(parents=True, exist_ok=True)
        environment = {
            "RELAY": network.pds.ws_url,
            "PLC": network.plc_url,
            "HANDLE_RESOLVER": network.pds.url,
            "ALLOW_PRIVATE_HOSTS": "on",
            "LOG_FORMAT": "json",
        } | settings
        return cls(directory, {f"RESCIND_{name}": value for name, value in environment.items()})

    @property
    def db(self) -> Path:
        return self.directory / "rescind.db"

    @property
    def log(self) -> Path:
        return self.directory / "rescind.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def did(self) -> str:
        return f"did:web:localhost%3A{self.port}"

    @property
    def service(self) -> str:
        return f"{self.did}#{SERVICE_ID}"

    async def start(self, *arguments: str) -> Self:
        """Start it; return once it answers. Raises AssertionError with its log otherwise."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", LEASHED, "run", *arguments,
                env=self._environment(), cwd=self.directory, stdin=PIPE, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        await eventually(self._answers, READY_WITHIN, "an answer of the daemon")
        return self

    async def _answers(self) -> bool:
        assert not self.has_ended, f"the daemon ended:\n{self.log.read_text()[-4000:]}"
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                response = await client.get(f"{self.url}/.well-known/did.json")
            except httpx.TransportError:
                return False
            return response.is_success

    async def stop(self) -> None:
        """End it in order (SIGTERM)."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it without warning (SIGKILL)."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.send_signal(number)
            try:
                async with asyncio.timeout(STOP_WITHIN):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                raise
        # Our end as well, so that the transport does not linger until the garbage collector.
        assert self.process.stdin is not None
        self.process.stdin.close()

    @property
    def has_ended(self) -> bool:
        return self.process is not None and self.process.returncode is not None

    async def command(
        self, *arguments: str, stdin: str | None = None, within: float = 60.0
    ) -> tuple[int, str, str]:
        """Run another `rescind` command on the same database: its status, stdout, stderr."""
        async with self.spawned(*arguments) as process, asyncio.timeout(within):
            out, err = await process.communicate((stdin or "").encode())
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    @asynccontextmanager
    async def spawned(self, *arguments: str) -> AsyncIterator[Process]:
        """Begin another command; it is killed if it still runs at the end."""
        process = await asyncio.create_subprocess_exec(
            *RESCIND, *arguments,
            env=self._environment(), cwd=self.directory,
            stdin=PIPE, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command that must succeed; return what it printed."""
        status, out, err = await self.command(*arguments, stdin=stdin)
        assert status == 0, f"rescind {' '.join(arguments)}: {status}\n{out}\n{err}"
        return out

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.ok("status", "--json"))
        return found

    async def call(self, nsid: str, body: Any, token: str | None) -> httpx.Response:
        """Call a procedure of the daemon directly."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return await client.post(f"{self.url}/xrpc/{nsid}", json=body, headers=headers)

    def rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        """Query the index from outside, over a read-only connection."""
        with closing(sqlite3.connect(f"file:{self.db}?mode=ro", uri=True, timeout=10)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql, parameters)]

    def index(self) -> dict[str, list[dict[str, Any]]]:
        """Return the whole index, row for row."""
        return {t: self.rows(f"select * from {t} order by 1, 2") for t in INDEX_TABLES}

    def changed_since(self, before: dict[str, list[dict[str, Any]]]) -> list[tuple[str, Any, Any]]:
        """Return (table, row before, row now) of what is no longer as it was; None for no row."""
        return [
            (table, old, new)
            for table, now in self.index().items()
            for old, new in zip_longest(before[table], now)
            if old != new
        ]

    async def sees(self, sql: str, *parameters: object, within: float = 15.0) -> dict[str, Any]:
        """Wait until a query has a row, and return it."""

        async def find() -> dict[str, Any] | None:
            return next(iter(self.rows(sql, *parameters)), None)

        return await eventually(find, within, f"{sql} {parameters}")

    async def settles(self, within: float = 30.0) -> None:
        """Wait until every repo is found, and each is whole, or was asked for if not served."""
        await self.sees(
            """
            select 1 where not exists (select 1 from backfills where done_at is null)
                and not exists (
                    select 1 from repos where (sync <> 'synchronized' and hosting = 'active')
                        or (sync = 'desynchronized' and hosting <> 'deleted'))
            """,
            within=within,
        )

    async def reaches(self, seq: int, within: float = 20.0) -> None:
        """Wait until the stored cursor is at this seq."""
        await self.sees("select seq from cursors where seq >= ?", seq, within=within)

    def logged(self) -> list[dict[str, Any]]:
        """Return the log entries so far; what is no JSON (the banner) is left out."""
        return [
            json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")
        ]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        root = str(Path(__file__).parents[2])
        return {
            **kept,
            "PYTHONPATH": root,
            "RESCIND_DB": str(self.db),
            "RESCIND_BIND": f"127.0.0.1:{self.port}",
            **self.environment,
        }


async def eventually(find: Callable[[], Awaitable[T | None]], within: float, what: str) -> T:
    """Ask again and again until there is an answer that is true; AssertionError if none comes."""
    deadline = time.monotonic() + within
    while not (found := await find()):
        assert time.monotonic() < deadline, f"did not come within {within} s: {what}"
        await asyncio.sleep(0.05)
    return found
