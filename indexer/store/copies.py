"""Copies of the index: made while it is written to, and looked over before they take its place."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from indexer.store import files
from indexer.store.migrations import SCHEMA_VERSION, DatabaseError


def make(db: Path, to: Path) -> None:
    """Copy an index as it stands at one moment into a new file, which is on the disk then.

    Also beside a daemon, which goes on meanwhile. Raises `DatabaseError`.
    """
    made = to.with_name(to.name + ".part")
    with _told(to):
        if to.exists():
            raise DatabaseError(f"{to} is there already: name a new file, or remove it.")
        made.unlink(missing_ok=True)
        files.make(made)
        try:
            with closing(sqlite3.connect(db)) as source, closing(sqlite3.connect(made)) as copy:
                source.backup(copy)  # in one step: it sees one state, and writers wait for nothing
                copy.execute("pragma journal_mode = delete")  # one file, without a WAL beside it
            sync(made)
            made.rename(to)
            sync(to.parent)
        finally:
            made.unlink(missing_ok=True)


def take(copy: Path, to: Path) -> None:
    """Copy a copy, with a WAL that was left beside it, to be looked over and changed there.

    Raises `DatabaseError` if it is damaged, or no index that this version can read.
    """
    with _told(copy):
        for source, target in zip(
            (copy, *files.beside(copy)), (to, *files.beside(to)), strict=True
        ):
            target.unlink(missing_ok=True)
            if source.exists() and not source.name.endswith("-shm"):
                files.make(target)
                shutil.copyfile(source, target)
        with closing(sqlite3.connect(to)) as taken:
            taken.execute("pragma journal_mode = delete")  # folds in the WAL
            problems = [row[0] for row in taken.execute("pragma integrity_check(3)")]
            names = {row[0] for row in taken.execute("select name from sqlite_schema")}
            (version,) = taken.execute("pragma user_version").fetchone()
        if problems != ["ok"]:
            raise DatabaseError(f"{copy} is damaged: {'; '.join(problems)}.")
        if "tombstones" not in names:
            raise DatabaseError(f"{copy} is no index of Rescind.")
        if version > SCHEMA_VERSION:
            raise DatabaseError(f"{copy} was made by a newer version of Rescind: upgrade it.")


def put_in_place(new: Path, db: Path) -> Path | None:
    """Put a file in the place of an index, which is kept beside it; return as what it is kept.

    At each moment there is one or the other: the last step is one rename. Nobody may have the index
    open. Returns None if there was nothing.
    """
    with _told(db):
        sync(new)
        kept = None
        if db.exists() and (db.stat().st_size or any(file.exists() for file in files.beside(db))):
            _fold(db)
            kept = _free_name(db)
            for file, suffix in zip((*files.beside(db),), ("-wal", "-shm"), strict=True):
                # Only of a file that is damaged: it keeps what it had.
                if file.exists():
                    file.rename(kept.with_name(kept.name + suffix))
            os.link(db.resolve(), kept)
        new.rename(db.resolve())
        sync(db.resolve().parent)
    return kept


def _fold(db: Path) -> None:
    """Leave no WAL beside an index, if it can be read at all."""
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(db, timeout=0)) as old:
        old.execute("pragma journal_mode = delete")


def _free_name(db: Path) -> Path:
    real = db.resolve()
    names = [f"{real.name}.before-restore", *(f"{real.name}.before-restore.{n}" for n in range(99))]
    for name in names:
        path = real.with_name(name)
        if not path.exists():
            return path
    raise DatabaseError(f"there are too many files {names[0]}.*: remove some.")


def sync(path: Path) -> None:
    """Have a new file, or the names in a folder, on the disk. Not of an open database's file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(f"{path}: {error}.") from error
    except OSError as error:
        raise DatabaseError(f"{error.filename or path}: {error.strerror}.") from error
