"""Frames of a relay become an index, and the cursor is where the index is."""

import asyncio
import time
from typing import Any

import pytest

from indexer import consumer as module
from indexer.consumer import cursor_checkpoint
from indexer.prover import Prover
from indexer.store import cursors, daemon, repos
from indexer.store.cursors import Cursor
from indexer.stream import inbox
from indexer.turns import TURN
from tests.support.consuming import consuming, cursor_at, fill, impatient, indexed, known, path
from tests.support.fake_relay import Relay, relay, sending
from tests.support.frames import (
    ALICE,
    BOB,
    COLLECTIONS,
    NOW,
    SPACE,
    TIME,
    VERIFICATION,
    Author,
    Directory,
    foreign_commit,
    frame,
    identity_frame,
    info_frame,
    space,
    verification,
)
from tests.support.index_file import RELAY, Index, index
from tests.support.waiting import ready, until

__all__ = ["impatient", "index", "relay"]  # fixtures

# --- the way of a frame ---


async def test_frames_become_rows_and_move_the_cursor(index: Index, relay: Relay) -> None:
    fill(relay, 1, 9)
    async with consuming(index, relay) as consumer:
        await cursor_at(index, 9)
        assert await indexed(index) == [1, 3, 5, 7, 9]
        assert consumer.stats.frames == 9
        assert consumer.stats.skipped == {"other_collection": 4}
        fill(relay, 10, 11, Author(BOB))
        await cursor_at(index, 11)
    assert await cursors.load(index.db, RELAY) == Cursor(11, TIME, NOW)
    assert relay.cursors == [0]


async def test_without_a_start_it_begins_at_the_live_end(index: Index, relay: Relay) -> None:
    author = fill(relay, 1, 4)
    async with consuming(index, relay, None):
        await until(lambda: ready(relay.cursors))
        await asyncio.sleep(0.1)
        fill(relay, 5, 6, author)
        await cursor_at(index, 6)
    assert relay.cursors == [None]
    assert await indexed(index) == [5]


async def test_frames_that_concern_nobody_move_the_cursor_within_about_a_second(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CURSOR_INTERVAL", 1.0)
    async with consuming(index, relay):
        await until(lambda: ready(relay.cursors))
        relay.add(7, foreign_commit(7))
        await cursor_at(index, 7, within=1.5)


async def test_a_stream_that_is_quiet_is_not_written_about(index: Index, relay: Relay) -> None:
    written = 0
    save = cursor_checkpoint(RELAY)

    async def counted(*args: Any) -> None:
        nonlocal written
        written += 1
        await save(*args)

    relay.add(1, foreign_commit(1))
    async with consuming(index, relay, checkpoint=counted):
        await cursor_at(index, 1)
        await asyncio.sleep(0.3)
    assert written == 1


async def test_what_comes_right_behind_a_repos_first_record_concerns_us(
    index: Index, relay: Relay
) -> None:
    author = Author()
    relay.add(1, author.commit(1, {f"{SPACE}/garden": space()}))
    relay.add(2, author.commit(2, {"app.bsky.feed.post/3k": {}}))
    relay.add(3, frame("#account", author.account_body(3, active=False)))
    relay.add(4, frame("#account", Author(BOB).account_body(4, active=False)))
    async with consuming(index, relay):
        await cursor_at(index, 4)
    (row,) = await index.rows("repos")
    assert (row["did"], row["rev"], row["hosting"]) == (ALICE, author.rev, "inactive")


async def test_repos_that_another_process_tracks_are_tracked_here_too(
    index: Index, relay: Relay
) -> None:
    async with consuming(index, relay):
        await until(lambda: ready(relay.cursors))
        async with index.db.transaction() as tx:
            await repos.save(tx, [repos.Repo(BOB)])
        await asyncio.sleep(0.3)
        relay.add(1, foreign_commit(1, BOB))
        await cursor_at(index, 1)
    assert (await index.repo(BOB))["rev"] is not None


async def test_an_identity_event_drops_the_cached_identity(index: Index, relay: Relay) -> None:
    forgotten: list[str] = []
    relay.add(1, identity_frame(1))
    async with consuming(index, relay, forget_identity=forgotten.append):
        await cursor_at(index, 1)
    assert forgotten == [BOB]


async def test_what_is_rejected_is_counted_in_the_transaction_of_its_cursor(
    index: Index, relay: Relay
) -> None:
    author = Author()
    relay.add(1, author.commit(1, {path(1): {"$type": VERIFICATION}}))
    bad = author.commit_body(2, {path(2): verification()})
    flipped = bytearray(bad["blocks"])
    flipped[-1] ^= 1
    relay.add(2, frame("#commit", {**bad, "blocks": bytes(flipped)}))
    relay.add(3, frame("#commit", {**bad, "seq": 3, "commit": b""}))
    save = cursor_checkpoint(RELAY)

    async def with_counters(tx: Any, position: Cursor | None) -> None:
        await save(tx, position)
        await daemon.save_counters(tx, "rejected", consumer.stats.rejected)

    async with consuming(index, relay, checkpoint=with_counters) as consumer:
        await cursor_at(index, 3)
    assert await daemon.counters(index.db, "rejected") == {
        "bad_block": 1,
        "invalid_record": 1,
        "malformed": 1,
    }
    assert (await index.repo())["sync"] == "desynchronized"


async def test_commits_of_the_old_form_are_taken_and_counted(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    body = author.commit_body(2, {path(2): verification()})
    del body["prevData"]
    relay.scripts = [sending(frame("#commit", body), author.commit(3, {}))]
    async with consuming(index, relay, 1) as consumer:
        await cursor_at(index, 3)
    assert await indexed(index) == [1, 2]
    assert consumer.stats.noted == {"old_form": 1}
    assert consumer.stats.rejected == {}


# --- bounds ---


async def test_a_slow_database_slows_the_reading_and_loses_nothing(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING", 10)
    last = 399
    author = Author()
    for seq in range(1, last + 1):
        relay.add(seq, author.commit(seq, {path(seq): verification()}))
    async with consuming(index, relay) as consumer:
        async with index.db.transaction():  # nobody else can write meanwhile
            await asyncio.sleep(0.3)
            read = consumer.stats.frames
            # Those of one take, those in the inbox, and one in the hand.
            assert 10 < read <= 21
            assert not consumer.is_settled
            await asyncio.sleep(0.1)
            assert consumer.stats.frames == read
        await cursor_at(index, last)
        # Others see what is committed a moment before the consumer itself goes on.
        async with asyncio.timeout(5):
            while not consumer.is_settled:
                await asyncio.sleep(0.01)
    assert await indexed(index) == list(range(1, last + 1))
    assert (await index.repo())["sync"] == "synchronized"


async def test_infos_and_steps_back_wait_for_room_too(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING", 10)
    for seq in range(1, 200):
        relay.add(seq, info_frame("Hello"))
    async with consuming(index, relay) as consumer, index.db.transaction():
        await asyncio.sleep(0.2)
        assert consumer.stats.frames <= 21


async def test_commits_that_are_slow_to_check_leave_turns_to_others(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER", 0.2)
    steps: list[str] = []

    class Slow(Prover):
        def look(self, event: Any, now: int) -> Any:
            steps.append("check")
            time.sleep(TURN)  # as a commit of many blocks takes it
            return super().look(event, now)

    async def wait_for_turns() -> None:
        while True:
            await asyncio.sleep(0)
            if steps and steps[-1] != "turn":
                # Who is woken often has more than one step to do.
                await asyncio.sleep(0)
                steps.append("turn")

    author = Author()
    for seq in range(1, 11):
        relay.add(seq, author.commit(seq, {path(seq): verification()}))
    others = asyncio.create_task(wait_for_turns())
    more = {"prover": Slow(Directory(), COLLECTIONS.__contains__)}
    async with consuming(index, relay, **more):
        await cursor_at(index, 10)
    others.cancel()
    assert steps[:20] == ["check", "turn"] * 10


async def test_a_batch_takes_so_many_bytes_of_blocks(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER", 0.2)
    monkeypatch.setattr(inbox, "MAX_BATCH_BYTES", 3_000)
    seqs: list[int | None] = []
    save = cursor_checkpoint(RELAY)

    async def noted(tx: Any, position: Cursor | None) -> None:
        seqs.append(position.seq if position else None)
        await save(tx, position)

    author = Author()
    for seq in range(1, 7):
        relay.add(seq, author.commit(seq, {path(seq): verification(x="y" * 1_400)}))
    relay.add(7, foreign_commit(7))
    async with consuming(index, relay, checkpoint=noted):
        await cursor_at(index, 7)
    assert seqs == [2, 4, 7]
