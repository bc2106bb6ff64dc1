"""A relay that leaves out, goes back, or numbers anew: no hole is silent, and none is invented."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection

from indexer.store import cursors, repos
from indexer.store.cursors import Cursor
from indexer.stream.sequence import FAR_AHEAD
from tests.support.consuming import consuming, cursor_at, impatient, indexed, record_at, states
from tests.support.fake_relay import Relay, relay, sending
from tests.support.frames import (
    ALICE,
    BOB,
    TIME,
    Author,
    foreign_commit,
    identity_frame,
)
from tests.support.index_file import RELAY, Index, index
from tests.support.waiting import until

__all__ = ["impatient", "index", "relay"]  # fixtures

MICROSECONDS = 1_790_000_000_000_000
LATER = TIME.replace(":20", ":21")


async def read_before(index: Index, relay: Relay, *frames: bytes, last: int) -> Cursor:
    """Let a process have read these frames, up to a seq, and have ended."""
    relay.scripts = [staying(*frames)]
    async with consuming(index, relay):
        await cursor_at(index, last)
    relay.cursors.clear()
    stored = await cursors.load(index.db, RELAY)
    assert stored is not None
    assert set((await states(index)).values()) <= {"synchronized"}
    return stored


def staying(*frames: bytes) -> Any:
    """Send these and keep the connection."""

    async def script(_: Relay, socket: ServerConnection, __: int | None) -> None:
        for data in frames:
            await socket.send(data)
        await socket.wait_closed()

    return script


def events(entries: Any, name: str = "stream.broken") -> list[Any]:
    return [entry for entry in entries if entry["event"] == name]


# --- gaps ---


async def test_a_stream_of_microseconds_costs_no_connection_and_no_check(
    index: Index, relay: Relay
) -> None:
    author = Author()
    seqs = [MICROSECONDS + n * 50_000 for n in range(1, 40)]
    relay.frames = [(seq, record_at(author, seq)) for seq in seqs]
    with capture_logs() as entries:
        async with consuming(index, relay):
            await cursor_at(index, seqs[-1])
    assert relay.cursors == [0]
    assert await states(index) == {ALICE: "synchronized"}
    assert events(entries) == []
    stored = await cursors.load(index.db, RELAY)
    more = [seq + 10_000_000 for seq in seqs]
    relay.frames += [(seq, record_at(author, seq)) for seq in more]
    with capture_logs() as entries:
        async with consuming(index, relay, seqs[-1], known=stored):
            await cursor_at(index, more[-1])
    assert await states(index) == {ALICE: "synchronized"}
    assert events(entries) == []


async def test_the_first_gap_in_a_dense_stream_ends_no_connection_and_leads_to_one_check(
    index: Index, relay: Relay
) -> None:
    author = Author()
    seqs = [1, 2, 3, *range(4 + FAR_AHEAD, 40 * FAR_AHEAD, FAR_AHEAD + 1)]
    relay.frames = [(seq, record_at(author, seq)) for seq in seqs]
    with capture_logs() as entries:
        async with consuming(index, relay):
            await cursor_at(index, seqs[-1])
    assert relay.cursors == [0]
    assert await indexed(index) == seqs
    assert await states(index) == {ALICE: "desynchronized"}
    assert len(events(entries)) == 1


async def test_until_it_is_known_whether_a_gap_is_a_hole_the_cursor_stays_before_it(
    index: Index, relay: Relay
) -> None:
    author = Author()
    one, two, three = (record_at(author, seq) for seq in (1, 10**6, 10**6 + 1))
    stored = await read_before(index, relay, one, last=1)
    relay.scripts = [staying(one, two)]
    async with consuming(index, relay, 1, known=stored):
        await until(lambda: _is_indexed(index, 10**6))
        await asyncio.sleep(0.1)
        assert (await cursors.load(index.db, RELAY)) == stored
    # It was killed there: the gap is seen again, and told by what comes behind it.
    relay.scripts = [staying(one, two, three)]
    async with consuming(index, relay, 1, known=stored):
        await cursor_at(index, 10**6 + 1)
    assert relay.cursors == [0, 0]
    assert await states(index) == {ALICE: "desynchronized"}


async def _is_indexed(index: Index, number: int) -> bool:
    return number in await indexed(index)


# --- frames that go back ---


async def test_a_frame_that_goes_back_is_dropped_and_counted(index: Index, relay: Relay) -> None:
    author = Author()
    eight = record_at(author, 8)
    relay.scripts = [staying(eight, record_at(Author(BOB), 3), eight, record_at(author, 9))]
    async with consuming(index, relay) as consumer:
        await cursor_at(index, 9)
    assert relay.cursors == [0]
    assert consumer.stats.rejected == {"out_of_order": 1}
    assert await indexed(index) == [8, 9]
    assert (await states(index))[ALICE] == "synchronized"


async def test_a_hundred_in_a_row_are_another_stream(index: Index, relay: Relay) -> None:
    author = Author()
    low = [foreign_commit(seq) for seq in range(1, 100)]
    relay.scripts = [staying(record_at(author, 500), *low, record_at(author, 100))]
    with capture_logs() as entries:
        async with consuming(index, relay) as consumer:
            await cursor_at(index, 100)
    assert relay.cursors == [0]
    assert consumer.stats.rejected == {"out_of_order": 99}
    assert await indexed(index) == [100, 500]
    assert await states(index) == {ALICE: "desynchronized"}
    assert [entry["reason"] for entry in events(entries)] == ["WentBack"]


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_connection_that_begins_below_our_cursor_is_another_stream(
    index: Index, relay: Relay, is_known: bool
) -> None:
    author = Author()
    stored = await read_before(index, relay, record_at(author, 7), last=7)
    # What a relay does whose head is far below: it says nothing, and swallows one event.
    relay.scripts = [staying(record_at(author, 4), record_at(author, 5))]
    with capture_logs() as entries:
        async with consuming(index, relay, 7, known=stored if is_known else None):
            await cursor_at(index, 5)
    assert relay.cursors == [6 if is_known else 7]
    assert await indexed(index) == [4, 5, 7]
    assert await states(index) == {ALICE: "desynchronized"}
    assert [entry["reason"] for entry in events(entries)] == ["WentBack"]


# --- a relay that numbered anew while we were away ---


async def test_the_frame_at_the_cursor_is_asked_for_again_and_leads_to_nothing(
    index: Index, relay: Relay
) -> None:
    author = Author()
    relay.frames = [(seq, record_at(author, seq)) for seq in (1, 2, 7)]
    stored = await read_before(index, relay, *(data for _, data in relay.frames), last=7)
    relay.add(8, record_at(author, 8))
    with capture_logs() as entries:
        async with consuming(index, relay, 7, known=stored) as consumer:
            await cursor_at(index, 8)
    assert relay.cursors == [6]
    assert await indexed(index) == [1, 2, 7, 8]
    assert await states(index) == {ALICE: "synchronized"}
    assert events(entries) == []
    assert consumer.stats.rejected == {}


@pytest.mark.parametrize("what", ["bytes", "time"])
async def test_another_frame_at_the_cursor_is_another_stream_live_and_a_check_of_all(
    index: Index, relay: Relay, what: str
) -> None:
    author = Author()
    old = foreign_commit(7) if what == "bytes" else identity_frame(7)
    new = identity_frame(7) if what == "bytes" else identity_frame(7).replace(
        TIME.encode(), LATER.encode()
    )  # fmt: skip
    await read_before(index, relay, record_at(author, 1), old, last=7)
    if what == "time":
        # As an older version stored it: without a mark of its bytes.
        async with index.db.transaction() as tx:
            await tx.execute("update cursors set mark = null")
    stored = await cursors.load(index.db, RELAY)
    relay.frames = [(seq, foreign_commit(seq)) for seq in range(1, 7)]
    relay.frames += [(7, new), (8, foreign_commit(8))]
    with capture_logs() as entries:
        async with consuming(index, relay, 7, known=stored):
            await until(lambda: _asked(relay, 2))
            relay.add(9, record_at(author, 9))
            await cursor_at(index, 9)
    assert relay.cursors == [6, None]
    assert await indexed(index) == [1, 9]
    assert await states(index) == {ALICE: "desynchronized"}
    assert [entry["reason"] for entry in events(entries)] == ["Renumbered"]


async def _asked(relay: Relay, times: int) -> bool:
    await asyncio.sleep(0.05)
    return len(relay.cursors) >= times


async def test_a_later_first_frame_is_an_outdated_cursor(index: Index, relay: Relay) -> None:
    author = Author()
    stored = await read_before(index, relay, record_at(author, 7), last=7)
    relay.scripts = [staying(record_at(author, 8))]
    with capture_logs() as entries:
        async with consuming(index, relay, 7, known=stored):
            await cursor_at(index, 8)
    assert relay.cursors == [6]
    assert await indexed(index) == [7, 8]
    assert await states(index) == {ALICE: "desynchronized"}
    assert [entry["reason"] for entry in events(entries)] == ["OutdatedCursor"]


async def test_it_is_never_asked_for_less_than_0(index: Index, relay: Relay) -> None:
    stored = await read_before(index, relay, foreign_commit(0), last=0)
    relay.add(1, foreign_commit(1))
    async with consuming(index, relay, 0, known=stored):
        await cursor_at(index, 1)
    assert relay.cursors == [0]


async def test_within_one_process_a_relay_that_numbers_anew_is_seen_too(
    index: Index, relay: Relay
) -> None:
    author = Author()
    relay.scripts = [
        sending(record_at(author, 7), foreign_commit(8)),
        staying(record_at(author, 8), foreign_commit(9)),
    ]
    async with consuming(index, relay):
        await until(lambda: _asked(relay, 3))
        relay.add(20, foreign_commit(20))
        await cursor_at(index, 20)
    assert relay.cursors == [0, 7, None]
    assert await states(index) == {ALICE: "desynchronized"}


async def test_the_mark_of_the_frame_is_stored_with_the_cursor(index: Index, relay: Relay) -> None:
    five = foreign_commit(5)
    stored = await read_before(index, relay, five, last=5)
    assert stored.mark is not None
    relay.scripts = [staying(five, foreign_commit(6))]
    async with consuming(index, relay, 5, known=stored):
        await cursor_at(index, 6)
    moved = await cursors.load(index.db, RELAY)
    assert moved is not None
    assert moved.mark not in (None, stored.mark)
    assert await repos.load(index.db, [ALICE]) == {}
