"""Rescind's pipeline on the stream, as `rescind run` has it: from the socket to the disk.

python -m scripts.benchmarks.stream_index URL FRAMES OURS DIRECTORY CACHE

OURS is how many of the frames are of ours: what they say has to be in the index at the end, and
nothing else. The database is made in CACHE, on whose disk it depends.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import libipld

from indexer import log, python_gc
from indexer.cli.daemon import daemon_checkpoint
from indexer.consumer import Checkpoint, Consumer
from indexer.identity.resolver import IdentityResolver
from indexer.prover import Prover
from indexer.store import cursors, repos
from indexer.store.cursors import Cursor
from indexer.store.db import Database, Transaction
from indexer.stream.firehose import Firehose
from indexer.stream.stats import Stats
from scripts.benchmarks.relay import BASE
from scripts.benchmarks.stream_corpus import StreamCorpus, load
from scripts.benchmarks.usage import Clock, memory
from scripts.benchmarks.worker import plc, whole
from tests.support.frames import COLLECTIONS, SCOPE

RELAY = "bench"


def _ignore(_: int) -> None:
    """Nobody wants to know."""


async def index(
    url: str,
    frames: int,
    ours: int,
    corpus: StreamCorpus,
    file: Path,
    tell: Callable[[int], None],
) -> dict[str, float]:
    """Read so many frames into a new index; return what that took.

    `tell` hears up to which seq it is applied, before each batch is on the disk.
    """
    tracked = corpus.repos["ours"]
    client = httpx.AsyncClient(transport=plc(tracked))
    async with (
        client,
        aclosing(IdentityResolver("http://plc", client)) as resolver,
        await Database.open(file) as db,
    ):
        async with db.transaction() as tx:
            await repos.save(tx, map(whole, tracked))
        prover = Prover(resolver, SCOPE.collections.__contains__)
        await prover.learn(repo.did for repo in tracked)
        stats = Stats()
        has_all = asyncio.Event()

        def reach(seq: int) -> None:
            tell(seq)
            if seq == BASE + frames:
                has_all.set()

        consumer = Consumer(
            db,
            SCOPE,
            prover,
            source=Firehose(url),
            relay=RELAY,
            start=BASE,
            checkpoint=_telling(daemon_checkpoint(RELAY, stats), reach),
            stats=stats,
            forget_identity=resolver.forget,
        )
        clock = Clock()
        consuming = asyncio.create_task(consumer.run())
        waiting = asyncio.create_task(has_all.wait())
        await asyncio.wait({consuming, waiting}, return_when=asyncio.FIRST_COMPLETED)
        async with db.transaction():  # its turn comes when the last batch is on the disk
            took = {**clock.took(), "peak": memory()}
        assert not consuming.done(), consuming.exception()
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        assert not stats.rejected, stats.rejected
        last = await check(db, corpus, ours)
    return {**took, "frames": stats.frames, "last": last}


async def check(db: Database, corpus: StreamCorpus, ours: int, relay: str = RELAY) -> int:
    """Compare the index of the corpus' repos with the first frames of ours; return its cursor."""
    records: dict[str, str] = {}  # URI to CID
    state = {repo.did: (repo.rev, repo.data) for repo in corpus.repos["ours"]}
    for frame in corpus.frames("ours")[:ours]:
        header, body = libipld.decode_dag_cbor_multi(frame)
        if header["t"] != "#commit":
            continue
        commit = libipld.decode_car(body["blocks"])[1][body["commit"]]
        state[body["repo"]] = body["rev"], libipld.encode_cid(commit["data"])
        for op in body["ops"]:
            uri = f"at://{body['repo']}/{op['path']}"
            if op["path"].partition("/")[0] not in COLLECTIONS:
                continue
            if op["cid"] is None:
                del records[uri]
            else:
                records[uri] = libipld.encode_cid(op["cid"])
    rows = await db.all(
        """
        select did, uri, cid from spaces where not revoked union all
        select did, uri, cid from invites where not revoked union all
        select did, uri, cid from verifications where not revoked
        """
    )
    found = {row["uri"]: row["cid"] for row in rows if row["did"] in state}
    assert found == records, "the index lacks or adds records"
    known = await repos.load(db, state)
    assert {did: (repo.rev, repo.data) for did, repo in known.items()} == state, "a rev is wrong"
    assert {repo.sync for repo in known.values()} == {"synchronized"}
    cursor = await cursors.load(db, relay)
    assert cursor is not None
    return cursor.seq


def _telling(checkpoint: Checkpoint, reach: Callable[[int], None]) -> Checkpoint:
    async def save(tx: Transaction, position: Cursor | None) -> None:
        await checkpoint(tx, position)
        if position is not None:
            reach(position.seq)

    return save


def read(arguments: Sequence[str], tell: Callable[[int], None] = _ignore) -> dict[str, float]:
    """Do what the command line asks for."""
    log.configure("warning", "json")
    python_gc.settle()  # as the daemon does
    url, frames, ours, corpus, cache = arguments
    with TemporaryDirectory(prefix="index-", dir=cache) as directory:
        file = Path(directory) / "index.db"
        return asyncio.run(index(url, int(frames), int(ours), load(Path(corpus)), file, tell))


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1:])))
