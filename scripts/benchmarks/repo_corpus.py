"""What the benchmarks measure on, made once from a seed and kept outside git."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import libipld
from cryptography.hazmat.primitives.asymmetric import ec

from scripts.benchmarks.tree import GrowingTree
from tests.support.account_keys import K256, Key
from tests.support.frames import (
    CREATED,
    INVITE,
    SPACE,
    VERIFICATION,
    Author,
    block,
    car,
    cid_of,
    frame,
    invite,
    section,
    space,
    tid,
    verification,
)

EDITION = 3  # of what is made here: another one is made anew
SEED = "rescind bench"
START = 1_735_689_600_000  # Unix ms; every rev is of that day: a rev may not lie in the future
OURS = (VERIFICATION, VERIFICATION, VERIFICATION, VERIFICATION, VERIFICATION, INVITE, INVITE, SPACE)
OTHERS = ("app.bsky.feed.like", "app.bsky.feed.post", "app.bsky.graph.follow")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is made."""

    repos: int  # that the commits are of
    records: int  # of other collections in each, which make its tree deep
    commits: int  # in all, one create each
    car_records: int  # of other collections in the repo that is one CAR
    car_ours: int


# A proof is then of 11 blocks in 4.4 KB on average, much as on the network, and the CAR of 100 MB.
FULL = Size(repos=24, records=80_000, commits=10_000, car_records=350_000, car_ours=1_000)


@dataclass(frozen=True, slots=True)
class Repo:
    """An account, and its repo before the first commit here."""

    did: str
    key: str  # did:key
    rev: str
    data: str  # the root of the MST, text form


@dataclass(frozen=True, slots=True)
class Corpus:
    """The commits, as frames of one stream from seq 1 on, and a CAR, as files in a directory."""

    directory: Path
    commits: int
    repos: tuple[Repo, ...]
    whole: Repo  # what the CAR is of

    @property
    def car(self) -> Path:
        return self.directory / "repo.car"

    def frames(self) -> list[bytes]:
        data: list[bytes] = libipld.decode_dag_cbor((self.directory / "frames.cbor").read_bytes())
        return data


def load(directory: Path) -> Corpus:
    """Read what `make` made there."""
    fields = json.loads((directory / "corpus.json").read_text())
    repos = tuple(Repo(**repo) for repo in fields["repos"])
    return Corpus(directory, fields["commits"], repos, Repo(**fields["whole"]))


def make(cache: Path, size: Size, tell: Callable[[], None] = lambda: None) -> Corpus:
    """Return the corpus of this size, made if the cache lacks it: `tell` is called before that."""
    words = [EDITION, SEED, *asdict(size).values()]
    return load(cached(cache, words, lambda directory: _write(directory, size), tell))


def cached(
    cache: Path, words: list[Any], write: Callable[[Path], None], tell: Callable[[], None]
) -> Path:
    """Return the directory of what these words tell apart, written if the cache lacks it."""
    directory = cache / sha256(json.dumps(words).encode()).hexdigest()[:16]
    if not directory.exists():
        tell()
        cache.mkdir(parents=True, exist_ok=True)
        # Apart first, so that one that was interrupted is never taken for whole.
        unfinished = Path(mkdtemp(prefix="unfinished-", dir=cache))
        try:
            write(unfinished)
            unfinished.rename(directory)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return directory


def _write(directory: Path, size: Size) -> None:
    rng = Random(SEED)
    repos, streams = [], []
    for number in range(size.repos):
        # The first ones take what is left over.
        count = size.commits // size.repos + (number < size.commits % size.repos)
        author = new_author(rng)
        tree = GrowingTree(other_records(rng, size.records))
        author.rev, author.data = tid(0, START), tree.root()
        repos.append(repo_of(author))
        streams.append([_commit(author, tree, rng, index) for index in range(count)])
    # Of all repos in turn, much as on a relay.
    bodies = [body for turn in zip_longest(*streams) for body in turn if body is not None]
    frames = [frame("#commit", {**body, "seq": seq}) for seq, body in enumerate(bodies, 1)]
    (directory / "frames.cbor").write_bytes(block(frames))
    whole = _write_car(directory / "repo.car", rng, size)
    fields = {
        "commits": len(frames),
        "repos": [asdict(repo) for repo in repos],
        "whole": asdict(whole),
    }
    (directory / "corpus.json").write_text(json.dumps(fields))


def new_author(rng: Random) -> Author:
    author = Author(some_did(rng))
    author.key = Key(ec.derive_private_key(rng.getrandbits(255) + 1, ec.SECP256K1()), *K256)
    return author


def some_did(rng: Random) -> str:
    return "did:plc:" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz234567", k=24))


def repo_of(author: Author) -> Repo:
    assert author.rev
    assert author.data
    return Repo(author.did, author.key.did_key, author.rev, libipld.encode_cid(author.data))


def other_records(rng: Random, count: int) -> dict[bytes, bytes]:
    """Return path to CID of records that a commit's proof does not have to bring."""
    paths = (f"{rng.choice(OTHERS)}/{new_rkey(rng)}".encode() for _ in range(count))
    return {path: cid_of(path) for path in paths}


def new_rkey(rng: Random) -> str:
    return tid(rng.randrange(10**14), START - 10**11)


def _commit(author: Author, tree: GrowingTree, rng: Random, number: int) -> dict[str, Any]:
    """Return the body of a `#commit` that creates one record of ours, but for its seq."""
    rev, since, before = tid(number + 1, START), author.rev, author.data
    collection = rng.choice(OURS)
    path, record = f"{collection}/{rev}", block(our_record(rng, author.did, collection))
    tree.insert(path.encode(), cid_of(record))
    data = tree.root()
    commit = block(author.commit_object(rev, data))
    author.rev, author.data = rev, data
    return {
        "time": CREATED,
        "repo": author.did,
        "rev": rev,
        "since": since,
        "prevData": before,
        "commit": cid_of(commit),
        "ops": [{"action": "create", "path": path, "cid": cid_of(record)}],
        "blobs": [],
        "blocks": car(cid_of(commit), [commit, *tree.proof(path.encode()), record]),
        "rebase": False,
        "tooBig": False,
    }


def our_record(rng: Random, did: str, collection: str) -> dict[str, Any]:
    word = rng.randbytes(6).hex()
    # Of another moment each: what is remembered of a text must not make the benchmark quick.
    moment = rng.randrange(86_400_000)
    at = datetime.fromtimestamp((START + moment) / 1000, UTC).isoformat(timespec="milliseconds")
    created = at.replace("+00:00", "Z")
    if collection == SPACE:
        return space(name=f"Space {word}", createdAt=created)
    if collection == INVITE:
        return invite(f"at://{did}/{SPACE}/garden", word, kind="join", maxUses=5, createdAt=created)
    subject = f"did:plc:{rng.randbytes(12).hex().translate(_AS_BASE32)}"
    return verification(
        subject=subject, handle=f"{word}.test", displayName=f"Name {word}", createdAt=created
    )


_AS_BASE32 = str.maketrans("0189", "wxyz")


def _write_car(file: Path, rng: Random, size: Size) -> Repo:
    """Write a whole repo, its blocks in no order."""
    author = new_author(rng)
    records = {}
    for collection, count in ((None, size.car_records), (VERIFICATION, size.car_ours)):
        for _ in range(count):
            name = collection or rng.choice(OTHERS)
            fields = our_record(rng, author.did, name) if collection else _post(rng, name)
            records[f"{name}/{new_rkey(rng)}".encode()] = block(fields)
    tree = GrowingTree({path: cid_of(record) for path, record in records.items()})
    author.rev, author.data = tid(0, START), tree.root()
    commit = block(author.commit_object(author.rev, author.data))
    blocks = [commit, *tree.nodes(), *records.values()]
    rng.shuffle(blocks)
    with file.open("wb") as sink:
        sink.write(car(cid_of(commit), []))
        sink.writelines(_sections(blocks))
    return repo_of(author)


def _sections(blocks: list[bytes]) -> Iterator[bytes]:
    return (section(cid_of(data), data) for data in blocks)


def _post(rng: Random, collection: str) -> dict[str, Any]:
    text = rng.randbytes(rng.randrange(10, 80)).hex()
    return {"$type": collection, "text": text, "createdAt": CREATED}
