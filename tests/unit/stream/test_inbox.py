"""What waits is bounded, in order, and taken with the position that it reaches."""

import asyncio

import pytest

from indexer.store.cursors import Cursor
from indexer.stream import inbox as module
from indexer.stream.events import Commit, Event, Identity, Info, Op
from indexer.stream.inbox import Batch, Inbox
from tests.support.frames import ALICE, VERIFICATION, tid


def identity(seq: int) -> Identity:
    return Identity(seq, None, ALICE)


def commit(size: int) -> Commit:
    return Commit(1, None, ALICE, tid(1), None, None, b"", (), bytes(size))


async def has_room(inbox: Inbox) -> bool:
    try:
        async with asyncio.timeout(0.01):
            await inbox.room()
    except TimeoutError:
        return False
    return True


async def test_events_are_taken_in_order_with_the_position_that_they_reach() -> None:
    inbox = Inbox()
    assert inbox.take(None) == [Batch([], None)]
    events: list[Event] = [identity(1), commit(10), identity(3)]
    for event in events:
        inbox.put(event)
    assert inbox.take(Cursor(5, "then")) == [Batch(events, Cursor(5, "then"))]
    assert inbox.take(Cursor(7, None)) == [Batch([], Cursor(7, None))]
    assert inbox.take(None) == [Batch([], None)]


async def test_there_is_room_until_so_many_events_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    inbox = Inbox()
    for seq in range(3):
        assert await has_room(inbox)
        inbox.put(identity(seq))
    assert not await has_room(inbox)
    inbox.take(None)
    assert await has_room(inbox)


async def test_there_is_room_until_so_many_bytes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 100)
    inbox = Inbox()
    inbox.put(commit(99))
    assert await has_room(inbox)
    inbox.put(commit(1))
    assert not await has_room(inbox)
    inbox.take(None)
    inbox.put(commit(99))
    assert await has_room(inbox)


async def test_operations_take_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 100_000)
    inbox = Inbox()
    ops = tuple(Op("delete", f"{VERIFICATION}/{n:0500}", None, None) for n in range(200))
    inbox.put(commit(0)._replace(ops=ops))
    assert not await has_room(inbox)


async def test_who_waits_for_room_gets_on_when_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    inbox = Inbox()
    inbox.put(identity(1))
    waiting = asyncio.create_task(inbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.take(None)
    await asyncio.wait_for(waiting, 1)


async def test_it_is_filled_by_an_event_or_by_time() -> None:
    inbox = Inbox()
    await inbox.filled(0.01)
    waiting = asyncio.create_task(inbox.filled(60))
    await asyncio.sleep(0)
    inbox.put(identity(1))
    await asyncio.wait_for(waiting, 1)
    inbox.take(None)
    waiting = asyncio.create_task(inbox.filled(60))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()


async def test_what_is_taken_comes_in_batches_that_reach_to_their_own_last_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH", 2)
    inbox = Inbox()
    inbox.take(Cursor(0, None))
    news = Info("Hello", None)
    for event in (news, news, identity(1), news, identity(3), identity(4), identity(5)):
        inbox.put(event)
    assert inbox.take(Cursor(9, "then")) == [
        Batch([news, news], Cursor(0, None)),
        Batch([identity(1), news], Cursor(1, None)),
        Batch([identity(3), identity(4)], Cursor(4, None)),
        Batch([identity(5)], Cursor(9, "then")),
    ]


async def test_no_batch_reaches_beyond_the_position_that_may_be_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH", 1)
    inbox = Inbox()
    inbox.take(Cursor(1, None))
    for seq in (2, 9, 10):  # of which 9 lies behind a gap that may be a hole
        inbox.put(identity(seq))
    assert inbox.take(Cursor(2, None)) == [
        Batch([identity(2)], Cursor(2, None)),
        Batch([identity(9)], Cursor(2, None)),
        Batch([identity(10)], Cursor(2, None)),
    ]
