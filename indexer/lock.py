"""One daemon a database: two would publish the same deletions and fight over the cursor.

The lock is the kernel's, of the database file itself: by whatever name a second daemon comes (a
symlink, a hard link), it finds it taken, and there is no lock file that could be removed.

A process that closes any descriptor of a file loses the locks that SQLite has on it (POSIX locks
are the process's, not the descriptor's). So what is opened here is never closed, but kept for who
asks next; the end of the process closes it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES = 5  # `rescind status` has the lock for a moment while it looks
PAUSE = 0.05  # seconds

_File = tuple[int, int]  # device and inode: what a name leads to

_spare: dict[_File, list[int]] = {}  # descriptors that nobody uses now


class LockError(Exception):
    """The database's lock can't be had: a daemon holds it, or there is no place for it."""


class ReplacedError(Exception):
    """The database's file was removed or replaced: what is written to the open one is lost."""


class Held:
    """The file of a database, locked for as long as a daemon lives."""

    def __init__(self, db: Path, file: _File) -> None:
        self._db = db
        self._file = file

    def check(self) -> None:
        """Raise `ReplacedError` unless the path leads to the file that is held.

        Never opens it: see above.
        """
        check_file(self._db, self._file)


@contextmanager
def daemon_lock(db: Path) -> Iterator[Held]:
    """Hold the lock of a database, made if missing; the kernel frees it even after a kill -9."""
    for tries_left in reversed(range(TRIES)):
        descriptor, file = _open(db, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _give_back(descriptor, file)
            if not tries_left:
                raise LockError(f"another daemon is running on {db}") from None
            time.sleep(PAUSE)
            continue
        try:
            if identity(db) != file:
                continue  # `rescind restore` has just put another there
            yield Held(db, file)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            _give_back(descriptor, file)
        return
    raise LockError(f"{db} is being replaced; try again")


def is_running(db: Path) -> bool:
    """Whether a daemon runs on this database now."""
    try:
        descriptor, file = _open(db, os.O_RDONLY)  # who asks need not be able to write there
    except LockError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    finally:
        _give_back(descriptor, file)


def identity(path: Path) -> _File | None:
    """Return what file a path leads to; None if it leads to none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_file(path: Path, file: _File | None) -> None:
    """Raise `ReplacedError` unless the path leads to this file."""
    found = identity(path)
    if found != file:
        what = "removed" if found is None else "replaced by another file"
        raise ReplacedError(
            f"{path} was {what} while it was in use: nothing more is acknowledged, "
            "and what is written since is not in the file that is there now"
        )


def _open(db: Path, flags: int) -> tuple[int, _File]:
    """Return a descriptor of the file that the path leads to, opened now or before."""
    file = identity(db)
    if file is not None and (spare := _spare.get(file)):
        return spare.pop(), file
    try:
        # 0600: what is in it is not for everybody on this machine. SQLite gives its -wal and -shm
        # the same mode.
        descriptor = os.open(db, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LockError(f"{error.filename} can't be opened: {error.strerror}") from None
    found = os.fstat(descriptor)
    return descriptor, (found.st_dev, found.st_ino)


def _give_back(descriptor: int, file: _File) -> None:
    _spare.setdefault(file, []).append(descriptor)
