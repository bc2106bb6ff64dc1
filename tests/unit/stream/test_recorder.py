"""What a relay sends is in the file, once and in order, whatever it does."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from indexer.stream import firehose, recorder
from indexer.stream.firehose import Firehose
from indexer.stream.recorder import Recorded, Recorder
from indexer.stream.recording import Recording, RecordingError, Writer
from tests.support.fake_relay import Relay, breaking, refusal, relay, sending
from tests.support.frames import error_frame, foreign_commit, frame, identity_frame, info_frame
from tests.support.waiting import until

__all__ = ["relay"]  # fixtures

NOISE = b"\xff noise"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firehose, "FIRST_DELAY", 0.002)
    monkeypatch.setattr(firehose, "MAX_DELAY", 0.02)
    monkeypatch.setattr(firehose, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(recorder, "FLUSH_EVERY", 0.02)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stream.rec"


def read(file: Path) -> list[bytes]:
    with Recording.open(file) as recording:
        return [frame for _, frames in recording.chunks() for frame in frames]


def fill(relay: Relay, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        relay.add(seq, foreign_commit(seq))


async def record(
    relay: Relay, file: Path, start: int | None = 0, stop: asyncio.Event | None = None, **more: Any
) -> tuple[Recorded, list[Recorded]]:
    writer = Writer(file, "relay.test")
    made = Recorder(Firehose(relay.url), writer, start=start, **more)
    reports: list[Recorded] = []
    try:
        async with asyncio.timeout(20):
            await made.run(stop or asyncio.Event(), reports.append)
    finally:
        writer.close()
    return made.recorded, reports


async def test_it_records_to_its_last_seq(relay: Relay, file: Path) -> None:
    fill(relay, 1, 9)
    done, _ = await record(relay, file, 2, last=7)
    assert relay.cursors == [2]
    assert read(file) == [data for seq, data in relay.frames if 3 <= seq <= 7]
    assert (done.frames, done.first, done.last, done.size) == (5, 3, 7, file.stat().st_size)


async def test_it_ends_behind_its_last_seq_if_the_relay_has_not_that_one(
    relay: Relay, file: Path
) -> None:
    fill(relay, 1, 4)
    fill(relay, 9, 9)
    done, _ = await record(relay, file, last=7)
    assert (done.frames, done.last) == (4, 4)


async def test_it_ends_after_so_many_frames(relay: Relay, file: Path) -> None:
    fill(relay, 1, 9)
    done, _ = await record(relay, file, most=3)
    assert len(read(file)) == done.frames == 3


async def test_from_the_live_end_it_goes_on_until_it_is_stopped(relay: Relay, file: Path) -> None:
    fill(relay, 1, 3)
    stop = asyncio.Event()
    recording = asyncio.create_task(record(relay, file, None, stop))

    async def is_connected() -> bool:
        return relay.cursors == [None]

    await until(is_connected)
    await asyncio.sleep(0.05)
    fill(relay, 4, 6)

    async def is_in_the_file() -> bool:
        return len(read(file)) == 3  # also while it goes on: a kill would not cost it

    await until(is_in_the_file)
    relay.add(7, identity_frame(7))
    await asyncio.sleep(0.1)
    stop.set()
    done, reports = await recording
    assert read(file) == [data for _, data in relay.frames[3:]]
    assert (done.frames, done.first, done.last) == (4, 4, 7)
    assert [report.frames for report in reports] == sorted(report.frames for report in reports)


async def test_stopped_before_there_was_a_frame_it_has_none(relay: Relay, file: Path) -> None:
    stop = asyncio.Event()
    stop.set()
    done, _ = await record(relay, file, None, stop)
    assert (done.frames, done.first, done.last) == (0, None, None)
    assert read(file) == []


async def test_after_a_lost_connection_it_goes_on_where_it_was(relay: Relay, file: Path) -> None:
    fill(relay, 1, 9)
    frames = [data for _, data in relay.frames]
    relay.scripts = [
        breaking(*frames[:2]),
        sending(*frames[2:4], error_frame("ConsumerTooSlow")),
        sending(),
    ]
    relay.answers = [refusal(503)]
    await record(relay, file, last=9)
    assert relay.cursors == [0, 2, 4, 4]
    assert read(file) == frames


async def test_what_the_relay_says_of_the_stream_is_recorded_too(relay: Relay, file: Path) -> None:
    frames = [info_frame("OutdatedCursor"), foreign_commit(50_000), frame("#news", {"a": 1})]
    relay.scripts = [sending(*frames, foreign_commit(50_001))]
    await record(relay, file, last=50_001)
    assert read(file)[:3] == frames


async def test_a_stretch_that_the_relay_leaves_out_is_told(relay: Relay, file: Path) -> None:
    frames = [foreign_commit(seq) for seq in (70_000, 70_001, 90_000)]
    relay.scripts = [sending(*frames)]
    with capture_logs() as entries:
        await record(relay, file, last=90_000)  # from the oldest that it has
    assert read(file) == frames
    told = [(e["cursor"], e["seq"]) for e in entries if e["event"] == "stream.jumped"]
    assert told == [(70_001, 90_000)]


async def test_a_relay_that_only_refuses_is_not_asked_more_and_more_often(
    relay: Relay, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firehose, "delays", lambda: iter((0.0, 0.0, 60.0)))
    relay.scripts = [sending(error_frame("ConsumerTooSlow"))] * 9
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, stop.set)
    await record(relay, file, 0, stop)
    assert relay.cursors == [0, 0, 0]


async def test_what_has_no_place_in_the_stream_is_left_out(relay: Relay, file: Path) -> None:
    fill(relay, 1, 4)
    frames = [data for _, data in relay.frames]
    relay.scripts = [sending(*frames[:2], NOISE, *frames[2:])]
    await record(relay, file, last=4)
    assert relay.cursors == [0]
    assert read(file) == frames


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([error_frame("FutureCursor", "Too far.")], r"the relay refuses: FutureCursor \(Too far"),
        (
            [foreign_commit(9), *[foreign_commit(3)] * 99, foreign_commit(4)],
            "the relay goes on at 4, behind 9",
        ),
    ],
)
async def test_a_stream_that_does_not_go_on_ends_it_with_an_error(
    relay: Relay, file: Path, frames: list[bytes], message: str
) -> None:
    relay.scripts = [sending(*frames)]
    with pytest.raises(RecordingError, match=message):
        await record(relay, file)
    assert read(file) == frames[: len(frames) > 1]


async def test_a_full_disk_is_told_and_what_is_there_can_be_read(
    relay: Relay, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(relay, 1, 9)
    write = Writer._write

    def fail(writer: Writer, data: bytes) -> None:
        if writer.size > 1_000:
            raise writer._failure(OSError(errno.ENOSPC, "No space left on device"))
        write(writer, data)

    monkeypatch.setattr(Writer, "_write", fail)
    monkeypatch.setattr("indexer.stream.recording.CHUNK", 1_000)
    with pytest.raises(RecordingError, match="can't be written: No space left on device"):
        await record(relay, file)
    assert read(file) == [data for _, data in relay.frames][: len(read(file))]
    assert read(file)


async def test_one_that_is_cancelled_leaves_no_task_behind(relay: Relay, file: Path) -> None:
    fill(relay, 1, 3)
    before = asyncio.all_tasks()
    recording = asyncio.create_task(record(relay, file))
    await asyncio.sleep(0.2)
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    await asyncio.sleep(0.3)
    assert not {task.get_name() for task in asyncio.all_tasks() - before if "ecord" in repr(task)}
    assert len(read(file)) == 3
