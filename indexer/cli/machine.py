"""What the machine gives: open files and connections, and room on the disk."""

import asyncio
import errno
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from indexer import log
from indexer.config.settings import PREFIX, ConfigError, Settings
from indexer.store.disk import free_bytes

# For the database, CARs on their way, and hosts that are asked: two clients of 100 connections.
RESERVE = 256
LEAST = 16  # connections of clients
SAY_EVERY = 60.0  # seconds between two words on connections that could not be taken
LOOK_EVERY = 60.0  # seconds between looks at the disk
LOW = 1_000_000_000  # bytes: the WAL may grow to 64 MB, a repo's CAR to 1 GB
SAY_AGAIN = 60  # looks

_log = log.get("daemon")


def within_limit(settings: Settings) -> Settings:
    """Raise the limit on open files as far as it goes, and fit the connections of clients into it.

    Raises `ConfigError` if nothing would be left for them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY or hard - RESERVE >= settings.max_connections:
        return settings
    left = hard - RESERVE
    if left < LEAST:
        raise ConfigError(
            f"the limit on open files is {hard}: at least {RESERVE + LEAST} are needed "
            f"(`ulimit -n`, or LimitNOFILE of the service)"
        )
    _log.warning(
        "connections.cut",
        setting=f"{PREFIX}MAX_CONNECTIONS",
        wanted=settings.max_connections,
        taken=left,
        open_files=hard,
        action=f"raise the limit on open files to {RESERVE + settings.max_connections}",
    )
    return settings.model_copy(update={"max_connections": left})


class Quietly:
    """The event loop's handler of errors: where no descriptor is free, one word a minute.

    asyncio tries again in a second, and says so for each place in the queue of connections.
    """

    def __init__(self) -> None:
        self._said_at = -SAY_EVERY
        self._count = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
            return
        self._count += 1
        if time.monotonic() - self._said_at >= SAY_EVERY:
            self._said_at = time.monotonic()
            _log.error("connections.not_taken", error=error.strerror, times=self._count)


async def watch_disk(paths: Iterable[Path]) -> None:
    """Warn, and again each hour for as long as it is so, while one of these has little room."""
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
