"""What the journal has acknowledged is read back; what is torn was never acknowledged."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.journal import writer
from indexer.journal.lines import BadLineError, Entry, decode, encode
from indexer.journal.reader import JournalError, files_of, read
from indexer.journal.writer import Journal
from tests.support.frames import ALICE, BOB, NOW, VERIFICATION, hash_of, tid

URI = f"at://{ALICE}/{VERIFICATION}/one"
ENTRY = Entry(URI, "bafy1", tid(1), "verification", ALICE, BOB, "an impostor", NOW)
DAY = 86_400


def entries(count: int, at: int = NOW) -> list[Entry]:
    return [replace(ENTRY, uri=f"{URI}{n}", at=at + n) for n in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rescind.db.journal"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    async with Journal.open(path, 90, clock=lambda: NOW / 1000) as opened:
        yield opened


texts = st.text(max_size=40)


@given(
    st.builds(
        Entry, uri=texts, cid=texts, rev=texts, kind=texts, did=texts, actor=texts,
        reason=st.none() | texts, at=st.integers(0, 2**60), space_uri=st.none() | texts,
        token_hash=st.none() | texts,
    ),
    st.data(),
)  # fmt: skip
def test_a_line_says_what_was_written_and_no_damage_passes(
    entry: Entry, data: st.DataObject
) -> None:
    line = encode(entry)
    assert line.count(b"\n") == 1
    assert decode(line) == entry
    at = data.draw(st.integers(0, len(line) - 2))
    bent = line[:at] + bytes([line[at] ^ data.draw(st.integers(1, 255))]) + line[at + 1 :]
    with pytest.raises(BadLineError):
        decode(bent)


async def test_what_is_kept_is_read_back_once_in_its_order(journal: Journal, path: Path) -> None:
    wanted = entries(3)
    await journal.keep(wanted[:2])
    await journal.keep(wanted)  # asked again
    token = replace(ENTRY, kind="invite", space_uri="at://x/y/z", token_hash=hash_of("a"))
    await journal.keep([token])
    assert list(read(path)) == [*wanted, token]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_hundred_callers_share_the_wait_for_the_disk(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    await asyncio.gather(*(journal.keep([entry]) for entry in entries(100)))
    assert len(synced) <= 3
    assert sorted(e.at for e in read(path)) == [e.at for e in entries(100)]


@pytest.mark.parametrize("torn", [1, 10, 200])
async def test_a_torn_end_is_left_out_and_written_over(path: Path, torn: int) -> None:
    whole = entries(2)
    path.write_bytes(b"".join(map(encode, whole)) + encode(ENTRY)[:torn])
    assert list(read(path)) == whole
    async with Journal.open(path, 90) as journal:
        await journal.keep([ENTRY])
    assert list(read(path)) == [*whole, ENTRY]


async def test_a_line_torn_by_another_process_meanwhile_is_cut_off_too(
    journal: Journal, path: Path
) -> None:
    await journal.keep(entries(1))
    with path.open("ab") as file:
        file.write(encode(ENTRY)[:50])
    await journal.keep([ENTRY])
    assert list(read(path)) == [*entries(1), ENTRY]


async def test_a_group_that_a_power_cut_has_left_with_holes_is_its_torn_end(path: Path) -> None:
    whole = entries(2)
    path.write_bytes(b"".join(map(encode, whole)) + b"\0" * 900 + b"\n" + b"\0" * 50)
    async with Journal.open(path, 90) as journal:
        await journal.keep([ENTRY])
    assert list(read(path)) == [*whole, ENTRY]


async def test_damage_before_the_end_is_refused_named_and_put_aside(path: Path) -> None:
    lines = [encode(entry) for entry in entries(3)]
    lines[1] = lines[1].replace(b"impostor", b"imp0stor")
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match=r"rescind.db.journal is damaged in line 2"):
        list(read(path))
    assert [entry.at - NOW for entry in read(path, accept_damage=True)] == [0, 2]
    async with Journal.open(path, 90) as journal:  # the daemon goes on, with a new file
        await journal.keep([ENTRY])
    assert [file.name for file in files_of(path)] == [f"{path.name}.000001", path.name]
    assert list(read(path, accept_damage=True))[-1] == ENTRY


async def test_a_full_file_gives_way_to_the_next_and_all_are_read(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_FILE", 2_000)
    for entry in entries(30):
        await journal.keep([entry])
    assert list(read(path)) == entries(30)
    files = files_of(path)
    assert len(files) > 3
    assert all(file.stat().st_size <= 2_000 for file in files)


async def test_two_processes_write_to_one_journal(journal: Journal, path: Path) -> None:
    async with Journal(path, 90) as other:
        for n, entry in enumerate(entries(20)):
            await (journal if n % 2 else other).keep([entry])
            if n == 10:
                journal._rotate(path)
    assert list(read(path)) == entries(20)


async def test_a_journal_that_is_removed_is_made_again(journal: Journal, path: Path) -> None:
    await journal.keep(entries(1))
    path.unlink()
    await journal.keep([ENTRY])
    assert list(read(path)) == [ENTRY]


async def test_files_are_kept_for_as_long_as_the_setting_says(path: Path) -> None:
    now = NOW / 1000
    async with Journal.open(path, 3, clock=lambda: now) as journal:
        for days in range(6):
            now = NOW / 1000 + days * DAY + days  # a day and a second later each time
            journal._prune(path)
            await journal.keep(entries(1, int(now * 1000)))
            os.utime(path, (now, now))
        now += DAY + 1
        journal._prune(path)
    assert [(now * 1000 - entry.at) // (DAY * 1000) for entry in read(path)] == [2, 1]


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """Let no file grow beyond this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_line_that_can_not_be_written_ends_the_call_and_all_that_come_after(
    journal: Journal, path: Path
) -> None:
    await journal.keep(entries(1))
    running = asyncio.ensure_future(journal.run())
    with (
        disk_full_at(path.stat().st_size + 100),
        pytest.raises(JournalError, match="can't be written"),
    ):
        await journal.keep([ENTRY])
    with pytest.raises(JournalError):  # also when there is room again: the daemon is ending
        await journal.keep([ENTRY])
    with pytest.raises(JournalError):
        await asyncio.wait_for(running, 1)
    assert list(read(path)) == entries(1)  # no half a line


async def test_a_place_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="No such file"):
        Journal.open(tmp_path / "missing" / "journal", 90)


async def test_off_keeps_nothing(tmp_path: Path) -> None:
    async with Journal.open(None, 90) as journal:
        await journal.keep([ENTRY])
    assert list(tmp_path.iterdir()) == []
