"""One daemon a database: two would publish the same deletions and fight over the cursor."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES = 5  # `rescind status` has the lock for a moment while it looks
PAUSE = 0.05  # seconds


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
        for tries_left in reversed(range(TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not tries_left:
                    raise LockError(f"another daemon is running on {db}") from None
                time.sleep(PAUSE)
        yield


def is_running(db: Path) -> bool:
    """Whether a daemon runs on this database now."""
    try:
        file = _path(db).open("rb")  # only to look: who asks need not be able to write there
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _path(db: Path) -> Path:
    return db.with_name(db.name + ".lock")
