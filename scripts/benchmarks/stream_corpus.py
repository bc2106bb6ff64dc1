"""A firehose to measure on, made once from a seed and kept outside git.

Two streams of frames, as a relay sends them: what concerns nobody here, and what does. The relay
of the benchmark mixes them, so one corpus serves for any share of ours.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import libipld

from indexer.lexicon.syntax import format_datetime
from scripts.benchmarks.repo_corpus import (
    OURS,
    START,
    Repo,
    cached,
    new_author,
    new_rkey,
    our_record,
    repo_of,
    some_did,
)
from scripts.benchmarks.tree import GrowingTree
from tests.support.frames import COLLECTIONS, block, car, cid_of, cid_text, frame, tid

EDITION = 3  # of what is made here: another one is made anew
SEED = "rescind firehose"
SEQ_HOLE = 0x7E5C_17D0_7E5C_17D0  # stands for every `seq`, in the nine bytes that a large one takes
SEQ_MARK = b"\x63seq\x1b" + SEQ_HOLE.to_bytes(8)
TIME_LENGTH = len(format_datetime(START))
TIME_MARK = b"\x64time\x78" + bytes([TIME_LENGTH])  # before every `time`

MULTIPLE = 0.06  # of the commits: they have several operations
MAX_OPS = 10
ACCOUNTS = 0.01  # of the frames: they say something of an identity or an account
DELETIONS, UPDATES = 0.09, 0.02  # of the operations
# What is created elsewhere, much as on the network.
OTHERS = {
    "app.bsky.feed.like": 0.60,
    "app.bsky.feed.post": 0.16,
    "app.bsky.graph.follow": 0.14,
    "app.bsky.feed.repost": 0.10,
}
PROFILE = "app.bsky.actor.profile/self"
WORDS = ("a", "garden", "who", "when", "nobody", "writes", "about", "open", "sky", "at")

Pool = Literal["ours", "others"]
POOLS: tuple[Pool, ...] = ("ours", "others")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is made."""

    frames: int  # of each of the two streams
    repos: int  # that each is of
    least: int  # records in a repo, at first
    most: int


# A commit is then of 9.6 blocks on average, and a frame of 4.8 KB, of ours 4.3: as on the network.
FULL = Size(frames=50_000, repos=250, least=1_000, most=12_000)


@dataclass(frozen=True, slots=True)
class StreamCorpus:
    """The frames of both streams, as files in a directory. Their `seq` is a hole to be filled."""

    directory: Path
    repos: Mapping[Pool, tuple[Repo, ...]]  # before their first commit here

    def frames(self, pool: Pool) -> list[bytes]:
        data: list[bytes] = libipld.decode_dag_cbor((self.directory / f"{pool}.cbor").read_bytes())
        return data

    def events(self, pool: Pool) -> list[int]:
        """Return of each frame how many events a consumer hears of that asks for ours only.

        A frame about an account is one, whoever it is about.
        """
        counts = libipld.decode_dag_cbor((self.directory / "events.cbor").read_bytes())
        data: list[int] = counts[pool]
        return data


def load(directory: Path) -> StreamCorpus:
    """Read what `make` made there."""
    fields = json.loads((directory / "corpus.json").read_text())
    repos = {pool: tuple(Repo(**repo) for repo in fields[pool]) for pool in POOLS}
    return StreamCorpus(directory, repos)


def make(cache: Path, size: Size, tell: Callable[[], None] = lambda: None) -> StreamCorpus:
    """Return the corpus of this size, made if the cache lacks it: `tell` is called before that."""
    words = [EDITION, SEED, *asdict(size).values()]
    return load(cached(cache, words, lambda directory: _write(directory, size), tell))


def _write(directory: Path, size: Size) -> None:
    rng = Random(SEED)
    fields, events = {}, {}
    for pool in POOLS:
        repos, frames, events[pool] = _stream(rng, size, pool)
        (directory / f"{pool}.cbor").write_bytes(block(frames))
        fields[pool] = [asdict(repo) for repo in repos]
    (directory / "events.cbor").write_bytes(block(events))
    (directory / "corpus.json").write_text(json.dumps(fields))


def _stream(rng: Random, size: Size, pool: Pool) -> tuple[list[Repo], list[bytes], list[int]]:
    """Return the repos before their first commit, the frames, and how many events each is."""
    # Who is busy is far busier than the rest.
    activity = [rng.paretovariate(1.5) for _ in range(size.repos)]
    places: list[list[int]] = [[] for _ in activity]
    for place, own in enumerate(rng.choices(places, activity, k=size.frames)):
        own.append(place)
    frames, counts = [b""] * size.frames, [0] * size.frames
    repos = []
    # One repo after the other, since a whole tree takes much memory.
    for own in places:
        writer = _Writer(rng, round(size.least * (size.most / size.least) ** rng.random()), pool)
        repos.append(repo_of(writer.author))
        for place in own:
            frames[place], counts[place] = writer.next_frame(place)
    return repos, frames, counts


class _Writer:
    """One repo and what is done in it."""

    def __init__(self, rng: Random, records: int, pool: Pool) -> None:
        self.author = new_author(rng)
        self._rng = rng
        self._is_ours = pool == "ours"
        # Records that a deletion may take: ours, and the rest.
        self._paths: dict[bool, list[str]] = {True: [], False: []}
        self._paths[False] = [f"{_other(rng)}/{new_rkey(rng)}" for _ in range(records)]
        paths = [path.encode() for path in (PROFILE, *self._paths[False])]
        self._tree = GrowingTree({path: cid_of(path) for path in paths})
        self.author.rev, self.author.data = tid(0, START - 1), self._tree.root()

    def next_frame(self, place: int) -> tuple[bytes, int]:
        """Return the frame at this place of the stream, and how many events it is."""
        head = {"seq": SEQ_HOLE, "time": _time(place)}
        if self._rng.random() < ACCOUNTS:
            return self._account(head), 1
        count = self._rng.randint(2, MAX_OPS) if self._rng.random() < MULTIPLE else 1
        rev, since, before = tid(0, START + place), self.author.rev, self.author.data
        ops: dict[str, dict[str, Any]] = {}  # by path: each may come once
        records: list[bytes] = []
        for number in range(count):
            # The first one makes the frame one of ours.
            is_ours = self._is_ours and (number == 0 or self._rng.random() < 0.5)
            op = self._op(tid(number, START + place - 1), is_ours, ops.keys(), records)
            ops[op["path"]] = op
        data = self._tree.root()
        nodes = [node for path in ops for node in self._tree.proof(path.encode())]
        commit = block(self.author.commit_object(rev, data))
        self.author.rev, self.author.data = rev, data
        body = {
            **head,
            "repo": self.author.did,
            "rev": rev,
            "since": since,
            "prevData": before,
            "commit": cid_of(commit),
            "ops": list(ops.values()),
            "blobs": [],
            "blocks": car(cid_of(commit), dict.fromkeys((commit, *nodes, *records))),
            "rebase": False,
            "tooBig": False,
        }
        events = sum(path.partition("/")[0] in COLLECTIONS for path in ops)
        return frame("#commit", body), events

    def _account(self, head: dict[str, Any]) -> bytes:
        # Nobody leaves: what has to be in the index at the end stays easy to tell.
        body = {**head, "did": self.author.did}
        if self._rng.random() < 0.5:
            return frame("#account", {**body, "active": True})
        return frame("#identity", {**body, "handle": f"{self.author.did[8:]}.test"})

    def _op(
        self, rkey: str, is_ours: bool, touched: Collection[str], records: list[bytes]
    ) -> dict[str, Any]:
        """Do one thing to the repo and return it; a record that it writes goes to `records`."""
        rng, paths = self._rng, self._paths[is_ours]
        place = rng.randrange(len(paths)) if paths else None
        path = "" if place is None else paths[place]
        dice = rng.random()
        if place is not None and path not in touched and dice < DELETIONS:
            paths[place] = paths[-1]
            paths.pop()
            old = self._tree.remove(path.encode())
            return {"action": "delete", "path": path, "cid": None, "prev": old}
        path = path if is_ours else PROFILE
        if path and path not in touched and dice < DELETIONS + UPDATES:
            cid = self._record(path, records)
            old = self._tree.replace(path.encode(), cid)
            return {"action": "update", "path": path, "cid": cid, "prev": old}
        path = f"{rng.choice(OURS) if is_ours else _other(rng)}/{rkey}"
        cid = self._record(path, records)
        paths.append(path)
        self._tree.insert(path.encode(), cid)
        return {"action": "create", "path": path, "cid": cid}

    def _record(self, path: str, records: list[bytes]) -> bytes:
        """Return the CID of a new record for this path."""
        collection = path.partition("/")[0]
        is_ours = collection in COLLECTIONS
        fields = (
            our_record(self._rng, self.author.did, collection)
            if is_ours
            else _other_record(self._rng, collection)
        )
        records.append(block(fields))
        return cid_of(records[-1])


def _other(rng: Random) -> str:
    return rng.choices(*_OTHERS)[0]


_OTHERS = list(OTHERS), list(OTHERS.values())


def _other_record(rng: Random, collection: str) -> dict[str, Any]:
    record: dict[str, Any] = {"$type": collection, "createdAt": _time(rng.randrange(86_400_000))}
    match collection:
        case "app.bsky.feed.post":
            record |= {"text": _text(rng, 2, 60), "langs": ["en"]}
            if rng.random() < 0.5:
                record["reply"] = {"root": _some_post(rng), "parent": _some_post(rng)}
            if rng.random() < 0.3:
                page = {
                    "uri": f"https://{_text(rng, 1, 1)}.example/{rng.randbytes(9).hex()}",
                    "title": _text(rng, 4, 12),
                    "description": _text(rng, 10, 50),
                }
                record["embed"] = {"$type": "app.bsky.embed.external", "external": page}
        case "app.bsky.graph.follow":
            record["subject"] = some_did(rng)
        case "app.bsky.actor.profile":
            record |= {"displayName": _text(rng, 1, 3), "description": _text(rng, 3, 30)}
        case _:
            record["subject"] = _some_post(rng)
    return record


def _some_post(rng: Random) -> dict[str, str]:
    uri = f"at://{some_did(rng)}/app.bsky.feed.post/{new_rkey(rng)}"
    return {"uri": uri, "cid": cid_text(rng.randbytes(8))}


def _text(rng: Random, least: int, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def _time(ms: int) -> str:
    return format_datetime(START + ms)
