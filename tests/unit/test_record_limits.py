"""A record costs so much and no more, found before it is walked; what hosts take below is read."""

import tracemalloc
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from indexer.cbor import has_more_values, without_depths
from indexer.proof.mst_node import BadTree, common_prefix, read_node
from indexer.proof.verify import verify_commit
from indexer.records import MAX_NAME, MAX_RECORD, InvalidRecord, Space, Verification
from indexer.stream.events import Commit, Rejected
from tests.support.frames import (
    ALICE,
    COLLECTIONS,
    NOW,
    SCOPE,
    SPACE,
    VERIFICATION,
    Author,
    block,
    car,
    cid_of,
    space,
    tid,
    verification,
)
from tests.support.index_file import Index, Repo, opened


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    async with opened(tmp_path) as index:
        yield index


def array(values: bytes, count: int) -> bytes:
    return b"\x9a" + count.to_bytes(4) + values * count


def space_with(value: bytes, name: str = "z") -> bytes:
    """Return a space with an unknown field that is this DAG-CBOR."""
    plain = block(space(**{name: 1}))
    key = bytes((0x60 + len(name),)) + name.encode()
    assert plain.count(key + b"\x01") == 1
    return plain.replace(key + b"\x01", key + value)


READ: dict[str, bytes] = {
    "999,900 bytes": block(space(z="y" * 999_800)),
    "an array in 2,967 others": space_with(b"\x81" * 2_967 + b"\x80"),
    "a map in 3,160 others": space_with(b"\xa1\x61a" * 3_160 + b"\xa0"),
    "65 levels": space_with(b"\x81" * 65 + b"\x01"),
    "19,900 empty arrays": space_with(array(b"\x80", 19_900)),
    "9,900 maps of one number": space_with(array(b"\xa1\x61a\x01", 9_900)),
    "9,900 arrays of a text that is no ASCII": space_with(array(b"\x81\x62\xc3\xa9", 9_900)),
}


@pytest.mark.parametrize("data", READ.values(), ids=READ)
def test_what_a_pds_takes_below_that_is_read(data: bytes) -> None:
    assert len(data) <= MAX_RECORD
    assert isinstance(SCOPE.read(SPACE, data), Space)


TOO_MUCH: dict[str, bytes] = {
    "1,000,001 bytes": block(space(z="y" * 1_000_000)),
    "20,001 empty arrays": space_with(array(b"\x80", 20_001)),
    "20,001 numbers": space_with(array(b"\x01", 20_001)),
    "10,001 maps of a map": space_with(array(b"\xa1\x61a\xa0", 10_001)),
    "900,000 arrays": space_with(array(b"\x80", 900_000)),
    "arrays in 900,000 others": space_with(b"\x81" * 900_000 + b"\x80"),
}


@pytest.mark.parametrize("data", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_is_more_is_invalid_and_nothing_is_made_of_it(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRecord, match=r"larger than|more than"):
            SCOPE.read(SPACE, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_a_display_name_of_any_length_is_taken_and_so_much_of_it_is_kept() -> None:
    for name in ("x" * 6_401, "é" * 400_000, "x" + "é" * 3_200):
        fields = SCOPE.read(VERIFICATION, block(verification(displayName=name)))
        assert isinstance(fields, Verification)
        assert name.startswith(fields.display_name)
        assert MAX_NAME - 1 <= len(fields.display_name.encode()) <= MAX_NAME


async def test_a_record_beyond_the_limits_is_counted_and_the_others_of_its_commit_are_indexed(
    index: Index,
) -> None:
    repo = Repo()
    big, other = (f"{SPACE}/{name}" for name in ("big", "other"))
    commit = repo.commit({big: TOO_MUCH["20,001 numbers"], other: READ["65 levels"]})
    assert await index.apply(commit) == ["invalid_record"]
    assert [row["uri"] for row in await index.rows("spaces")] == [repo.uri(other)]


# --- counted, or cut, without being built ---


def test_a_key_counts_with_its_value_and_a_link_as_one() -> None:
    link = cid_of(b"")
    for value, count in (([1, 2], 3), ({"a": 1}, 2), ({"a": {"b": [1]}}, 4), ([link, link], 3)):
        assert not has_more_values(block(value), count)
        assert has_more_values(block(value), count - 1)


def test_what_is_nested_too_deep_is_left_out_and_all_else_kept() -> None:
    value: dict[str, Any] = {"a": 1, "b": [[["x"]]], "c": {"d": cid_of(b"")}, "e": b"\xff"}
    data = block(value)
    cut = without_depths(data, 2, 100)
    assert cut is not None
    assert sha256(cut[3:]).digest() == sha256(block({k: value[k] for k in "ace"})[1:]).digest()
    for wrong in (b"", b"\x80", data[:-1], data + b"\x00", b"\xb9\xff\xff"):
        assert without_depths(wrong, 2, 100) is None
    assert without_depths(data, 2, 3) is None


# --- the other blocks of a commit ---


def commit_with(blocks: list[bytes], commit: bytes) -> Commit:
    data = car(cid_of(commit), [commit, *blocks])
    return Commit(1, None, ALICE, tid(1), None, None, cid_of(commit), (), data)


def reason_of(event: Commit) -> str:
    change = verify_commit(event, COLLECTIONS.__contains__, Author.key.did_key, NOW)
    assert isinstance(change, Rejected)
    return change.reason


def test_a_commit_object_of_many_values_is_not_decoded() -> None:
    assert reason_of(commit_with([], array(b"\x80", 900_000))) == "bad_commit"
    author = Author()
    unsigned = author.commit_object(tid(1), cid_of(b"\xa0"), later=[0] * 9_000)
    assert reason_of(commit_with([], block(unsigned))) == "bad_commit"


@pytest.mark.parametrize(
    "node", [array(b"\x80", 900_000), b"\x81" * 900_000, b"\x82\x80" * 450_000]
)
def test_a_node_of_the_tree_that_is_made_of_many_values_is_not_decoded(node: bytes) -> None:
    with pytest.raises(BadTree, match="too many values"):
        read_node(node)


def test_a_large_node_of_a_tree_is_read() -> None:
    keys = [f"{SPACE}/{number:05}".encode() for number in range(5_000)]
    entries, last = [], b""
    for key in keys:
        shared = common_prefix(last, key)
        entries.append({"p": shared, "k": key[shared:], "t": None, "v": cid_of(b"")})
        last = key
    assert read_node(block({"l": None, "e": entries}))[0] == keys


def test_the_largest_commit_object_that_may_be_is_read() -> None:
    author = Author("did:web:" + "a." * 1_000 + "test")
    assert len(block(author.commit_object(tid(1), cid_of(b"\xa0")))) < 8_192
