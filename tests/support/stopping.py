"""Work that is stopped at any of its awaits."""

import asyncio
import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any


@types.coroutine
def stopped_at(number: int, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, bool]:
    """Do the work, and cancel it at its await of that number; whether it was done before."""
    step: Callable[[Any], Any] = work.send
    value = None
    for at in itertools.count():
        try:
            waits_for = step(value)
        except StopIteration:
            return at <= number
        except asyncio.CancelledError:
            return False
        if at == number:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            value, step = (yield waits_for), work.send
        except BaseException as error:
            value, step = error, work.throw
    raise AssertionError
