"""What `scripts/bench hostile` sends is refused, skipped or dear, and what is behind it arrives."""

from itertools import islice
from pathlib import Path

import pytest

from indexer.proof.verify import verify_commit
from indexer.stream.decode import decode
from indexer.stream.events import Commit, Event, Rejected, Skipped, VerifiedCommit
from scripts.benchmarks import hostile_reader
from scripts.benchmarks.hostile_frames import KINDS
from tests.support.frames import ALICE, COLLECTIONS, NOW, Author

# What the first frame of each kind is here, and, if that is a commit, what becomes of it.
EXPECTED: dict[str, tuple[type[Event], str | None]] = {
    "#identity whose time is no UTF-8": (Rejected, "malformed"),
    "a header in another order": (Skipped, None),
    "4.9 MB of empty arrays in ops": (Rejected, "malformed"),
    "4.9 MB of empty maps in blobs": (Rejected, "malformed"),
    "64 KB of empty maps in blobs": (Rejected, "malformed"),
    "1 KB of empty maps in blobs": (Rejected, "malformed"),
    "a record of 20,000 values": (Commit, None),
    "a record of a million values": (Commit, None),
    "a record of 1 MB of text": (Commit, None),
    "a tree of a million values": (Commit, "bad_tree"),
    "bad signatures of 1,200 DIDs": (Commit, None),
    "seqs of microseconds": (Commit, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_what_it_says(kind: str) -> None:
    expected, reason = EXPECTED[kind]
    (_, data) = next(KINDS[kind]())
    event = decode(data, COLLECTIONS, {ALICE})
    assert isinstance(event, expected)
    if not isinstance(event, Commit):
        assert reason is None or (isinstance(event, Rejected) and event.reason == reason)
        return
    change = verify_commit(event, COLLECTIONS.__contains__, Author.key.did_key, NOW)
    if reason is None:
        assert isinstance(change, VerifiedCommit)
    else:
        assert isinstance(change, Rejected)
        assert change.reason == reason


async def test_a_run_tells_how_long_the_loop_stood_and_that_the_good_commit_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {kind: lambda make=make: islice(make(), 2) for kind, make in KINDS.items()}
    monkeypatch.setattr(hostile_reader, "KINDS", few)
    for number, kind in enumerate(("#identity whose time is no UTF-8", "seqs of microseconds")):
        took = await hostile_reader.read(kind, tmp_path / f"{number}.db")
        assert (took["frames"], took["good"]) == (3, 1)
        assert took["stall"] >= 0
