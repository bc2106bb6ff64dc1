"""The journal as it is written: a line for each revocation, on the disk before it is answered.

Others may write to the same file: `rescind invites revoke` does, beside a daemon. So each append is
made under the file's lock, at what is its end then.
"""

import asyncio
import fcntl
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from indexer import log
from indexer.journal.lines import MAX_LINE, BadLineError, Entry, decode, encode
from indexer.journal.reader import JournalError, examine, files_of

MAX_FILE = 16_000_000  # bytes; then the next one begins
MAX_AGE = 86_400_000  # ms that a file is written to: files are forgotten as a whole
PRUNE_EVERY = 3_600.0  # seconds
MAX_KNOWN = 50_000  # revocations that need not be written again when somebody asks again

_log = log.get("journal")


class Journal:
    """The journal of one process; without a path it is off, and keeps nothing.

    `days` is how long its files are kept after they were last written to.
    """

    def __init__(
        self, path: Path | None, days: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._days = days
        self._clock = clock
        self._descriptor = -1
        self._known: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        self._waiting: list[tuple[list[Entry], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._disk = ThreadPoolExecutor(1, "journal")
        self._failure: JournalError | None = None
        self._failed = asyncio.Event()

    @classmethod
    def open(
        cls, path: Path | None, days: int, clock: Callable[[], float] = time.time
    ) -> "Journal":
        """Open a journal, made if missing, and see that it can be written: else `JournalError`."""
        journal = cls(path, days, clock)
        if path is not None:
            try:
                journal._mend(path)
                journal._prune(path)
            except OSError as error:
                raise _failure(path, error) from None
        return journal

    async def keep(self, entries: Iterable[Entry]) -> None:
        """Return once a line for each of these is on the disk.

        Those that come at once share the wait for it. Raises `JournalError`: nothing may be
        acknowledged any more then, and the daemon ends.
        """
        if self.path is None:
            return
        fresh = [entry for entry in entries if entry.key not in self._known]
        if self._failure is not None:
            raise self._failure
        if not fresh:
            return
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((fresh, done))
        # A task of its own: whoever of a group is cancelled, the others' lines are written.
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all(self.path), name="journal")
        await done

    async def run(self) -> None:
        """Forget what is older than it is to be kept, for ever; raise what kept a line out."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PRUNE_EVERY):
                    await self._failed.wait()
            if self._failure is not None:
                raise self._failure
            if self.path is not None:
                with self._told(self.path):
                    await self._on_disk(self._prune, self.path)

    async def close(self) -> None:
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._disk.shutdown()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    async def __aenter__(self) -> "Journal":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _write_all(self, path: Path) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            entries = {entry.key: entry for fresh, _ in group for entry in fresh}
            try:
                if self._failure is not None:
                    raise self._failure
                data = b"".join(encode(entry) for entry in entries.values())
                with self._told(path):
                    await self._on_disk(self._append, path, data)
            except BaseException as error:
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
                if not isinstance(error, JournalError):
                    raise
            else:
                self._note(entries)
                for _, done in group:
                    if not done.done():
                        done.set_result(None)

    def _note(self, keys: Iterable[tuple[str, str, int]]) -> None:
        for key in keys:
            self._known[key] = None
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _told(self, path: Path) -> "_Told":
        return _Told(self, path)

    def fail(self, failure: JournalError) -> None:
        """Let nothing be kept from now on: what is not in the journal is not acknowledged."""
        self._failure = self._failure or failure
        self._failed.set()

    async def _on_disk(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)

    # --- on the disk, by its thread ---

    def _append(self, path: Path, data: bytes) -> None:
        with _Locked(self, path) as descriptor:
            if os.fstat(descriptor).st_size + len(data) > MAX_FILE:
                self._rotate(path)
        with _Locked(self, path) as descriptor:  # of the next file, if this one is full
            end = _cut_torn_line(descriptor, path)
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, end)  # no half a line
                raise

    def _mend(self, path: Path) -> None:
        """Cut off what a power cut has torn; put a file aside that is damaged before its end."""
        with _Locked(self, path) as descriptor:
            os.fchmod(descriptor, 0o600)
            state = examine(path)
            if state.damage:
                _log.error("journal.damaged", file=str(path), damage=state.damage)
                self._rotate(path)
            elif state.is_torn:
                _log.warning("journal.torn", file=str(path), bytes=state.size - state.end)
                os.ftruncate(descriptor, state.end)
                os.fsync(descriptor)

    def _prune(self, path: Path) -> None:
        """Begin a new file if this one is a day old, and remove those that are too old."""
        now = int(self._clock() * 1000)
        with _Locked(self, path) as descriptor:
            first = os.pread(descriptor, MAX_LINE, 0).partition(b"\n")[0]
            with suppress(BadLineError):
                if first and decode(first).at < now - MAX_AGE:
                    self._rotate(path)
        for file in files_of(path):
            if file != path and file.stat().st_mtime * 1000 < now - self._days * 86_400_000:
                file.unlink(missing_ok=True)
                _log.info("journal.forgotten", file=str(file), days=self._days)

    def _rotate(self, path: Path) -> None:
        numbers = [int(file.suffix[1:]) for file in files_of(path) if file != path]
        path.rename(path.with_name(f"{path.name}.{max(numbers, default=0) + 1:06}"))

    def _open(self, path: Path) -> int:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        is_new = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if is_new:
            sync_folder(path.parent)
        return self._descriptor


class _Locked:
    """The lock of the file that the path leads to now; a rotation by others is followed."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self._journal = journal
        self._path = path

    def __enter__(self) -> int:
        journal = self._journal
        while True:
            if journal._descriptor < 0:
                journal._open(self._path)
            fcntl.flock(journal._descriptor, fcntl.LOCK_EX)
            try:
                if os.path.samestat(os.fstat(journal._descriptor), self._path.stat()):
                    return journal._descriptor
            except FileNotFoundError:
                pass
            journal._open(self._path)

    def __exit__(self, *_: object) -> None:
        if self._journal._descriptor >= 0:
            fcntl.flock(self._journal._descriptor, fcntl.LOCK_UN)


class _Told:
    """What the disk says, as the journal's failure."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self._journal = journal
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            failure = _failure(self._path, error)
            self._journal.fail(failure)
            raise failure from error


def _failure(path: Path, error: OSError) -> JournalError:
    return JournalError(
        f"the journal {path} can't be written: {error.strerror}; nothing can be acknowledged "
        "without it (RESCIND_JOURNAL=off does without)"
    )


def _cut_torn_line(descriptor: int, path: Path) -> int:
    """Return where to write: behind the last whole line. Half a line was never acknowledged."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    if not end or os.pread(descriptor, 1, end - 1) == b"\n":
        return end
    start = max(0, end - MAX_LINE)
    whole = start + os.pread(descriptor, end - start, start).rfind(b"\n") + 1
    _log.warning("journal.torn", file=str(path), bytes=end - whole)
    os.ftruncate(descriptor, whole)
    return whole


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
