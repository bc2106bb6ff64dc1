"""The WAL: folded into the file time and again, and told when something keeps it from that."""

import asyncio
from collections.abc import AsyncIterator

from indexer import log
from indexer.store.connections import CHECKPOINT_PAGES, Aside

FOLD_EVERY = 1.0  # seconds between checkpoints of a daemon, beside what it reads and writes
HELD_PAGES = 4 * CHECKPOINT_PAGES  # about 256 MB that can't be folded in: somebody reads for long

_log = log.get("database")


async def keep_folding(connection: Aside) -> AsyncIterator[int]:
    """Fold the WAL into the file for ever, so that hardly any commit has to do it.

    A commit would wait for pages all over a large file to be on the disk. Yields each time how many
    pages had to stay: while a reader holds an old state of the index, the WAL grows.
    """
    said = HELD_PAGES
    while True:
        await asyncio.sleep(FOLD_EVERY)
        # passive: it waits for nobody
        row = await connection.one("pragma wal_checkpoint(passive)")
        _, pages, folded = row or (0, 0, 0)
        left = max(pages - folded, 0)
        if left >= said:
            said *= 2  # once for each doubling
            _log.warning(
                "wal.held",
                pages=left,
                megabytes=left * 4096 // 1_000_000,
                action="end the process that has been reading the database for so long",
            )
        elif not left:
            said = HELD_PAGES
        yield left
