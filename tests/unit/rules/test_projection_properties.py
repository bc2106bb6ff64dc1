"""Whatever happened, in whatever portions it is told, and however often: one index.

A history is drawn: what a few repos did, in the order of the stream, and between that what
callers revoked here and what the publisher and the PDS did with it. It is then played into real
files in different ways.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.rules.projection import Change, Desynchronize
from tests.support.histories import History, histories
from tests.support.index_file import Index, opened
from tests.support.invariants import nothing_revoked_lives


async def _apply(index: Index, changes: list[Change]) -> None:
    if changes:
        await index.apply(*changes)


async def _play(index: Index, history: History) -> None:
    """Play it once and in order, each change by itself, and look after each step."""
    for changes, actions in history.portions():
        for change in changes:
            await _apply(index, [change])
            await nothing_revoked_lives(index)
        for action in actions:
            await action(index)
            await nothing_revoked_lives(index)


async def _dump_of(directory: str, name: str, play: Callable[[Index], Awaitable[None]]) -> Any:
    async with opened(Path(directory), name) as index:
        await play(index)
        await nothing_revoked_lives(index)
        return await index.dump()


PROFILE = settings(
    max_examples=110,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(histories(), st.lists(st.integers(1, 12), min_size=1, max_size=4))
@PROFILE
def test_any_chopping_into_batches_gives_the_same_index(history: History, sizes: list[int]) -> None:
    async def chopped(index: Index) -> None:
        turn = 0
        for changes, actions in history.portions():
            done = 0
            while done < len(changes):
                size = sizes[turn % len(sizes)]
                await _apply(index, changes[done : done + size])
                done, turn = done + size, turn + 1
            for action in actions:
                await action(index)

    async def compare() -> None:
        with TemporaryDirectory() as directory:
            once = await _dump_of(directory, "once.db", lambda index: _play(index, history))
            assert await _dump_of(directory, "chopped.db", chopped) == once

    asyncio.run(compare())


STRETCHES = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 14)), min_size=1, max_size=6)


@given(histories(), STRETCHES)
@PROFILE
def test_any_stretches_played_again_leave_the_index_as_it_was(
    history: History, stretches: list[tuple[int, int]]
) -> None:
    def stretch(told: list[Change], turn: int) -> list[Change]:
        first, length = stretches[turn % len(stretches)]
        played = told[first % len(told) :][:length] if told else []
        return [change for change in played if not isinstance(change, Desynchronize)]

    async def repeated(index: Index) -> None:
        told: list[Change] = []
        for turn, (changes, actions) in enumerate(history.portions()):
            await _apply(index, changes + stretch(told + changes, turn))
            told += changes
            for action in actions:
                await action(index)
            await _apply(index, stretch(told, turn + 1))
            await nothing_revoked_lives(index)
        await _apply(index, stretch(told, 0) + stretch(told, 1))
        await _apply(index, [c for c in told if not isinstance(c, Desynchronize)])

    async def compare() -> None:
        with TemporaryDirectory() as directory:
            once = await _dump_of(directory, "once.db", lambda index: _play(index, history))
            assert await _dump_of(directory, "again.db", repeated) == once

    asyncio.run(compare())
