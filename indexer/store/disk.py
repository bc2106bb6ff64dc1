"""How much room there is on the disk, said before it is too late."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from indexer import log

LOOK_EVERY = 60.0  # seconds
LOW = 1_000_000_000  # bytes: the WAL may grow to 64 MB, a repo's CAR to 1 GB
SAY_AGAIN = 60  # looks

_log = log.get("disk")


def free_bytes(path: Path) -> int | None:
    """Return what a process like this one may still write beside a file; None if nobody knows."""
    try:
        found = os.statvfs(path.resolve().parent)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


async def watch(paths: Iterable[Path]) -> None:
    """Warn, now and then for as long as it is so, while one of these has little room."""
    said: dict[Path, int] = {}  # looks since
    while True:
        for path in paths:
            free = free_bytes(path)
            if free is None or free >= LOW:
                said.pop(path, None)
                continue
            if said.get(path, SAY_AGAIN) >= SAY_AGAIN:
                said[path] = 0
                _log.warning(
                    "disk.low",
                    file=str(path),
                    free_megabytes=free // 1_000_000,
                    action="make room: a full disk ends the daemon",
                )
            said[path] += 1
        await asyncio.sleep(LOOK_EVERY)
