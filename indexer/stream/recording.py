"""A stretch of a relay's stream in a file, as it was sent.

A recording is a zstd file (RFC 8878) of version 1:

    skippable frame 0x184D2A5D   b"rescind recording 1\\n", then the relay's host[:port] in UTF-8
    then, as often as need be:
    skippable frame 0x184D2A5E   u32: the length of the zstd frame that follows
    zstd frame                   with its content's size and checksum: frames of the stream, each
                                 after a u32 that is its length

All numbers are little-endian. `zstd -d` therefore makes it into the frames and their lengths. What
a zstd frame holds is a chunk of about a second or a megabyte, checked before any of it is used;
of one that is cut off, as far as it goes, all frames that are whole.
"""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Self

import zstandard

from indexer.stream.decode import decode
from indexer.stream.events import Info, StreamError
from indexer.stream.firehose import Connection
from indexer.stream.transport import MAX_FRAME

CHUNK = 1_000_000  # bytes of frames, at which a chunk is written
LEVEL = 1  # of zstd: at the pace of the stream itself, and a tenth larger than with 3

_MAX_CONTENT = CHUNK + 4 + MAX_FRAME  # bytes of a chunk
_MAX_PACKED = _MAX_CONTENT + 65_536  # bytes of what zstd can't make smaller
_MAX_WINDOW = 8_388_608  # bytes that zstd looks back; a power of two, and enough for a chunk
_PIECE = 256  # bytes, which may become 8 MB
_MAX_HOST = 1_000  # bytes
_HEAD = 0x184D2A5D.to_bytes(4, "little")
_CHUNK = 0x184D2A5E.to_bytes(4, "little") + (4).to_bytes(4, "little")
_TITLE, _VERSION = b"rescind recording ", b"1\n"
_LENGTH = Struct("<I")
_Chunk = tuple[int, list[bytes]]  # where it ends, and its frames


class RecordingError(Exception):
    """The file can't be written or read; the text says why."""


class Writer:
    """Writes a new recording. Frames are on their way to the disk after `flush`."""

    def __init__(self, path: Path, relay: str) -> None:
        """Make the file. Raises `RecordingError`, also if there is one already."""
        self._path = path
        self._content = bytearray()
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self.size = 0  # bytes written
        try:
            self._file = path.open("xb", buffering=0)
        except FileExistsError:
            raise RecordingError(f"{path} exists: a recording is never written over") from None
        except OSError as error:
            raise RecordingError(f"{path} can't be written: {error.strerror}") from None
        head = _TITLE + _VERSION + relay.encode()
        self._write(_HEAD + len(head).to_bytes(4, "little") + head)

    def add(self, frame: bytes) -> None:
        """Add a frame. Raises `RecordingError`."""
        self._content += len(frame).to_bytes(4, "little")
        self._content += frame
        if len(self._content) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Hand all frames to the system: they outlive this process. Raises `RecordingError`."""
        if self._content:
            packed = self._compressor.compress(self._content)
            self._content.clear()
            self._write(_CHUNK + len(packed).to_bytes(4, "little") + packed)

    def close(self) -> None:
        """Bring all to the disk. Raises `RecordingError`."""
        try:
            with self._file:
                self.flush()
                os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from None

    def _write(self, data: bytes) -> None:
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failure(error) from None
        self.size += len(data)

    def _failure(self, error: OSError) -> RecordingError:
        return RecordingError(f"{self._path} can't be written: {error.strerror}")


class Recording:
    """A recording that is read, once: a source of the stream that ends.

    What is wrong with it does not raise while it is played, since what came before shall be
    applied: `problem` tells it.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Take an open file. Raises `RecordingError` if it is no recording."""
        self.size = os.fstat(file.fileno()).st_size  # bytes
        self.played = 0  # bytes of it
        self.is_cut_off = False  # who wrote it was killed: it ends within a chunk
        self.problem: str | None = None  # why not all of it could be played
        self._path = path
        self._file = file
        self.relay = self._head()  # the host that it is of

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open a file to read it. Raises `RecordingError`, also for a pipe: it may never end."""
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise RecordingError(f"{path} can't be read: it is no regular file")
            file = path.open("rb")
        except OSError as error:
            raise RecordingError(f"{path} can't be read: {error.strerror}") from None
        with file:
            yield cls(path, file)

    async def connections(
        self, cursor: Callable[[], int | None]
    ) -> AsyncGenerator[Connection, None]:
        """Yield one connection, as a `Source`."""
        player = _Player(self, cursor() or 0)
        connection = Connection(player)
        try:
            yield connection
        finally:
            await player.close()
        if not player.is_over:  # the reader can't go on, and there is no other connection
            self.problem = f"{self._path} is not the stream of a relay"

    def chunks(self) -> Iterator[_Chunk]:
        """Yield the frames chunk by chunk, each with where it ends. Raises `RecordingError`."""
        offset = self._file.tell()
        while head := self._file.read(len(_CHUNK) + 4):
            length = int.from_bytes(head[len(_CHUNK) :], "little")
            if not head.startswith(_CHUNK[: len(head)]) or length > _MAX_PACKED:
                raise self._damaged(offset)
            packed = self._file.read(length)
            self.is_cut_off = len(head) < len(_CHUNK) + 4 or len(packed) < length
            unpack = self._remains if self.is_cut_off else self._content
            content = unpack(packed, offset)
            frames, rest = _split(content)
            if rest and not self.is_cut_off:
                raise self._damaged(offset)
            offset += len(head) + len(packed)
            if frames:
                yield offset, frames

    def _head(self) -> str:
        """Read what comes first: that this is a recording, and of which relay."""
        head = self._file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != _HEAD or length > len(_TITLE + _VERSION) + _MAX_HOST:
            raise RecordingError(f"{self._path} is not a recording of a relay's stream")
        text = self._file.read(length)
        if not text.startswith(_TITLE):
            raise RecordingError(f"{self._path} is not a recording of a relay's stream")
        if not text.startswith(_TITLE + _VERSION):
            raise RecordingError(f"{self._path} was made by a newer version of Rescind")
        return text[len(_TITLE + _VERSION) :].decode(errors="replace")

    def _content(self, packed: bytes, offset: int) -> bytes:
        try:
            # Asked before, since it says how much memory is taken.
            if zstandard.get_frame_parameters(packed).content_size > _MAX_CONTENT:
                raise self._damaged(offset)
            return zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
        except zstandard.ZstdError:
            raise self._damaged(offset) from None

    def _remains(self, packed: bytes, offset: int) -> bytes:
        """Unpack what there is of a chunk that is cut off; its checksum is lost."""
        content = bytearray()
        unpacking = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()
        with suppress(zstandard.ZstdError):
            for start in range(0, len(packed), _PIECE):
                content += unpacking.decompress(packed[start : start + _PIECE])
                if unpacking.eof or len(content) > _MAX_CONTENT:
                    raise self._damaged(offset)  # it is whole, so its length is wrong
        return bytes(content)

    def _damaged(self, offset: int) -> RecordingError:
        return RecordingError(f"{self._path} is damaged behind byte {offset:,} of {self.size:,}")


class _Player:
    """Plays a recording's frames behind a seq to a connection.

    A chunk is unpacked in a thread while the one before is dealt with.
    """

    def __init__(self, recording: Recording, after: int) -> None:
        self.is_over = False
        self._recording = recording
        self._after = after  # 0 once the first frame behind it was found
        self._chunks = recording.chunks()
        self._coming = self._prepare()

    async def receive(self) -> list[bytes]:
        """Return the next frames, or none at the end."""
        # Shielded, since the thread can't be stopped: `close` waits for it.
        match await asyncio.shield(self._coming):
            case RecordingError() as error:
                self._recording.problem = str(error)
            case (end, frames):
                self._recording.played = end
                self._coming = self._prepare()
                return frames
        self.is_over = True
        return []

    async def close(self) -> None:
        """Wait until nobody reads the file."""
        await asyncio.wait({self._coming})

    def _prepare(self) -> "asyncio.Task[_Chunk | RecordingError | None]":
        return asyncio.create_task(asyncio.to_thread(self._next))

    def _next(self) -> "_Chunk | RecordingError | None":
        # An error is a value: it counts if what it keeps from being read is wanted.
        try:
            for end, frames in self._chunks:
                if wanted := self._behind(frames):
                    return end, wanted
        except RecordingError as error:
            return error
        except OSError as error:
            return RecordingError(f"the recording can't be read: {error.strerror}")
        return None

    def _behind(self, frames: list[bytes]) -> list[bytes]:
        if not self._after:
            return frames
        for place, frame in enumerate(frames):
            if (_seq_of(frame) or 0) > self._after:
                self._after = 0
                return frames[place:]
        return []


def _seq_of(frame: bytes) -> int | None:
    event = decode(frame, (), ())
    return None if isinstance(event, Info | StreamError) else event.seq


def _split(content: bytes) -> tuple[list[bytes], int]:
    """Return the frames of a chunk, and how many bytes make no whole frame at its end."""
    frames: list[bytes] = []
    start, end = 0, len(content)
    while start + 4 <= end:
        (length,) = _LENGTH.unpack_from(content, start)
        if start + 4 + length > end:
            break
        frames.append(content[start + 4 : start + 4 + length])
        start += 4 + length
    return frames, end - start
