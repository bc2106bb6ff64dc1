"""A real `rescind run` under measurement, and the network around it: a directory, a PDS, a relay.

The daemon has a core of its own; all else shares the others. It finds an index that a daemon has
left: every repo of the corpus that is of ours is known whole, the relay has been searched, and the
cursor is where the corpus begins. Owners of spaces, whom the stream does not speak of, have invites
to revoke.
"""

import json
import shutil
import time
from asyncio import StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from indexer.config.settings import PREFIX
from indexer.store import backfills, cursors, repos
from indexer.store.cursors import Cursor
from indexer.store.db import Database
from scripts.benchmarks import stream_index, worker, xrpc_stage
from scripts.benchmarks.base import BenchError
from scripts.benchmarks.cores import BESIDE, MEASURED, on
from scripts.benchmarks.relay import BASE, Plan
from scripts.benchmarks.stream_corpus import StreamCorpus
from scripts.benchmarks.stream_race import Relay, relaying
from scripts.benchmarks.xrpc_stage import Size
from tests.e2e.daemon import Daemon
from tests.support.frames import SCOPE
from tests.support.http_host import hosting, http


@dataclass(frozen=True, slots=True)
class Stage:
    """All that a daemon needs."""

    corpus: StreamCorpus
    folder: Path
    relay: Relay
    directory: str  # the URL of the directory and of the PDS

    @property
    def relay_host(self) -> str:
        return urlsplit(self.relay.url).netloc

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Daemon]:
        """Run a daemon on a copy of the index; it is stopped in order, if it has not been yet."""
        with TemporaryDirectory(prefix="daemon-", dir=self.folder) as home:
            daemon = Daemon(Path(home), self._environment())
            shutil.copy(self._index, daemon.db)
            try:
                await self.start(daemon)
                yield daemon
            except AssertionError as error:
                raise BenchError(str(error)) from error
            finally:
                await daemon.stop()

    async def start(self, daemon: Daemon) -> None:
        """Start it, or start it again."""
        with on(MEASURED):
            await daemon.start()

    async def check(self, daemon: Daemon, plan: Plan) -> None:
        """Compare its index with what was sent up to its cursor. Raises `AssertionError`."""
        relay = self.relay_host
        async with await Database.open(daemon.db) as db:
            cursor = await cursors.load(db, relay)
            assert cursor is not None
            await stream_index.check(db, self.corpus, plan.ours_in(cursor.seq - BASE), relay)

    @property
    def _index(self) -> Path:
        return self.folder / "index.db"

    async def fill(self, owners: Size) -> None:
        await xrpc_stage.fill(self._index, owners, self.directory)
        now = time.time_ns() // 1_000_000
        relay = self.relay_host
        async with await Database.open(self._index) as db, db.transaction() as tx:
            await repos.save(tx, map(worker.whole, self.corpus.repos["ours"]))
            # From the oldest on: the relay has no frame at `BASE`, to ask for it again.
            await cursors.save(tx, relay, Cursor(0, None, now))
            await backfills.begin(tx, relay, SCOPE.collections)
            for search in await backfills.load(tx, relay):
                await backfills.advance(tx, relay, search, None, 0, now)

    def _environment(self) -> dict[str, str]:
        # Where the index was made, the same settings were in force.
        made = xrpc_stage.settings(self._index)
        assert made.secret_key
        environment = {
            "RELAY": self.relay.url,
            "PLC": self.directory,
            "PUBLIC_URL": str(made.public_url),
            "SECRET_KEY": made.secret_key.get_secret_value(),
            "ALLOW_PRIVATE_HOSTS": "on",
            "LOG_FORMAT": "json",
        }
        return {PREFIX + name: text for name, text in environment.items()}


@asynccontextmanager
async def staged(corpus: StreamCorpus, cache: Path, owners: Size) -> AsyncIterator[Stage]:
    """Set the stage in the cache, on whose disk all of it depends."""
    keys = {repo.did: repo.key for repo in corpus.repos["ours"]}

    async def reply(path: str, writer: StreamWriter) -> None:
        key = keys.get(path.removeprefix("/"))
        status, found = (
            xrpc_stage.answer(path, host.url)
            if key is None
            else (200, worker.document(path.removeprefix("/"), key))
        )
        writer.write(http(json.dumps(found).encode(), f"{status} {HTTPStatus(status).phrase}"))

    with on(BESIDE), TemporaryDirectory(prefix="run-", dir=cache) as folder:
        async with hosting(reply) as host, relaying(corpus.directory) as relay:
            stage = Stage(corpus, Path(folder), relay, host.url)
            await stage.fill(owners)
            yield stage
