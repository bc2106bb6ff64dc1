"""A repo's CAR is proven down to its signed commit, and gives our records and nothing else."""

from pathlib import Path
from random import Random
from typing import Any

import libipld
import pytest

from indexer.proof.car import read_car
from indexer.proof.repo import BadRepo, Contents, read_repo
from tests.support.account_keys import Key
from tests.support.frames import (
    COLLECTIONS,
    INVITE,
    SPACE,
    VERIFICATION,
    Author,
    block,
    car,
    cid_of,
    space,
    tree,
    verification,
)
from tests.vectors import RepoVectors, load


def read(tmp_path: Path, data: bytes, did: str, key: str) -> Contents:
    file = tmp_path / "repo.car"
    file.write_bytes(data)
    return read_repo(file, did, key, COLLECTIONS)


def walk(cid: bytes | None, blocks: dict[bytes, bytes]) -> dict[str, bytes]:
    """Return every path of a tree: a witness that goes another way."""
    if cid is None:
        return {}
    node: dict[str, Any] = libipld.decode_dag_cbor(blocks[cid])
    found = walk(node["l"], blocks)
    key = b""
    for entry in node["e"]:
        key = key[: entry["p"]] + entry["k"]
        found |= {key.decode(): entry["v"], **walk(entry["t"], blocks)}
    return found


def a_repo(posts: int = 300) -> tuple[Author, list[bytes]]:
    """Return a repo with three records of ours, and its blocks, the commit first."""
    author = Author()
    records: dict[str, Any] = {f"app.bsky.feed.post/{n:04}": {"text": str(n)} for n in range(posts)}
    records |= {f"{SPACE}/a": space(), f"{INVITE}/b": {"x": 1}, f"{VERIFICATION}/c": verification()}
    author.commit_body(1, records)
    assert author.rev
    assert author.data
    commit = block(author.commit_object(author.rev, author.data))
    return author, [commit, *tree(author.records), *map(block, records.values())]


def file_of(blocks: list[bytes]) -> bytes:
    return car(cid_of(blocks[0]), blocks)


@pytest.mark.parametrize("vectors", load(), ids=lambda vectors: vectors.name)
def test_the_repos_of_the_reference_implementation_are_read(
    vectors: RepoVectors, tmp_path: Path
) -> None:
    for data in filter(None, (vectors.car, vectors.backup)):
        contents = read(tmp_path, data, vectors.did, vectors.key)

        root, blocks = read_car(data)
        commit = libipld.decode_dag_cbor(blocks[root])
        every = walk(commit["data"], blocks)
        ours = {path: cid for path, cid in every.items() if path.split("/")[0] in COLLECTIONS}
        assert contents.rev == commit["rev"]
        assert contents.data == libipld.encode_cid(commit["data"])
        assert {path: blocks[cid] for path, cid in ours.items()} == {
            path: record for path, (_, record) in contents.records.items()
        }


def test_the_order_of_the_blocks_does_not_matter(tmp_path: Path) -> None:
    author, blocks = a_repo()
    first, *rest = blocks
    expected = read(tmp_path, file_of(blocks), author.did, author.key.did_key)
    assert set(expected.records) == {f"{SPACE}/a", f"{INVITE}/b", f"{VERIFICATION}/c"}
    for order in (rest[::-1], Random(1).sample(rest, len(rest))):
        data = car(cid_of(first), [*order, first])
        assert read(tmp_path, data, author.did, author.key.did_key) == expected


def test_an_empty_repo_is_whole(tmp_path: Path) -> None:
    author = Author()
    author.commit_body(1, {})
    assert author.rev
    assert author.data
    commit = block(author.commit_object(author.rev, author.data))
    contents = read(tmp_path, file_of([commit, *tree({})]), author.did, author.key.did_key)
    assert contents.records == {}


def test_what_is_not_whole_or_not_the_owners_word_is_refused(tmp_path: Path) -> None:
    author, blocks = a_repo()
    key, data = author.key.did_key, file_of(blocks)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    on_the_way = blocks[1]
    another = block(author.commit_object("3kznmn7xqxl22", cid_of(b"another tree")))
    for wrong, did, its_key in (
        (b"", author.did, key),
        (b"not a CAR", author.did, key),
        (data[:-1], author.did, key),
        (data[: len(data) // 2], author.did, key),
        (bytes(flipped), author.did, key),
        (data, "did:plc:" + "z" * 24, key),
        (data, author.did, Key.k256().did_key),
        (file_of([b for b in blocks if b != on_the_way]), author.did, key),
        (file_of([b for b in blocks if b != block(space())]), author.did, key),
        (car(cid_of(blocks[0]), blocks[1:]), author.did, key),
        (car(cid_of(another), [another, *blocks]), author.did, key),
    ):
        with pytest.raises(BadRepo):
            read(tmp_path, wrong, did, its_key)


def test_records_of_others_may_be_missing(tmp_path: Path) -> None:
    author, blocks = a_repo()
    kept = [data for data in blocks if b"text" not in data]
    assert len(kept) < len(blocks)
    assert len(read(tmp_path, file_of(kept), author.did, author.key.did_key).records) == 3
