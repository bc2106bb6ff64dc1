"""A reader of the index beside the daemon: it sees when what the stream says can be read.

python -m scripts.benchmarks.fresh_reader DATABASE DIRECTORY PLAN FIRST LAST

PLAN is the path of a stream that is written while time goes by. Of each of its commits of ours
from frame FIRST to LAST, it waits until the repo in the index has its revision, which moves in
the same transaction as the commit's records. It prints a JSON list of the seconds that each took
from when the frame was due: what the relay, the socket and this reader take is in it too.
"""

import json
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import libipld

from scripts.benchmarks.relay import Plan
from scripts.benchmarks.stream_corpus import StreamCorpus, load

LOOK_EVERY = 0.001  # seconds
PATIENCE = 30.0  # seconds: who waits longer has lost a frame


@dataclass(frozen=True, slots=True)
class Awaited:
    """A commit of ours."""

    did: str
    rev: str
    due: float  # when its frame is written, in Unix seconds


def awaited(corpus: StreamCorpus, plan: Plan, first: int, last: int) -> Iterator[Awaited]:
    """Yield the commits of ours from frame `first` to `last`."""
    frames = corpus.frames("ours")
    assert plan.ours_in(last) <= len(frames), "played again, they would be there already"
    number = first
    for pool, place, count in plan.runs(first - 1):
        for offset in range(count if pool == "ours" else 0):
            if number + offset > last:
                return
            header, body = libipld.decode_dag_cbor_multi(frames[place + offset])
            if header["t"] == "#commit":
                yield Awaited(body["repo"], body["rev"], plan.written_at(number + offset))
        number += count


def watch(db: sqlite3.Connection, commits: Iterable[Awaited]) -> list[float]:
    """Return after how many seconds each could be read. They are applied in order."""
    found = []
    for commit in commits:
        time.sleep(max(0.0, commit.due - time.time()))
        while not _is_there(db, commit):
            assert time.time() < commit.due + PATIENCE, f"{commit} is not in the index"
            time.sleep(LOOK_EVERY)
        found.append(time.time() - commit.due)
    return found


def _is_there(db: sqlite3.Connection, commit: Awaited) -> bool:
    (rev,) = db.execute("select rev from repos where did = ?", (commit.did,)).fetchone()
    return bool(rev >= commit.rev)


def main() -> None:
    file, directory, path, first, last = sys.argv[1:]
    commits = list(awaited(load(Path(directory)), Plan.of(path), int(first), int(last)))
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as db:
        print(json.dumps(watch(db, commits)))


if __name__ == "__main__":
    main()
