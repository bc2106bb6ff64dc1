"""A whole repo from its CAR file, in little memory. Pure, but for the file that it reads.

The blocks of such a CAR stand in any order, and a repo may have hundreds of megabytes, of which a
few hundred bytes are ours. So the file stays where it is. It is gone through once to check every
block against its CID, and then again for as long as there are blocks that are wanted: the nodes
on the way to our collections, and at last our records.

Source: `com.atproto.sync.getRepo` and atproto.com/specs/repository.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path

import libipld

from indexer.proof.car import BadBlock, BadCar, read_header, read_section
from indexer.proof.mst_node import BadTree
from indexer.proof.range_tree import RangeTree, TooMany
from indexer.proof.verify import Unproven, prove_commit
from indexer.records import MAX_RECORD
from indexer.stream.decode import CID_PREFIX

MAX_DEPTH = 64  # passes; a tree of a billion records has about 15 layers
MAX_BLOCKS = 5_000_000  # in one repo: a pass takes about a microsecond for each
MAX_RECORDS = 200_000  # of ours in one repo, and as many nodes on the way to them
MAX_HELD = 64_000_000  # bytes of our records in one repo


@dataclass(frozen=True, slots=True)
class Contents:
    """What a repo holds of ours, as its owner signed it."""

    did: str
    rev: str
    data: str  # the MST root, text form
    # By path: CID (text form) and block; an empty one stands for one that is too large to be read.
    records: dict[str, tuple[str, bytes]]


class BadRepo(ValueError):
    """The file is not a whole repo of this DID; the text says why."""


def read_repo(file: Path, did: str, key: str | None, collections: Collection[str]) -> Contents:
    """Prove a CAR down to its signed commit; return what it holds of our collections.

    `key` is the did:key that the DID names. Raises `BadRepo`. It computes for seconds if the
    file is large: call it in a thread.
    """
    if file.stat().st_size == 0:
        raise BadRepo("the CAR is empty")
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as car:
        try:
            root, start = read_header(car)
            block = _check_all(car, start, root)
            commit = prove_commit(block, did, key)
            paths = _find_paths(car, start, commit.data, collections)
            blocks = _find(car, start, set(paths.values()))
        except (BadCar, BadTree, TooMany) as error:
            raise BadRepo(f"the CAR is no repo: {error}") from None
        except Unproven as unproven:
            raise BadRepo(f"the commit is not proven: {unproven.reason}") from None
    records = {path: (libipld.encode_cid(cid), blocks[cid]) for path, cid in paths.items()}
    return Contents(did, commit.rev, libipld.encode_cid(commit.data), records)


def _blocks(car: mmap, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the CID of each block, and where its bytes begin and end."""
    end = len(car)
    while start < end:
        cid, begin, start = read_section(car, start)
        yield cid, begin, start


def _check_all(car: mmap, start: int, root: bytes) -> bytes:
    """Check every block against its CID; return that of the root."""
    found = None
    with memoryview(car) as view:
        for count, (cid, begin, end) in enumerate(_blocks(car, start), 1):
            if count > MAX_BLOCKS:
                raise BadRepo(f"more than {MAX_BLOCKS} blocks")
            if sha256(view[begin:end]).digest() != cid[len(CID_PREFIX) :]:
                raise BadBlock("a block does not match its CID")
            if cid == root:
                found = bytes(view[begin:end])
    if found is None:
        raise BadRepo("the CAR lacks its root")
    return found


def _find(car: mmap, start: int, wanted: set[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    held = 0
    for cid, begin, end in _blocks(car, start):
        if cid in wanted:
            found[cid] = car[begin:end] if end - begin <= MAX_RECORD else b""
            held += len(found[cid])
            if held > MAX_HELD:
                raise BadRepo(f"more than {MAX_HELD} bytes of records of ours")
    if len(found) < len(wanted):
        raise BadRepo("the CAR lacks a record")
    return found


def _find_paths(
    car: mmap, start: int, data: bytes, collections: Collection[str]
) -> dict[str, bytes]:
    """Return the CID of each record of our collections, by path."""
    tree = RangeTree(data, collections, MAX_RECORDS)
    for _ in range(MAX_DEPTH):
        if not tree.wanted:
            return tree.records
        is_progress = False
        for cid, begin, end in _blocks(car, start):
            # What is found here may be wanted, and stand, further on in the same pass.
            if cid in tree.wanted:
                is_progress = True
                tree.read(cid, bytes(car[begin:end]))
        if tree.wanted and not is_progress:
            raise BadRepo("the CAR lacks a node of the tree")
    raise BadRepo("the tree is too deep")
