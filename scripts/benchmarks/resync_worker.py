"""One process that makes repos right, by their ranges or by their CARs, into an index of its own.

Arguments: `range` or `whole`, a database that is not there yet, the URLs of the PLC directory and
of the PDS, the DID of a repo to begin with, and a file with the DIDs that count, one a line.
It prints one line of JSON.
"""

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any

from indexer import log, python_gc
from indexer.cli.base import make_scope, network
from indexer.config.settings import Settings
from indexer.repos.resync import Resyncer
from indexer.store import daemon, resyncs
from indexer.store.db import Database
from scripts.benchmarks.usage import Clock, memory, resident

_REFS = Path("/proc/self/clear_refs")


async def work(way: str, file: Path, plc: str, pds: str, first: str, dids: list[str]) -> Any:
    relay = pds.replace("http", "ws", 1)
    settings = Settings.load(
        {"db": file, "plc": plc, "relay": relay, "allow_private_hosts": True, "log_level": "error"}
    )
    log.configure("error", "json")
    async with await Database.open(file) as db, network(settings) as (client, resolver):
        resyncer = Resyncer(
            db, make_scope(settings), resolver, client, relay_url=relay, relay="bench"
        )
        await _ask(db, way, [first])
        await _run(resyncer, db, [first])  # all is imported, and all threads have begun
        async with db.transaction() as tx:
            await daemon.start(tx, pid=1, version="", relay="bench", now=0)  # count from here on
        await _ask(db, way, dids)
        gc.collect()
        idle = resident()
        _REFS.write_text("5")  # the peak begins anew: man 5 proc
        clock = Clock()
        await _run(resyncer, db, dids)
        took = clock.took()
        by_way = await daemon.resyncs_by_way(db)
        total = {key: sum(each[key] for each in by_way.values()) for key in ("bytes", "requests")}
        rows = await db.all("select did, cid from verifications where did <> :did order by uri",
                            {"did": first})  # fmt: skip
        return {
            **took,
            **total,
            "memory": max(memory() - idle, 0),
            "records": len(rows),
            "index": hash(tuple(tuple(row) for row in rows)),
            "ways": {name: each["repos"] for name, each in by_way.items()},
        }


async def _ask(db: Database, way: str, dids: list[str]) -> None:
    async with db.transaction() as tx:
        for did in dids:
            await resyncs.ask(tx, did, whole=way == "whole")


async def _run(resyncer: Resyncer, db: Database, dids: list[str]) -> None:
    """Work as the daemon does, until these repos are right."""
    if len(dids) == 1:
        await resyncer.resync(dids[0])
    else:
        running = asyncio.create_task(resyncer.run())
        # Not by `count`, which takes long enough to be part of what is measured.
        while await db.one("select 1 from repos where sync <> 'synchronized' limit 1"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    done, _, _ = await resyncs.count(db, dids, 0)
    if done != len(dids):
        state = await resyncs.load(db, dids[0])
        raise SystemExit(f"{len(dids) - done} repos could not be had: {state}")


def main() -> None:
    way, file, plc, pds, first, listed = sys.argv[1:]
    python_gc.settle()
    dids = Path(listed).read_text().split()
    print(json.dumps(asyncio.run(work(way, Path(file), plc, pds, first, dids))))


if __name__ == "__main__":
    main()
