"""Small writes that come at once share a transaction, and so one wait for the disk."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from indexer.store.connections import Transaction
from indexer.store.near import Near

MAX_GROUP = 256  # writes of a transaction
TURN = 0.005  # seconds after which others get their turn between two writes

TOO_MUCH: Final = object()  # what a write comes to that a thread is to do instead

Work = Callable[[Transaction], Awaitable[Any]]


@dataclass(slots=True, eq=False)
class _Wanted:
    work: Work
    done: "asyncio.Future[Any]"
    result: Any = field(default=None)


class Groups:
    """The writes that wait for their turn at a connection. `check` is called after each commit."""

    def __init__(self, near: Near, turn: asyncio.Lock, check: Callable[[], None]) -> None:
        self._near = near
        self._turn = turn
        self._check = check
        self._waiting: list[_Wanted] = []
        self._task: asyncio.Task[None] | None = None

    async def write(self, work: Work) -> Any:
        """Return what `work` returns once it is on the disk, or `TOO_MUCH`; raise what it raises.

        Who is cancelled waits for what is under way: it is whole then, or not there.
        """
        wanted = _Wanted(work, asyncio.get_running_loop().create_future())
        self._waiting.append(wanted)
        # A task of its own: whoever of a group is cancelled, the others' writes go on.
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all(), name="group commit")
        try:
            return await asyncio.shield(wanted.done)
        except asyncio.CancelledError:
            if wanted in self._waiting:
                self._waiting.remove(wanted)
                raise
            while not wanted.done.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([wanted.done])
            wanted.done.exception()  # seen, so that nobody complains that it was not
            raise

    async def end(self) -> None:
        """Wait for what is under way."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write_all(self) -> None:
        while self._waiting:
            async with self._turn:
                group = self._waiting[:MAX_GROUP]
                del self._waiting[:MAX_GROUP]
                if not group:
                    continue  # who waited was cancelled
                try:
                    await self._write_group(group)
                except BaseException as error:
                    for wanted in group:
                        _fail(wanted, error)
                    if not isinstance(error, Exception):
                        raise

    async def _write_group(self, group: list[_Wanted]) -> None:
        """Do all of a group in one transaction; what can't be done with the others leaves it."""
        near = self._near
        try:
            near.begin()
            await self._work(group)
            if not group:
                near.rollback()
                return
            await near.commit()
        except BaseException as error:
            if not near.gives_up(error):
                raise
            for wanted in group:  # another process is writing
                _settle(wanted, TOO_MUCH)
            return
        self._check()
        for wanted in group:
            _settle(wanted, wanted.result)

    async def _work(self, group: list[_Wanted]) -> None:
        near = self._near
        since = time.monotonic()
        for wanted in tuple(group):
            if time.monotonic() - since > TURN:
                await asyncio.sleep(0)
                since = time.monotonic()
            near.start()
            near.mark()
            try:
                wanted.result = await wanted.work(Transaction(near))
            except Exception as error:
                if near.is_too_much(error):
                    _settle(wanted, TOO_MUCH)
                else:
                    _fail(wanted, error)
                group.remove(wanted)
                if not near.undo():
                    # SQLite has undone the others' too: they are done again, without this one.
                    self._waiting[:0] = group
                    group.clear()
                    return


def _settle(wanted: _Wanted, result: Any) -> None:
    if not wanted.done.done():
        wanted.done.set_result(result)


def _fail(wanted: _Wanted, error: BaseException) -> None:
    if not wanted.done.done():
        wanted.done.set_exception(error)
