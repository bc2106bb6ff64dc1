"""Frames of a relay become an index, and the cursor is where the index is: whatever happens."""

import asyncio
import time
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection

from indexer import consumer as module
from indexer.consumer import cursor_checkpoint
from indexer.prover import Prover
from indexer.rules.projection import TURN
from indexer.store import cursors, daemon, repos
from indexer.store.cursors import Cursor
from indexer.store.db import Database, DatabaseError
from indexer.stream import firehose, inbox
from indexer.stream.receiver import FAR_AHEAD
from tests.support.consuming import consumer_of, consuming, cursor_at, fill, indexed, path
from tests.support.fake_relay import Relay, Script, breaking, hanging, refusal, relay, sending, text
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
    block,
    error_frame,
    foreign_commit,
    frame,
    identity_frame,
    info_frame,
    space,
    verification,
)
from tests.support.index_file import RELAY, Index, index, opened
from tests.support.waiting import ready, until

__all__ = ["index", "relay"]  # fixtures

NOISE = b"\xff noise"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firehose, "FIRST_DELAY", 0.002)
    monkeypatch.setattr(firehose, "MAX_DELAY", 0.02)
    monkeypatch.setattr(firehose, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(module, "GATHER", 0.005)
    monkeypatch.setattr(module, "CURSOR_INTERVAL", 0.05)


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


# --- connections that end ---


async def test_after_every_kind_of_end_it_goes_on_behind_the_cursor(
    index: Index, relay: Relay
) -> None:
    author = Author()
    seqs = range(1, 7)
    commits = {seq: author.commit(seq, {path(seq): verification()}) for seq in seqs}
    relay.scripts = [
        sending(commits[1], commits[2]),
        breaking(commits[3]),
        sending(),
        breaking(),
        sending(commits[4], error_frame("ConsumerTooSlow")),
        sending(error_frame("Whatever")),
    ]
    relay.answers = [refusal(503)] * 2
    relay.frames = [(seq, commits[seq]) for seq in (5, 6)]
    async with consuming(index, relay):
        await cursor_at(index, 6)
    assert relay.cursors == [0, 2, 3, 3, 3, 4, 4]
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


@pytest.mark.parametrize(
    "noise",
    [sending(NOISE), sending("a text"), text(b"\xff\xfe"), sending(b"")],
    ids=["noise", "text", "text that is none", "nothing"],
)
async def test_an_undecodable_frame_costs_connections_and_is_then_stepped_over(
    index: Index, relay: Relay, noise: Script
) -> None:
    fill(relay, 1, 3)
    rest = relay.frames[1:]

    async def poisoned(relay: Relay, socket: Any, cursor: int | None) -> None:
        if cursor == 0:
            await socket.send(relay.frames[0][1])
        noisy = asyncio.create_task(_unclosed(noise, relay, socket))
        await noisy
        for _, data in rest:
            await socket.send(data)
        await socket.wait_closed()

    relay.scripts = [poisoned] * 3
    async with consuming(index, relay) as consumer:
        await cursor_at(index, 3)
    assert relay.cursors == [0, 1, 1]
    assert consumer.stats.rejected == {"undecodable": 1}
    assert await indexed(index) == [1, 3]


async def _unclosed(script: Script, relay: Relay, socket: Any) -> None:
    """Play a script, but for its closing."""

    class Open:
        send = socket.send

        async def close(self) -> None:
            return

    await script(relay, Open(), None)  # type: ignore[arg-type]


async def test_one_broken_connection_loses_nothing(index: Index, relay: Relay) -> None:
    fill(relay, 1, 3)
    relay.scripts = [sending(relay.frames[0][1], NOISE)]
    async with consuming(index, relay) as consumer:
        await cursor_at(index, 3)
    assert relay.cursors == [0, 1]
    assert await indexed(index) == [1, 3]
    assert consumer.stats.rejected == {}


async def test_a_frame_without_a_place_is_noise_and_not_our_death(
    index: Index, relay: Relay
) -> None:
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
    assert relay.cursors == [0, 1, 1, 2]
    assert await indexed(index) == [1, 3]

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


# --- a stream that is not the one that we knew ---


async def known(index: Index, relay: Relay) -> Author:
    """Let the index know a repo that is in step, at seq 1."""
    author = fill(relay, 1, 1)
    async with consuming(index, relay):
        await cursor_at(index, 1)
    relay.frames.clear()
    relay.cursors.clear()
    assert (await index.repo())["sync"] == "synchronized"
    return author


async def test_an_outdated_cursor_makes_every_repo_desynchronized(
    index: Index, relay: Relay
) -> None:
    author = await known(index, relay)
    relay.scripts = [sending(info_frame("OutdatedCursor"), author.commit(9, {}))]
    async with consuming(index, relay, 1):
        await cursor_at(index, 9)
    assert (await index.repo())["sync"] == "desynchronized"


async def test_a_future_cursor_goes_live_forgets_the_cursor_and_marks_every_repo(
    index: Index, relay: Relay
) -> None:
    await known(index, relay)
    relay.scripts = [sending(error_frame("FutureCursor"))]
    async with consuming(index, relay, 5_000):
        await cursor_at(index, None)
        assert (await index.repo())["sync"] == "desynchronized"
        await until(lambda: ready(len(relay.cursors) == 2))
        await asyncio.sleep(0.05)
        relay.add(7, foreign_commit(7))
        await cursor_at(index, 7)
    assert relay.cursors == [5_000, None]


async def test_a_future_cursor_makes_account_events_of_the_new_sequence_count(
    index: Index, relay: Relay
) -> None:
    author = Author()
    relay.add(9_000, author.commit(9_000, {path(1): verification()}))
    body = {**author.account_body(3, active=False), "time": TIME.replace(":20", ":21")}
    async with consuming(index, relay):
        await cursor_at(index, 9_000)
    relay.frames.clear()
    relay.scripts = [sending(error_frame("FutureCursor"))]
    async with consuming(index, relay, 9_000):
        await cursor_at(index, None)
        await until(lambda: ready(len(relay.cursors) == 3))
        await asyncio.sleep(0.05)
        relay.add(3, frame("#account", body))
        await cursor_at(index, 3)
    assert (await index.repo())["hosting"] == "inactive"


async def test_a_stream_that_goes_back_is_followed_and_marks_every_repo(
    index: Index, relay: Relay
) -> None:
    author = await known(index, relay)
    relay.scripts = [sending(foreign_commit(8), author.commit(4, {path(4): verification()}))]
    async with consuming(index, relay, 7):
        await cursor_at(index, 4)
    assert (await index.repo())["sync"] == "desynchronized"
    assert await indexed(index) == [1, 4]


async def test_a_stream_that_goes_on_far_ahead_is_followed_and_marks_every_repo(
    index: Index, relay: Relay
) -> None:
    author = await known(index, relay)
    far = 1 + FAR_AHEAD + 1
    relay.scripts = [sending(author.commit(far, {path(4): verification()}))]
    with capture_logs() as entries:
        async with consuming(index, relay, 1):
            await cursor_at(index, far)
    assert (await index.repo())["sync"] == "desynchronized"
    assert await indexed(index) == [1, 4]
    [warning] = [e for e in entries if e["event"] == "stream.broken"]
    assert warning["log_level"] == "warning"
    assert warning["action"] == "every tracked repo is checked again"


async def test_seqs_that_a_relay_leaves_out_are_no_jump(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    last = 1 + FAR_AHEAD
    relay.scripts = [sending(author.commit(last, {}))]
    async with consuming(index, relay, 1):
        await cursor_at(index, last)
    assert (await index.repo())["sync"] == "synchronized"


async def test_from_the_live_end_every_repo_is_checked_once_the_stream_is_joined(
    index: Index, relay: Relay
) -> None:
    author = await known(index, relay)

    async def in_step() -> None:
        async with index.db.transaction() as tx:
            await tx.execute("update repos set sync = 'synchronized'")

    async def in_doubt() -> bool:
        return bool(await index.rows("repos", sync="desynchronized"))

    close = asyncio.Event()

    async def closing(_: Relay, socket: ServerConnection, __: int | None) -> None:
        await close.wait()
        await socket.close()

    relay.answers = [refusal(503)] * 5
    relay.scripts = [closing]  # before there was a frame
    with capture_logs() as entries:
        async with consuming(index, relay, None):
            await until(in_doubt)
            assert relay.cursors == [None]
            await in_step()
            close.set()
            await until(in_doubt)
            await in_step()
            relay.add(9, author.commit(9, {}))
            await cursor_at(index, 9)
    assert (await index.repo())["sync"] == "synchronized"
    assert not [entry for entry in entries if entry["event"] == "stream.broken"]
    assert relay.cursors == [None, None]


async def test_a_second_gap_in_a_connection_is_seen_too(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    relay.scripts = [
        sending(info_frame("OutdatedCursor"), foreign_commit(9), author.commit(10**9, {}))
    ]
    with capture_logs() as entries:
        async with consuming(index, relay, 1):
            await cursor_at(index, 10**9)
    assert len([e for e in entries if e["event"] == "stream.broken"]) == 2


async def test_the_oldest_that_a_relay_has_is_no_jump(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    relay.scripts = [sending(author.commit(10**9, {}))]
    async with consuming(index, relay, 0):
        await cursor_at(index, 10**9)
    assert (await index.repo())["sync"] == "synchronized"


async def test_a_gap_that_the_relay_speaks_of_is_warned_of_once(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    far = 10**9
    relay.scripts = [sending(info_frame("OutdatedCursor"), author.commit(far, {}))]
    with capture_logs() as entries:
        async with consuming(index, relay, 1):
            await cursor_at(index, far)
    assert len([e for e in entries if e["event"] == "stream.broken"]) == 1


async def test_a_connection_that_jumps_about_is_left_for_another(
    index: Index, relay: Relay
) -> None:
    author = await known(index, relay)
    relay.scripts = [sending(foreign_commit(8), foreign_commit(4), foreign_commit(2))]
    relay.add(5, author.commit(5, {path(5): verification()}))
    with capture_logs() as entries:
        async with consuming(index, relay, 7):
            await cursor_at(index, 5)
    assert relay.cursors == [7, 4]
    assert await indexed(index) == [1, 5]
    assert len([e for e in entries if e["event"] == "stream.broken"]) == 1


async def test_the_same_seq_again_is_no_step_back(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    relay.scripts = [sending(foreign_commit(1), author.commit(2, {}))]
    async with consuming(index, relay, 1):
        await cursor_at(index, 2)
    assert (await index.repo())["sync"] == "synchronized"


# --- our own faults ---


async def test_a_database_error_ends_it_with_the_cursor_where_it_was(
    index: Index, relay: Relay
) -> None:
    fill(relay, 1, 1)
    async with consuming(index, relay):
        await cursor_at(index, 1)
    async with index.db.transaction() as tx:
        await tx.execute("alter table verifications rename to elsewhere")
    fill(relay, 2, 5, Author(BOB))
    consumer = consumer_of(index.db, relay, 1)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(consumer.run(), 20)
    assert "no such table" in str(caught.value.exceptions[0])
    await cursor_at(index, 1)


async def test_a_database_that_stays_locked_ends_it_too(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.store.connections.BUSY_TIMEOUT", 0.05)
    fill(relay, 1, 3)
    async with await Database.open(index.db.path) as impatient, index.db.transaction():
        consumer = consumer_of(impatient, relay, 0)
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(consumer.run(), 20)
    assert caught.group_contains(DatabaseError)
    await cursor_at(index, None)


async def test_a_checkpoint_that_fails_takes_the_batch_with_it(index: Index, relay: Relay) -> None:
    fill(relay, 1, 3)

    async def failing(_: object, __: object) -> None:
        raise ZeroDivisionError

    consumer = consumer_of(index.db, relay, 0, checkpoint=failing)
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(consumer.run(), 20)
    assert await indexed(index) == []


# --- killed at any moment ---


async def agrees(index: Index, last: int) -> int:
    """Check that the index holds what lies up to the cursor, and return that."""
    async with index.db.transaction() as tx:  # one moment, and after any rollback
        cursor = await cursors.load(tx, RELAY)
        rows = await tx.all("select uri from verifications")
    seq = cursor.seq if cursor else 0
    numbers = sorted(int(row["uri"].rpartition("/")[2]) for row in rows)
    assert numbers == [number for number in range(1, min(seq, last) + 1) if number % 2]
    return seq


@pytest.mark.parametrize("batch", [1, 1_000])
async def test_killed_at_any_statement_the_index_and_the_cursor_agree(
    tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """The cancellation comes while the database works on a statement, each one in turn."""
    monkeypatch.setattr(inbox, "MAX_BATCH", batch)
    last = 8
    fill(relay, 1, last)
    execute: Any = aiosqlite.Connection._execute
    watched: list[aiosqlite.Connection] = []
    countdown = 0

    async def counted(connection: aiosqlite.Connection, *args: Any, **kwargs: Any) -> Any:
        nonlocal countdown
        if connection in watched:
            countdown -= 1
            if countdown == 0:
                running.cancel()
        return await execute(connection, *args, **kwargs)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    cursors_seen = set()
    for number in range(1, 200):
        async with opened(tmp_path, f"{number}.db") as index:
            async with await Database.open(index.db.path) as db:
                countdown, watched = number, [db._writer, db._reader]
                running = asyncio.create_task(consumer_of(db, relay, 0).run())
                while not running.done() and await agrees(index, last) < last:
                    await asyncio.sleep(0.001)
                was_killed, watched = running.done(), []
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            seq = await agrees(index, last)
            cursors_seen.add(seq)
            async with consuming(index, relay, seq):
                await cursor_at(index, last)
            assert await agrees(index, last) == last
            assert (await index.repo())["sync"] == "synchronized"
        if not was_killed:
            break
    else:
        raise AssertionError("it never came to an end")
    assert number > 10
    assert {0, last} <= cursors_seen


async def test_killed_at_any_await_the_index_and_the_cursor_agree(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_BATCH", 2)
    monkeypatch.setattr(module, "GATHER", 0.0)
    last = 120
    fill(relay, 1, last)
    seq, kills = 0, 0
    while seq < last:
        assert kills < 3_000
        running = asyncio.create_task(consumer_of(index.db, relay, seq).run())
        # Spinning passes each await one by one; what waits for a thread or a socket needs time.
        for _ in range(kills % 97):
            await asyncio.sleep(0)
        await asyncio.sleep(kills % 13 * 0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        before, seq = seq, await agrees(index, last)
        assert seq >= before
        kills += 1
    assert kills > 3
    assert (await index.repo())["sync"] == "synchronized"


async def test_killed_and_played_again_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, relay: Relay
) -> None:
    fill(relay, 1, 60)
    dumps = []
    for name, starts in (("once.db", [0]), ("often.db", [0, 0, 0, 7, 3, 20, 0, 41])):
        async with opened(tmp_path, name) as index:
            for number, start in enumerate(starts):
                async with consuming(index, relay, start):
                    # Killed at once twice; then once to the end, before it begins further on.
                    goes_on = number in (2, len(starts) - 1)
                    await cursor_at(index, 60) if goes_on else await asyncio.sleep(0.02)
            dumps.append(await index.dump())
    assert dumps[0] == dumps[1]


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
        async def prove(self, event: Any, now: int) -> Any:
            steps.append("check")
            time.sleep(TURN)  # as a commit of many blocks takes it
            return await super().prove(event, now)

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
