"""The journal read back: all that was written whole."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexer.journal.lines import BadLineError, Entry, decode


class JournalError(Exception):
    """The journal can't be written, or read; a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a file can be read. Offsets are in bytes."""

    end: int  # of what is whole, from the beginning
    size: int
    damage: str | None = None  # why not to the end; None where it is, or only its end was torn off

    @property
    def is_torn(self) -> bool:
        return self.end < self.size and self.damage is None


def files_of(path: Path) -> list[Path]:
    """Return the files of a journal that are there, the oldest first."""
    numbered = sorted(
        (
            file
            for file in path.parent.glob(f"{path.name}.*")
            if file.suffix[1:].isascii() and file.suffix[1:].isdigit()
        ),
        key=lambda file: int(file.suffix[1:]),
    )
    return [*numbered, *((path,) if path.exists() else ())]


def read(path: Path, *, accept_damage: bool = False) -> Iterator[Entry]:
    """Yield what all files of a journal say, in the order that it was written.

    What was torn off at the end of a file was never acknowledged, and is left out. Raises
    `JournalError` for damage before that, unless it is accepted: then what can't be read is
    left out, and all else counts.
    """
    for file in files_of(path):
        if not accept_damage and (state := examine(file)).damage:
            raise JournalError(f"{file} is damaged {state.damage}")
        for _, _, entry in _lines(file):
            if isinstance(entry, Entry):
                yield entry


def examine(file: Path) -> State:
    """Return how far a file is whole. What is bad is its torn end if nothing whole follows."""
    end = bad_line = 0
    bad = ""
    size = file.stat().st_size
    for number, (_, after, entry) in enumerate(_lines(file), 1):
        if isinstance(entry, BadLineError):
            bad, bad_line = bad or str(entry), bad_line or number
        elif bad:
            return State(end, size, f"in line {bad_line}, with whole lines behind it: {bad}")
        else:
            end = after
    return State(end, size)


def _lines(file: Path) -> Iterator[tuple[int, int, Entry | BadLineError]]:
    """Yield where each line begins and ends, and what it says."""
    try:
        with file.open("rb") as opened:
            if not file.stat().st_size:
                return
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                at = 0
                while at < len(content):
                    after = content.find(b"\n", at) + 1
                    is_whole = after > 0
                    after = after or len(content)
                    yield at, after, _decoded(content[at:after], is_whole)
                    at = after
    except OSError as error:
        raise JournalError(f"the journal {file} can't be read: {error.strerror}") from None


def _decoded(line: bytes, is_whole: bool) -> Entry | BadLineError:
    if not is_whole:
        return BadLineError("its end is missing")
    try:
        return decode(line)
    except BadLineError as error:
        return error
