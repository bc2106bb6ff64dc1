"""A recorded stretch is played as if the relay sent it, with the same promises."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from indexer import consumer
from indexer import replay as module
from indexer.replay import Progress, ReplayError, replay
from indexer.store import cursors
from indexer.store.cursors import Cursor
from indexer.stream.firehose import Firehose
from indexer.stream.recorder import Recorder
from indexer.stream.recording import Recording, Writer
from tests.support.consuming import consuming, cursor_at, fill, indexed, path
from tests.support.fake_relay import relaying, sending
from tests.support.frames import (
    SCOPE,
    TIME,
    VERIFICATION,
    Author,
    error_frame,
    frame,
    prover,
    verification,
)
from tests.support.index_file import RELAY, Index, index, opened
from tests.support.waiting import ready, until

__all__ = ["index"]  # fixtures


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "GATHER", 0.005)
    monkeypatch.setattr(consumer, "CURSOR_INTERVAL", 0.05)
    monkeypatch.setattr(module, "REPORT_EVERY", 0.02)
    monkeypatch.setattr("indexer.stream.recording.CHUNK", 4_000)  # bytes: some five frames


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stream.rec"


class Stretch:
    """Frames of a relay; takes what a relay of the tests takes."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def add(self, _: int, frame: bytes) -> None:
        self.frames.append(frame)


def record(file: Path, frames: list[bytes]) -> None:
    writer = Writer(file, RELAY)
    for data in frames:
        writer.add(data)
    writer.close()


def stretch(first: int, last: int, author: Author | None = None) -> list[bytes]:
    """Return records of ours at odd seqs, each followed by what concerns nobody."""
    made = Stretch()
    fill(made, first, last, author)  # type: ignore[arg-type]
    return made.frames


async def play(
    index: Index, file: Path, first: int = 0, last: int | None = None, within: float = 20.0
) -> tuple[Progress, list[Progress]]:
    reports: list[Progress] = []
    with Recording.open(file) as recording:
        async with asyncio.timeout(within):
            done = await replay(
                index.db,
                SCOPE,
                prover(),
                source=recording,
                relay=recording.relay,
                first=first,
                last=last,
                report=reports.append,
            )
    return done, reports


async def test_it_is_played_from_its_beginning_to_its_end(index: Index, file: Path) -> None:
    record(file, stretch(1, 99))
    done, reports = await play(index, file)
    assert await indexed(index) == list(range(1, 100, 2))
    assert (done.frames, done.seq, done.last, done.left) == (99, 99, None, 0)
    assert done.rate > 0
    assert reports


async def test_a_part_of_it_is_played_with_both_its_ends(index: Index, file: Path) -> None:
    record(file, stretch(1, 99))
    done, _ = await play(index, file, 21, 41)
    assert await indexed(index) == list(range(21, 42, 2))
    assert (done.seq, done.last) == (41, 41)


async def test_what_the_relay_would_do_is_what_the_file_does(
    index: Index, file: Path, tmp_path: Path
) -> None:
    async with relaying() as relay:
        author = fill(relay, 1, 40)
        relay.add(41, author.commit(41, {path(3): None, path(5): verification(handle="b.test")}))
        relay.add(42, frame("#account", author.account_body(42, False, "suspended")))
        body = author.commit_body(43, {path(43): verification()})
        relay.add(43, frame("#commit", {**body, "blocks": body["blocks"][:-1] + b"?"}))
        async with consuming(index, relay):
            await cursor_at(index, 43)
        writer = Writer(file, RELAY)
        recorder = Recorder(Firehose(relay.url), writer, start=0, last=43)
        async with asyncio.timeout(20):
            await recorder.run(asyncio.Event(), lambda _: None)
        writer.close()
    async with opened(tmp_path, "other.db") as other:
        await play(other, file)
        # But for whose numbers these are: what will be live may number otherwise.
        but = ("created_at", "hosting_relay")
        assert await other.dump(*but) == await index.dump(*but)
        assert await cursors.load(other.db, RELAY) is None
    before = await index.dump()
    await play(index, file)  # what is known changes nothing
    assert await index.dump() == before


async def test_numbers_that_the_relay_has_given_up_since_are_not_compared_with_those_of_today(
    index: Index, file: Path
) -> None:
    early = TIME.replace(":20.", ":10.")
    author = Author()

    def account(seq: int, time: str, active: bool, status: str | None = None) -> bytes:
        return frame("#account", {**author.account_body(seq, active, status), "time": time})

    body = author.commit_body(1_000_001, {path(1): verification()})
    first = frame("#commit", {**body, "time": early})
    record(file, [first, account(1_000_002, early.replace("000Z", "001Z"), False, "takendown")])
    async with relaying() as relay:
        relay.add(1_000_001, first)
        async with consuming(index, relay):
            await cursor_at(index, 1_000_001)
        relay.frames.clear()
        relay.scripts = [sending(error_frame("FutureCursor"))]
        async with consuming(index, relay, 1_000_001):
            await until(lambda: ready(len(relay.cursors) == 3))
            await asyncio.sleep(0.05)
            relay.add(7, account(7, TIME, True))
            await cursor_at(index, 7)
        before = await index.dump()
        await play(index, file)
        assert await index.dump() == before
        assert (await index.repo())["hosting"] == "active"


async def test_the_cursor_is_moved_nowhere_and_ends_nothing(index: Index, file: Path) -> None:
    async with index.db.transaction() as tx:
        await cursors.save(tx, RELAY, Cursor(5, None))
    record(file, stretch(1, 9))
    done, _ = await play(index, file)
    assert (done.seq, await cursors.load(index.db, RELAY)) == (9, Cursor(5, None))
    assert await indexed(index) == [1, 3, 5, 7, 9]


async def test_a_slow_disk_is_not_its_end(
    index: Index, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_AFTER", 0.05)
    chunks = Recording.chunks

    def slowly(recording: Recording) -> Iterator[tuple[int, list[bytes]]]:
        for number, chunk in enumerate(chunks(recording)):
            if number % 8 == 2:
                time.sleep(0.4)
            yield chunk

    monkeypatch.setattr(Recording, "chunks", slowly)
    record(file, stretch(1, 99))
    await play(index, file)
    assert await indexed(index) == list(range(1, 100, 2))


async def test_a_slow_database_is_not_its_end(
    index: Index, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_AFTER", 0.05)
    monkeypatch.setattr("indexer.stream.inbox.MAX_WAITING", 5)
    record(file, stretch(1, 99))
    playing = asyncio.create_task(play(index, file))
    async with index.db.transaction():
        await asyncio.sleep(0.3)
        assert not playing.done()
    await playing
    assert await indexed(index) == list(range(1, 100, 2))


async def test_stretches_that_are_missing_in_it_end_nothing(index: Index, file: Path) -> None:
    author = Author()
    frames: list[bytes] = []
    for first in (1, 50_000, 200_000):
        frames += stretch(first, first + 9, author)
    record(file, frames)
    with capture_logs() as entries:
        done, _ = await play(index, file)
    assert done.seq == 200_009
    assert len(await indexed(index)) == 15
    told = [(e["cursor"], e["seq"]) for e in entries if e["event"] == "stream.jumped"]
    assert told == [(10, 50_000)]  # of more, it is the way of this stream


async def test_of_a_file_that_is_cut_off_all_whole_frames_are_played(
    index: Index, file: Path
) -> None:
    frames = stretch(1, 99)
    record(file, frames)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with Recording.open(file) as recording:
        whole = sum(len(some) for _, some in recording.chunks())
    assert 20 < whole < 80
    done, _ = await play(index, file)
    assert (done.frames, done.seq) == (whole, whole)
    assert await indexed(index) == list(range(1, whole + 1, 2))


async def test_a_damaged_file_is_told_with_how_far_it_came_and_until_there_all_is_played(
    index: Index, file: Path
) -> None:
    record(file, stretch(1, 99))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ReplayError, match="is damaged behind byte") as caught:
        await play(index, file)
    seq = int(str(caught.value).partition("up to seq ")[2].partition(" ")[0])
    assert 20 < seq < 80
    assert await indexed(index) == list(range(1, seq + 1, 2))
    await play(index, file, last=seq - 2)  # what lies behind that is not asked for


async def test_what_cant_be_read_is_counted_and_ends_nothing(index: Index, file: Path) -> None:
    author = Author()
    record(file, [*stretch(1, 9, author), b"\xff noise", *stretch(11, 19, author)])
    done, _ = await play(index, file)
    assert done.rejected == {"malformed": 1}
    assert await indexed(index) == list(range(1, 20, 2))


async def test_what_is_no_stream_is_told(index: Index, file: Path) -> None:
    record(file, [*stretch(1, 9), error_frame("Gone"), *stretch(11, 19)])
    with pytest.raises(ReplayError, match=r"not the stream of a relay; .* seq 9 \(.* events\)"):
        await play(index, file)
    assert await indexed(index) == [1, 3, 5, 7, 9]


async def test_an_empty_one_is_played_at_once(index: Index, file: Path) -> None:
    record(file, [])
    done, _ = await play(index, file, within=3)
    assert (done.frames, done.seq) == (0, None)


async def test_a_file_that_is_still_being_written_has_no_negative_time_left(
    index: Index, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.stream.inbox.MAX_WAITING", 5)
    writer = Writer(file, RELAY)
    frames = stretch(1, 99)
    for data in frames[:40]:
        writer.add(data)
    writer.flush()
    reports: list[Progress] = []
    with Recording.open(file) as recording:
        for data in frames[40:]:
            writer.add(data)
        writer.close()
        await replay(
            index.db,
            SCOPE,
            prover(),
            source=recording,
            relay=RELAY,
            first=0,
            last=None,
            report=reports.append,
        )
        assert recording.played > recording.size
    assert await indexed(index) == list(range(1, 100, 2))
    assert all(report.left is None or report.left >= 0 for report in reports)
    assert reports[-1].left == 0


async def test_a_replay_that_is_cancelled_leaves_no_task_behind(index: Index, file: Path) -> None:
    record(file, stretch(1, 99))
    before = asyncio.all_tasks()
    for pause in (0, 0.001, 0.01, 0.05):
        playing = asyncio.create_task(play(index, file))
        await asyncio.sleep(pause)
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        assert asyncio.all_tasks() == before


async def test_it_plays_while_the_daemon_writes_to_the_same_file(index: Index, file: Path) -> None:
    async with relaying() as relay:
        author = fill(relay, 1, 99)
        record(file, [data for _, data in relay.frames])
        async with consuming(index, relay, 0):
            playing = asyncio.create_task(play(index, file))
            seq = 100
            while not playing.done():
                fill(relay, seq, seq + 1, author)
                seq += 2
                await asyncio.sleep(0.002)
            await playing
            await cursor_at(index, seq - 1)
    assert await indexed(index) == list(range(1, seq, 2))
    assert (await index.repo())["rev"] == author.rev


async def test_the_time_left_is_told_by_what_of_the_file_is_played(
    index: Index, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.stream.inbox.MAX_WAITING", 5)
    author = Author()
    record(file, [author.commit(s, {f"{VERIFICATION}/{s}": verification()}) for s in range(1, 200)])
    _, reports = await play(index, file)
    lefts = [report.left for report in reports if report.left]
    assert lefts
    assert all(0 < left < 20 for left in lefts)
