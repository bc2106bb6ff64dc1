"""The files of an open database: they stay where they are, for their owner's eyes only."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from indexer import log
from indexer.lock import ReplacedError, check_file, identity

WATCH_EVERY = 1.0  # seconds
MODE = 0o600

_log = log.get("database")


def beside(path: Path) -> tuple[Path, Path]:
    """Return where SQLite keeps the WAL and its index: beside the file that links lead to."""
    real = path.resolve()
    return real.with_name(real.name + "-wal"), real.with_name(real.name + "-shm")


def make(path: Path) -> None:
    """Make an empty file that nobody else may read, unless there is one. SQLite keeps its mode.

    Raises OSError.
    """
    with suppress(FileExistsError):
        # New, so that no connection has locks on it that its closing would drop.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, MODE))


def close_to_others(path: Path) -> None:
    """Take from others what an older version, or a copy, let them read."""
    for file in (path, *beside(path)):
        try:
            mode = file.stat().st_mode & 0o777
            if mode & ~MODE:
                file.chmod(mode & MODE)
                _log.warning("file.mode_changed", file=str(file), before=oct(mode), now=oct(MODE))
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("file.readable_by_others", file=str(file), error=error.strerror)


class Files:
    """What an open database consists of. To look at it is a `stat` of each file, never an open."""

    def __init__(self, path: Path) -> None:
        """`path` has been opened, and read, so that all of its files are there."""
        self._seen = {file: identity(file) for file in (path, *beside(path))}
        self._lost = asyncio.Event()

    def check(self) -> None:
        """Raise `ReplacedError` if a file was removed or replaced: what is written is lost then."""
        for path, file in self._seen.items():
            try:
                check_file(path, file)
            except ReplacedError:
                self._lost.set()
                raise

    async def watch(self) -> None:
        """Check for ever; raise at once what another's check has found."""
        while True:
            self.check()
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_EVERY):
                    await self._lost.wait()
