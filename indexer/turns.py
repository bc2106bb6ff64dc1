"""Work that takes long gives turns to others of the event loop."""

import asyncio
import time

TURN = 0.005  # seconds that events are checked, or records read, before others get their turn
ROUNDS = 4  # of the event loop that a turn is: one alone takes a waiting task only a step further


async def turn(since: float) -> float:
    """Let others go on if they have waited for `TURN`; return since when they wait now.

    `since` and what is returned are of `time.monotonic`.
    """
    if time.monotonic() - since < TURN:
        return since
    for _ in range(ROUNDS):
        await asyncio.sleep(0)
    return time.monotonic()
