"""What is recorded comes back as it was, as far as the file goes, and a bad file is told."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import zstandard

from indexer.stream import recording as module
from indexer.stream.recording import Recording, RecordingError, Writer
from tests.support.frames import foreign_commit, info_frame

RELAY = "relay.test:2470"
FRAMES = [foreign_commit(seq) for seq in range(1, 41)]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4_000)  # bytes: some five frames


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stream.rec"


def written(file: Path, frames: list[bytes] = FRAMES) -> bytes:
    writer = Writer(file, RELAY)
    for frame in frames:
        writer.add(frame)
    writer.close()
    data = file.read_bytes()
    assert writer.size == len(data)
    return data


def read(file: Path) -> list[bytes]:
    with Recording.open(file) as recording:
        return [frame for _, frames in recording.chunks() for frame in frames]


async def played(file: Path, after: int = 0) -> tuple[list[bytes], Recording]:
    frames: list[bytes] = []
    with Recording.open(file) as recording:
        async with aclosing(recording.connections(lambda: after)) as connections:
            async for connection in connections:
                async with aclosing(connection.frames()) as arriving:
                    async for some in arriving:
                        frames += some
    return frames, recording


def ends(file: Path) -> Iterator[int]:
    """Yield where each chunk ends."""
    with Recording.open(file) as recording:
        yield from (end for end, _ in recording.chunks())


async def test_what_was_recorded_comes_back_as_it_was(file: Path) -> None:
    size = len(written(file))
    assert read(file) == FRAMES
    frames, recording = await played(file)
    assert frames == FRAMES
    assert recording.relay == RELAY
    assert (recording.played, recording.size) == (size, size)
    assert (recording.problem, recording.is_cut_off) == (None, False)


def test_the_file_is_a_zstd_file_of_lengths_and_frames(file: Path) -> None:
    data = written(file)
    content = b"".join(len(frame).to_bytes(4, "little") + frame for frame in FRAMES)
    decompressor = zstandard.ZstdDecompressor()
    with decompressor.stream_reader(data, read_across_frames=True) as reader:
        assert reader.read() == content


def test_what_was_flushed_outlives_a_kill(file: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from indexer.stream.recording import Writer
writer = Writer(Path(sys.argv[1]), "relay.test")
for number in range(3):
    writer.add(b"flushed %d" % number)
writer.flush()
writer.add(b"not flushed")
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], check=False, cwd=root, timeout=60
    )
    assert done.returncode == -9
    assert read(file) == [b"flushed 0", b"flushed 1", b"flushed 2"]


def test_wherever_it_is_cut_off_it_is_read_to_its_last_whole_frame(file: Path) -> None:
    data = written(file)
    head = 8 + int.from_bytes(data[4:8], "little")
    whole = {head, *ends(file)}
    before = 0
    for size in range(head, len(data) + 1):
        file.write_bytes(data[:size])
        with Recording.open(file) as recording:
            frames = [frame for _, some in recording.chunks() for frame in some]
        assert frames == FRAMES[: len(frames)]
        assert len(frames) >= before
        assert recording.is_cut_off == (size not in whole)
        before = len(frames)
    assert before == len(FRAMES)


def test_of_a_chunk_that_is_cut_off_there_are_the_frames_that_are_whole(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 1_000_000)
    frames = [bytes([number % 251]) * 20_000 + foreign_commit(number) for number in range(40)]
    data = written(file, frames)  # zstd hands out what it has in pieces of 128 KB
    file.write_bytes(data[: len(data) * 3 // 4])
    assert read(file) == frames[: len(read(file))]
    assert 10 < len(read(file)) < 40


def test_a_flipped_bit_is_noticed_before_anything_of_its_chunk_is_used(file: Path) -> None:
    data = written(file)
    marks = [0, *ends(file)]
    damaged = 0
    for place in range(marks[1], marks[3]):
        broken = bytearray(data)
        broken[place] ^= 0x10
        file.write_bytes(broken)
        found: list[bytes] = []
        with Recording.open(file) as recording:
            is_damaged = False
            try:
                for _, frames in recording.chunks():
                    found += frames
            except RecordingError:
                is_damaged = True
        assert found == FRAMES[: len(found)]
        # Not every bit of a zstd frame means something.
        assert is_damaged or len(found) == len(FRAMES)
        damaged += is_damaged
    assert damaged > (marks[3] - marks[1]) * 0.98


async def test_what_comes_before_the_damage_is_played_and_then_it_is_told(file: Path) -> None:
    data = written(file)
    third = list(ends(file))[2]
    file.write_bytes(data[:third] + bytes(100) + data[third:])
    frames, recording = await played(file)
    assert frames == FRAMES[: len(frames)]
    assert len(frames) >= 3
    assert recording.problem == f"{file} is damaged behind byte {third:,} of {len(data) + 100:,}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a recording"),
        (b"dear diary, " * 100, "is not a recording"),
        (zstandard.ZstdCompressor().compress(b"something else"), "is not a recording"),
        (module._HEAD + b"\xff\xff\xff\xff" + b"rescind recording 1\n", "is not a recording"),
        (module._HEAD + b"\x04\x00\x00\x00" + b"else", "is not a recording"),
        (module._HEAD + b"\x14\x00\x00\x00" + b"rescind recording 2\n", "a newer version"),
    ],
)
def test_what_is_no_recording_is_refused(file: Path, data: bytes, message: str) -> None:
    file.write_bytes(data)
    with pytest.raises(RecordingError, match=message), Recording.open(file):
        pass


def test_a_file_that_is_not_there_or_a_directory_is_told(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "no regular file")):
        with pytest.raises(RecordingError, match=message), Recording.open(path):
            pass
    for path, message in ((tmp_path, "exists"), (tmp_path / "no" / "file", "No such file")):
        with pytest.raises(RecordingError, match=message):
            Writer(path, RELAY)


def test_a_file_is_never_written_over(file: Path) -> None:
    file.write_bytes(b"dear diary")
    with pytest.raises(RecordingError, match="exists: a recording is never written over"):
        Writer(file, RELAY)
    assert file.read_bytes() == b"dear diary"


def test_a_chunk_that_unpacks_to_more_than_there_may_be_takes_no_memory(file: Path) -> None:
    head = written(file, [])
    bombs = [
        zstandard.ZstdCompressor().compress(bytes(50_000_000)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(50_000_000)),
    ]
    for bomb in bombs:
        file.write_bytes(head + module._CHUNK + len(bomb).to_bytes(4, "little") + bomb)
        with pytest.raises(RecordingError, match="damaged"):
            read(file)
        file.write_bytes(file.read_bytes()[:-1])  # cut off, it is unpacked as far as it goes
        with pytest.raises(RecordingError, match="damaged"):
            read(file)
    file.write_bytes(head + module._CHUNK + b"\xff\xff\xff\xff" + bytes(1_000))
    with pytest.raises(RecordingError, match="damaged"):
        read(file)


async def test_it_is_played_behind_a_seq(file: Path) -> None:
    written(file, [info_frame("Hello"), *FRAMES])
    for after in (1, 6, 39, 40):
        frames, recording = await played(file, after)
        assert frames == FRAMES[after:]
        assert recording.problem is None


async def test_who_stops_playing_leaves_nobody_behind_who_reads_the_file(file: Path) -> None:
    written(file)
    before = asyncio.all_tasks()
    with Recording.open(file) as recording:
        connections = recording.connections(lambda: None)
        connection = await anext(connections)
        frames = connection.frames()
        assert await anext(frames)
        waiting = asyncio.ensure_future(anext(frames))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await connections.aclose()
        assert asyncio.all_tasks() == before
    assert recording.problem is None


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RecordingError, match="no regular file"), Recording.open(pipe):
        pass
