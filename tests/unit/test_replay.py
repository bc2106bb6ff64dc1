"""A stretch is played again beside the daemon: nothing changes but what was missing."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from indexer import consumer
from indexer import replay as module
from indexer.replay import Progress, ReplayError, replay
from indexer.store import cursors
from indexer.store.cursors import Cursor
from indexer.store.db import Database
from indexer.stream import firehose
from indexer.stream.firehose import Firehose
from tests.support.consuming import consuming, cursor_at, fill, indexed, path
from tests.support.fake_relay import Relay, breaking, refusal, relay, sending
from tests.support.frames import (
    ALICE,
    BOB,
    SCOPE,
    VERIFICATION,
    Author,
    error_frame,
    frame,
    info_frame,
    prover,
    verification,
)
from tests.support.index_file import RELAY, Index, index

__all__ = ["index", "relay"]  # fixtures

IDLE = 0.3  # seconds


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firehose, "FIRST_DELAY", 0.002)
    monkeypatch.setattr(firehose, "MAX_DELAY", 0.02)
    monkeypatch.setattr(firehose, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(consumer, "GATHER", 0.005)
    monkeypatch.setattr(consumer, "CURSOR_INTERVAL", 0.05)
    monkeypatch.setattr(module, "REPORT_EVERY", 0.02)
    monkeypatch.setattr(module, "IDLE_AFTER", IDLE)


async def play(
    index: Index, relay: Relay, first: int = 0, last: int | None = None, within: float = 20.0
) -> tuple[Progress, list[Progress]]:
    reports: list[Progress] = []
    async with asyncio.timeout(within):
        done = await replay(
            index.db,
            SCOPE,
            prover(),
            source=Firehose(relay.url),
            relay=RELAY,
            first=first,
            last=last,
            report=reports.append,
        )
    return done, reports


async def stand_at(index: Index, seq: int) -> None:
    async with index.db.transaction() as tx:
        await cursors.save(tx, RELAY, Cursor(seq, None))


async def test_a_stretch_is_played_with_both_its_ends(index: Index, relay: Relay) -> None:
    fill(relay, 1, 9)
    done, _ = await play(index, relay, 3, 7)
    assert relay.cursors == [2]
    assert await indexed(index) == [3, 5, 7]
    assert (done.seq, done.last) == (7, 7)


async def test_it_ends_at_its_last_frame_without_waiting_for_another(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_AFTER", 60.0)
    fill(relay, 1, 7)
    done, _ = await play(index, relay, 0, 7)
    assert await indexed(index) == [1, 3, 5, 7]
    assert (done.frames, done.seq) == (7, 7)


async def test_it_ends_behind_its_last_frame_if_the_relay_has_not_that_one(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_AFTER", 60.0)
    author = fill(relay, 1, 4)
    fill(relay, 9, 9, author)
    await play(index, relay, 0, 7)
    assert await indexed(index) == [1, 3]


async def test_without_an_end_it_ends_where_the_daemons_cursor_stands(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_AFTER", 60.0)
    fill(relay, 1, 9)
    await stand_at(index, 5)
    done, _ = await play(index, relay)
    assert await indexed(index) == [1, 3, 5]
    assert done.last == 5


async def test_the_cursor_is_moved_nowhere(index: Index, relay: Relay) -> None:
    fill(relay, 1, 9)
    await play(index, relay, 0, 9)
    assert await cursors.load(index.db, RELAY) is None
    await stand_at(index, 5)
    await play(index, relay, 0, 9)
    assert await cursors.load(index.db, RELAY) == Cursor(5, None)


async def test_it_ends_when_no_more_comes(index: Index, relay: Relay) -> None:
    fill(relay, 1, 3)
    done, _ = await play(index, relay)
    assert await indexed(index) == [1, 3]
    assert (done.frames, done.seq, done.last) == (3, 3, None)


async def test_a_stretch_with_nothing_in_it_ends_too(index: Index, relay: Relay) -> None:
    done, _ = await play(index, relay, 5)
    assert (done.frames, done.seq) == (0, None)


async def test_it_does_not_take_a_slow_database_for_the_end(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.stream.inbox.MAX_WAITING", 5)
    fill(relay, 1, 99)
    playing = asyncio.create_task(play(index, relay))
    async with index.db.transaction():
        await asyncio.sleep(3 * IDLE)
        assert not playing.done()
    await playing
    assert await indexed(index) == list(range(1, 100, 2))


def timed(author: Author, seq: int, time: datetime) -> bytes:
    body = author.commit_body(seq, {path(seq): verification()})
    return frame("#commit", {**body, "time": time.isoformat().replace("+00:00", "Z")})


async def test_it_ends_at_the_live_end_of_a_stream_that_never_rests(
    index: Index, relay: Relay
) -> None:
    author = fill(relay, 1, 4)
    playing = asyncio.create_task(play(index, relay))
    seq = 4
    while not playing.done():
        assert seq < 500
        seq += 1
        relay.add(seq, timed(author, seq, datetime.now(UTC)))
        await asyncio.sleep(0.01)
    await playing
    assert {1, 3} <= set(await indexed(index))


async def test_one_strangers_clock_does_not_end_it(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY", 0.05)
    author = Author()

    async def slowly(relay: Relay, socket: Any, _: int | None) -> None:
        for seq in range(1, 40):
            ahead = seq % 10 == 5
            time = datetime(2099 if ahead else 2020, 1, 1, tzinfo=UTC)
            await socket.send(timed(author, seq, time))
            await asyncio.sleep(0.07 if ahead else 0.01)
        await socket.wait_closed()

    relay.scripts = [slowly]
    await play(index, relay)
    assert await indexed(index) == list(range(1, 40))


async def test_a_relay_that_has_not_come_so_far_is_an_error(index: Index, relay: Relay) -> None:
    relay.scripts = [sending(error_frame("FutureCursor", "Cursor in the future."))]
    with pytest.raises(
        ReplayError, match=r"the relay refuses: FutureCursor \(Cursor in the future.\)"
    ):
        await play(index, relay, 1_000)


async def test_it_goes_on_after_a_connection_is_lost(index: Index, relay: Relay) -> None:
    fill(relay, 1, 9)
    frames = [data for _, data in relay.frames]
    relay.scripts = [
        breaking(*frames[:2]),
        sending(*frames[2:4], error_frame("ConsumerTooSlow")),
        sending(),
    ]
    relay.answers = [refusal(503)]
    await play(index, relay, 0, 9)
    assert relay.cursors == [0, 2, 4, 4]
    assert await indexed(index) == [1, 3, 5, 7, 9]


async def test_a_relay_that_stays_away_ends_it_with_how_far_it_came(
    index: Index, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GONE_AFTER", 2 * IDLE)
    fill(relay, 1, 9)
    frames = [data for _, data in relay.frames]
    # One that opens and closes without a word is not there either.
    relay.scripts = [breaking(*frames[:4]), *[breaking()] * 10_000]
    with pytest.raises(ReplayError, match=r"has not been there .*; it was played up to seq 4 \(4 "):
        await play(index, relay, 0, 9)
    assert await indexed(index) == [1, 3]


async def test_what_the_replay_misses_is_no_gap_of_the_live_stream(
    index: Index, relay: Relay
) -> None:
    fill(relay, 1, 3)
    await play(index, relay, 0, 3)
    relay.frames.insert(0, (1, info_frame("OutdatedCursor")))
    relay.frames.append((9, relay.frames[1][1]))  # it goes back
    await play(index, relay)
    assert (await index.repo())["sync"] == "synchronized"


async def test_a_replay_after_revocations_brings_nothing_back_and_asks_for_nothing(
    index: Index, relay: Relay
) -> None:
    author = fill(relay, 1, 5)
    await play(index, relay)
    uri = author.uri(path(3))
    await index.revoke(uri)
    deletion = author.commit_body(6, {path(3): None})
    relay.add(6, frame("#commit", deletion))
    await index.acknowledge(uri, deletion["rev"])
    await play(index, relay)
    before = await index.dump("updated_at")
    await play(index, relay)
    assert await index.dump("updated_at") == before
    row = await index.deletion(uri)
    assert row is not None
    assert row["state"] == "confirmed"
    assert not await index.is_live("verifications", uri)


async def test_it_plays_while_the_daemon_writes_to_the_same_file(
    index: Index, relay: Relay
) -> None:
    author = fill(relay, 1, 99)
    await stand_at(index, 99)
    async with await Database.open(index.db.path) as other, consuming(index, relay, 99):
        playing = [
            asyncio.create_task(play(Index(other), relay)),
            asyncio.create_task(play(index, relay, 0, 99)),
        ]
        seq = 100
        while not all(task.done() for task in playing):
            fill(relay, seq, seq + 1, author)
            seq += 2
            await asyncio.sleep(0.002)
        await asyncio.gather(*playing)
        await cursor_at(index, seq - 1)
    assert await indexed(index) == list(range(1, seq, 2))
    assert (await index.repo())["rev"] == author.rev


async def test_a_database_error_is_told(index: Index, relay: Relay) -> None:
    fill(relay, 1, 3)
    async with index.db.transaction() as tx:
        await tx.execute("alter table verifications rename to elsewhere")
    with pytest.raises(ExceptionGroup):
        await play(index, relay)


async def test_a_replay_that_is_cancelled_leaves_no_task_behind(index: Index, relay: Relay) -> None:
    fill(relay, 1, 3)
    playing = asyncio.create_task(play(index, relay))
    await asyncio.sleep(0.1)
    before = asyncio.all_tasks()
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    names = {task.get_name() for task in asyncio.all_tasks() & before}
    assert not names & {"receive", "apply"}


async def test_progress_tells_where_it_is_and_how_long_it_will_take(
    index: Index, relay: Relay
) -> None:
    author = Author(BOB)

    async def slowly(relay: Relay, socket: Any, _: int | None) -> None:
        for seq in range(1, 21):
            await socket.send(author.commit(seq, {f"{VERIFICATION}/{seq}": verification()}))
            await asyncio.sleep(0.03)
        await socket.wait_closed()

    relay.scripts = [slowly]
    done, reports = await play(index, relay, 1, 20)
    assert [report.frames for report in reports] == sorted(report.frames for report in reports)
    assert len({report.seq for report in reports}) > 2
    lefts = [report.left for report in reports if report.left]
    assert lefts
    assert all(0 < left < 5 for left in lefts)
    assert (done.frames, done.seq, done.last, done.left) == (20, 20, 20, 0)
    assert done.rate > 0
    assert ALICE not in await _dids(index)


async def _dids(index: Index) -> set[str]:
    return {row["did"] for row in await index.rows("repos")}
