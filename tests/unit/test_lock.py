"""One daemon a database, and whoever asks is told the truth about it."""

import fcntl
import multiprocessing
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from indexer.lock import LockError, daemon_lock, is_running


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    db = tmp_path / "rescind.db"
    with (
        daemon_lock(db),
        pytest.raises(LockError, match="another daemon is running"),
        daemon_lock(db),
    ):
        pass


def test_the_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    db = tmp_path / "rescind.db"
    for _ in range(2):
        with daemon_lock(db):
            assert is_running(db)
        assert not is_running(db)


def test_another_database_has_its_own_lock(tmp_path: Path) -> None:
    with daemon_lock(tmp_path / "a.db"), daemon_lock(tmp_path / "b.db"):
        assert is_running(tmp_path / "a.db")
    assert not is_running(tmp_path / "c.db")
    assert not (tmp_path / "c.db").exists()  # who asks makes nothing


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="missing"), daemon_lock(tmp_path / "missing" / "x.db"):
        pass


def _hold(db: Path) -> None:
    with daemon_lock(db):
        (db.parent / "held").touch()
        time.sleep(60)


def test_a_killed_daemon_leaves_no_lock(tmp_path: Path) -> None:
    db = tmp_path / "rescind.db"
    daemon = multiprocessing.get_context("spawn").Process(target=_hold, args=(db,))
    daemon.start()
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "held").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert is_running(db)
    finally:
        daemon.kill()
        daemon.join()
    assert not is_running(db)
    with daemon_lock(db):
        pass


@contextmanager
def looked_at(db: Path) -> Iterator[IO[bytes]]:
    """Be in the middle of the look that another process takes at the lock."""
    with db.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file


def test_who_looks_does_not_keep_a_daemon_from_its_start(tmp_path: Path) -> None:
    db = tmp_path / "rescind.db"
    db.touch()
    with looked_at(db) as file:
        looking = threading.Timer(0.08, fcntl.flock, (file, fcntl.LOCK_UN))
        looking.start()
        with daemon_lock(db):
            assert is_running(db)
        looking.join()


def test_two_who_look_at_once_do_not_take_each_other_for_a_daemon(tmp_path: Path) -> None:
    db = tmp_path / "rescind.db"
    db.touch()
    with looked_at(db):
        assert not is_running(db)


def test_who_may_not_write_there_is_not_told_that_a_daemon_runs(tmp_path: Path) -> None:
    db = tmp_path / "rescind.db"
    with daemon_lock(db):
        pass
    db.chmod(stat.S_IRUSR)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert not is_running(db)
    finally:
        tmp_path.chmod(stat.S_IRWXU)
