"""One daemon a database: two would publish the same deletions and fight over the cursor."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockError(Exception):
    """The database's lock can't be had: a daemon holds it, or there is no place for it."""


@contextmanager
def daemon_lock(db: Path) -> Iterator[None]:
    """Hold the lock of a database; the kernel frees it even after a kill -9."""
    try:
        file = _path(db).open("w")
    except OSError as error:
        raise LockError(f"{error.filename} can't be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockError(f"another daemon is running on {db}") from None
        yield


def is_running(db: Path) -> bool:
    """Whether a daemon runs on this database now."""
    if not _path(db).exists():
        return False
    try:
        with daemon_lock(db):
            return False
    except LockError:
        return True


def _path(db: Path) -> Path:
    return db.with_name(db.name + ".lock")
