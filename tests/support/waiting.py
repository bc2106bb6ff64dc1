"""Waiting for what a test is about, and no longer."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(holds: Callable[[], Awaitable[object]], within: float = 20.0) -> None:
    """Look again and again; a test that waits for longer than so many seconds fails."""
    try:
        async with asyncio.timeout(within):
            while not await holds():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"it did not come to that within {within} s") from None


async def ready(value: object) -> object:
    """Return what is known without waiting, for `until`."""
    return value
