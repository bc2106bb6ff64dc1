"""One thing that is measured, in a process of its own: what it took, as JSON on its last line.

python -m scripts.benchmarks.worker prove DIRECTORY
python -m scripts.benchmarks.worker index DIRECTORY URL DATABASE
python -m scripts.benchmarks.worker resync DIRECTORY DATABASE
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx

from indexer import log, python_gc
from indexer.consumer import Consumer, cursor_checkpoint
from indexer.identity.resolver import IdentityResolver
from indexer.proof.repo import read_repo
from indexer.proof.verify import verify_commit
from indexer.prover import Prover
from indexer.rules.projection import Projection
from indexer.store import cursors, invites, repos, spaces, verifications
from indexer.store.cursors import Cursor
from indexer.store.db import Database, Transaction
from indexer.stream.decode import decode
from indexer.stream.events import Commit, VerifiedCommit
from indexer.stream.firehose import Firehose
from scripts.benchmarks.repo_corpus import Corpus, Repo, load
from scripts.benchmarks.usage import Clock, memory
from tests.support.frames import SCOPE

RELAY = "bench"


def prove(corpus: Corpus) -> dict[str, float]:
    """Decode and prove each commit, with keys that are at hand, and do nothing with it."""
    frames = corpus.frames()
    keys = {repo.did: repo.key for repo in corpus.repos}
    tracked, is_ours = set(keys), SCOPE.collections.__contains__
    now = int(time.time() * 1000)
    clock = Clock()
    proven = 0
    for frame in frames:
        event = decode(frame, SCOPE.collections, tracked)
        assert isinstance(event, Commit)
        proven += isinstance(verify_commit(event, is_ours, keys[event.repo], now), VerifiedCommit)
    took = clock.took()
    assert proven == len(frames), f"{len(frames) - proven} commits are not proven"
    return took


async def index(corpus: Corpus, url: str, file: Path) -> dict[str, float]:
    """Read the stream into a database as the daemon does, from the socket to the disk."""
    client = httpx.AsyncClient(transport=plc(corpus.repos))
    async with (
        client,
        aclosing(IdentityResolver("http://plc", client)) as resolver,
        await Database.open(file) as db,
    ):
        async with db.transaction() as tx:
            await repos.save(tx, map(whole, corpus.repos))
        prover = Prover(resolver, SCOPE.collections.__contains__)
        await prover.learn(repo.did for repo in corpus.repos)
        is_reached = asyncio.Event()
        consumer = Consumer(
            db,
            SCOPE,
            prover,
            source=Firehose(url),
            relay=RELAY,
            start=0,
            checkpoint=_telling(cursor_checkpoint(RELAY), corpus.commits, is_reached.set),
        )
        clock = Clock()
        consuming = asyncio.create_task(consumer.run())
        reaching = asyncio.create_task(is_reached.wait())
        await asyncio.wait({consuming, reaching}, return_when=asyncio.FIRST_COMPLETED)
        async with db.transaction():  # its turn comes when the last batch is on the disk
            took = clock.took()
        assert not consuming.done(), consuming.exception()
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        await _check(db, corpus)
    return took


async def resync(corpus: Corpus, file: Path) -> dict[str, float]:
    """Make a repo whole from its CAR: prove it, and bring the database in line with it."""
    did, key = corpus.whole.did, corpus.whole.key
    async with await Database.open(file) as db:
        async with db.transaction() as tx:
            await repos.track(tx, [did])
        projection = Projection(SCOPE, RELAY)
        clock = Clock()
        contents = await asyncio.to_thread(read_repo, corpus.car, did, key, SCOPE.collections)
        async with db.transaction() as tx:
            is_whole, rejected = await projection.reconcile(tx, contents, int(time.time() * 1000))
        took = clock.took()
        assert is_whole
        assert not rejected
        assert await verifications.count_live(db) == len(contents.records) > 0
    return {**took, "peak": memory()}


def plc(accounts: Iterable[Repo]) -> httpx.MockTransport:
    """Return a PLC directory that answers from memory."""
    keys = {repo.did: repo.key for repo in accounts}

    def answer(request: httpx.Request) -> httpx.Response:
        did = request.url.path.removeprefix("/")
        found = json.dumps(document(did, keys[did]))
        return httpx.Response(200, content=_stream(found.encode()))

    return httpx.MockTransport(answer)


def document(did: str, key: str) -> dict[str, Any]:
    """Return the document of a DID that has this did:key."""
    method = {
        "id": f"{did}#atproto",
        "type": "Multikey",
        "controller": did,
        "publicKeyMultibase": key.removeprefix("did:key:"),
    }
    return {"id": did, "verificationMethod": [method]}


async def _stream(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _telling(
    checkpoint: Callable[..., Any], last: int, tell: Callable[[], None]
) -> Callable[..., Any]:
    async def save(tx: Transaction, position: Cursor | None) -> None:
        await checkpoint(tx, position)
        if position is not None and position.seq == last:
            tell()

    return save


def whole(repo: Repo) -> repos.Repo:
    """Return what is known of a repo that was fetched before its first commit here."""
    return repos.Repo(
        repo.did,
        rev=repo.rev,
        data=repo.data,
        sync="synchronized",
        whole_rev=repo.rev,
        stretch=repo.rev,
    )


async def _check(db: Database, corpus: Corpus) -> None:
    """Each commit has its row, and no repo is out of step."""
    cursor = await cursors.load(db, RELAY)
    assert cursor is not None
    assert cursor.seq == corpus.commits
    assert await repos.count_by_state(db) == {"synchronized": len(corpus.repos)}
    live = [await kind.count_live(db) for kind in (spaces, invites, verifications)]
    assert sum(live) == corpus.commits, f"{live} records of {corpus.commits} commits"


def main() -> None:
    log.configure("warning", "json")
    python_gc.settle()  # as the daemon does
    what, directory, *rest = sys.argv[1:]
    corpus = load(Path(directory))
    match what, rest:
        case "prove", []:
            took = prove(corpus)
        case "index", [url, file]:
            took = asyncio.run(index(corpus, url, Path(file)))
        case "resync", [file]:
            took = asyncio.run(resync(corpus, Path(file)))
        case _:
            sys.exit(__doc__)
    print(json.dumps(took))


if __name__ == "__main__":
    main()
