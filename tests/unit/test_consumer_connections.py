"""However a connection ends, and whatever comes over it, it goes on behind the cursor."""

import asyncio
from typing import Any

import pytest

from indexer.store import cursors
from indexer.store.cursors import Cursor
from indexer.stream import firehose
from tests.support.consuming import consuming, cursor_at, fill, impatient, indexed, path
from tests.support.fake_relay import Relay, breaking, hanging, refusal, relay, sending
from tests.support.frames import (
    ALICE,
    TIME,
    Author,
    block,
    error_frame,
    foreign_commit,
    frame,
    info_frame,
    verification,
)
from tests.support.index_file import RELAY, Index, index
from tests.support.waiting import ready, until

__all__ = ["impatient", "index", "relay"]  # fixtures

NOISE = b"\xff noise"


async def test_after_every_kind_of_end_it_goes_on_behind_the_cursor(
    index: Index, relay: Relay
) -> None:
    author = Author()
    seqs = range(1, 7)
    commits = {seq: author.commit(seq, {path(seq): verification()}) for seq in seqs}
    # Each new connection is asked for the frame at the cursor, too.
    relay.scripts = [
        sending(commits[1], commits[2]),
        breaking(commits[2], commits[3]),
        sending(),
        breaking(commits[3]),
        sending(commits[3], commits[4], error_frame("ConsumerTooSlow")),
        sending(error_frame("Whatever")),
    ]
    relay.answers = [refusal(503)] * 2
    relay.frames = [(seq, commits[seq]) for seq in (4, 5, 6)]
    async with consuming(index, relay):
        await cursor_at(index, 6)
    assert relay.cursors == [0, 1, 2, 2, 2, 3, 3]
    assert await indexed(index) == list(seqs)
    assert (await index.repo())["sync"] == "synchronized"


@pytest.mark.parametrize("start", [7, None])
async def test_a_relay_that_is_silent_or_away_costs_no_cursor(
    index: Index, relay: Relay, start: int | None
) -> None:
    async with index.db.transaction() as tx:
        await cursors.save(tx, RELAY, Cursor(7, None))
    relay.answers = [refusal(503)] * 5
    async with consuming(index, relay, start):
        await until(lambda: ready(relay.cursors))
        await asyncio.sleep(0.2)
    assert await cursors.load(index.db, RELAY) == Cursor(7, None)


async def test_a_dead_connection_is_replaced(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firehose, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(firehose, "PING_TIMEOUT", 0.05)
    relay.scripts = [hanging]
    fill(relay, 1, 1)
    async with consuming(index, relay):
        await cursor_at(index, 1)
    assert relay.cursors == [0, 0]


async def test_a_frame_without_a_place_is_not_our_death(index: Index, relay: Relay) -> None:
    relay.scripts = [sending(frame(kind, {"did": ALICE})) for kind in ("#account", "#sync")]
    fill(relay, 1, 1)
    async with consuming(index, relay):
        await cursor_at(index, 1)


async def test_an_oversized_frame_does_not_stop_it_for_good(index: Index, relay: Relay) -> None:
    fill(relay, 1, 3)
    big = foreign_commit(2) + bytes(firehose.MAX_FRAME)

    async def stream(relay: Relay, socket: Any, cursor: int | None) -> None:
        for seq, data in relay.frames:
            if seq > (cursor or 0):
                await socket.send(big if seq == 2 else data)
        await socket.wait_closed()

    relay.scripts = [stream] * 9
    async with consuming(index, relay):
        await cursor_at(index, 3)
    assert relay.cursors == [0, 0, 0, 1, 2]
    assert await indexed(index) == [1, 3]
    assert (await index.repo())["sync"] == "synchronized"

    # It was of nobody, as far as we can know: the next commits tell what is missing.


async def test_unknown_types_and_infos_are_no_harm(index: Index, relay: Relay) -> None:
    relay.add(1, frame("#later", {"seq": 1, "time": TIME}))
    relay.add(2, info_frame("Hello"))
    relay.add(3, frame("#later", {"x": 1}))
    relay.add(4, block({"op": 7}) + block({"seq": 4}))
    fill(relay, 5, 5)
    async with consuming(index, relay) as consumer:
        await cursor_at(index, 5)
        assert consumer.stats.skipped == {"unknown_type": 3}
    assert (await index.repo())["sync"] == "synchronized"
