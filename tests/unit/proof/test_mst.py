"""The tree: its official vectors, its shape, and every operation taken back."""

import json
from base64 import b32decode
from collections.abc import Iterator
from hashlib import sha256
from itertools import count, islice, permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.proof import mst_node
from indexer.proof.mst import MissingBlock, Tree, invert
from indexer.proof.mst_node import EMPTY_ROOT, MAX_SPLICES, BadTree, common_prefix, height
from indexer.stream.events import Op
from tests.support.frames import block, cid_of, tree

INTEROP = Path(__file__).parents[4] / "shared" / "fixtures" / "interop"
VALUE = cid_of(b"a record")
OTHER = cid_of(b"another")


def official(name: str) -> list[Any]:
    file = INTEROP / name
    return json.loads(file.read_text()) if file.exists() else []


def binary(cid: str) -> bytes:
    return b32decode(cid[1:].upper() + "=" * (-len(cid[1:]) % 8))


def blocks_of(records: dict[str, bytes]) -> dict[bytes, bytes]:
    return {cid_of(node): node for node in tree(records)}


def root_of(records: dict[str, bytes]) -> bytes:
    return cid_of(tree(records)[0])


def test_the_official_heights() -> None:
    cases = [
        {"key": "", "height": 0},
        {"key": "blue", "height": 1},
        *official("mst/key_heights.json"),
    ]
    for case in cases:
        assert height(case["key"].encode()) == case["height"], case


def test_the_official_common_prefixes() -> None:
    cases = [
        {"left": "abc", "right": "abc\u0000", "len": 3},
        {"left": "", "right": "abc", "len": 0},
        *official("mst/common_prefix.json"),
    ]
    for case in cases:
        assert common_prefix(case["left"].encode(), case["right"].encode()) == case["len"], case


@pytest.mark.parametrize("case", official("firehose/commit-proof-fixtures.json") or [None])
def test_the_official_commit_proofs(case: dict[str, Any] | None) -> None:
    if case is None:
        return  # the vectors lie beside the checkout only
    value = binary(case["leafValue"])
    before = dict.fromkeys(case["keys"], value)
    after = {**before, **dict.fromkeys(case["adds"], value)}
    for key in case["dels"]:
        del after[key]
    assert root_of(before) == binary(case["rootBeforeCommit"])
    assert root_of(after) == binary(case["rootAfterCommit"])
    every = blocks_of(after)
    proof = {binary(cid): every[binary(cid)] for cid in case["blocksInProof"]}
    ops = [Op("create", key, value, None) for key in case["adds"]]
    ops += [Op("delete", key, None, value) for key in case["dels"]]
    for order in permutations(ops):
        assert invert(root_of(after), order, proof) == root_of(before)


KEYS = st.integers(0, 400).map(lambda number: f"app.bsky.feed.post/{number:05}")


@given(
    before=st.dictionaries(KEYS, st.sampled_from([VALUE, OTHER]), max_size=60),
    after=st.dictionaries(KEYS, st.sampled_from([VALUE, OTHER]), max_size=60),
)
def test_any_difference_of_two_trees_is_taken_back(
    before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    ops = [
        Op("create" if old is None else "delete" if new is None else "update", path, new, old)
        for path in before.keys() | after.keys()
        if (old := before.get(path)) != (new := after.get(path))
    ]
    assert invert(root_of(after), ops, blocks_of(after)) == root_of(before)


@given(st.dictionaries(KEYS, st.just(VALUE), max_size=25), st.randoms())
def test_after_each_key_that_is_taken_out_or_put_back_the_root_is_that_of_the_rest(
    records: dict[str, bytes], rng: Random
) -> None:
    tree = Tree(root_of(records), blocks_of(records))
    for path in rng.sample(sorted(records), len(records)):
        assert tree.remove(path.encode()) == records.pop(path)
        assert tree.root() == root_of(records)
        if rng.random() < 0.2:
            tree.insert(path.encode(), OTHER)
            records[path] = OTHER
            assert tree.root() == root_of(records)


@given(st.dictionaries(KEYS, st.just(VALUE), max_size=60), KEYS)
def test_a_key_is_found_exactly_if_it_is_there(records: dict[str, bytes], path: str) -> None:
    assert Tree(root_of(records), blocks_of(records)).get(path.encode()) == records.get(path)


def test_an_empty_tree_needs_no_block() -> None:
    assert Tree(EMPTY_ROOT, {}).get(b"a/b") is None
    assert invert(EMPTY_ROOT, [Op("delete", "a/b", None, VALUE)], {}) == root_of({"a/b": VALUE})
    assert invert(root_of({"a/b": VALUE}), [], {}) == root_of({"a/b": VALUE})


def test_what_an_operation_claims_must_be_in_the_tree() -> None:
    records = {f"a.b.c/{number}": VALUE for number in range(50)}
    root, blocks = root_of(records), blocks_of(records)
    for wrong in (
        Op("create", "a.b.c/7", OTHER, None),  # there with another CID
        Op("create", "a.b.c/x", VALUE, None),  # not there
        Op("update", "a.b.c/7", OTHER, VALUE),
        Op("update", "a.b.c/x", VALUE, OTHER),
        Op("update", "a.b.c/7", VALUE, None),  # without what was there before
        Op("delete", "a.b.c/7", None, VALUE),  # still there
        Op("delete", "a.b.c/7", None, None),
    ):
        with pytest.raises(BadTree):
            invert(root, [wrong], blocks)
    # What came and went within the commit changed nothing.
    assert invert(root, [Op("delete", "a.b.c/x", None, None)], blocks) == root


def test_a_node_that_it_takes_and_the_car_lacks_is_missing() -> None:
    records = {f"a.b.c/{number}": VALUE for number in range(50)}
    root = root_of(records)
    with pytest.raises(MissingBlock):
        invert(root, [Op("create", "a.b.c/7", VALUE, None)], {})


def _entry(key: bytes, prefix: int = 0, **fields: Any) -> dict[str, Any]:
    return {"k": key, "p": prefix, "v": VALUE, "t": None, **fields}


MALFORMED = {
    "no map": [],
    "no entries": {"l": None},
    "no left": {"e": []},
    "a surplus field": {"l": None, "e": [], "x": 1},
    "an entry with a surplus field": {"l": None, "e": [_entry(b"a/b", x=1)]},
    "a prefix that is longer than the key before": {"l": None, "e": [_entry(b"a/b", 1)]},
    "a prefix that is no number": {"l": None, "e": [_entry(b"a/b", True)]},
    "a negative prefix": {"l": None, "e": [_entry(b"a/b", -1)]},
    "a key that is text": {"l": None, "e": [_entry("a/b")]},  # type: ignore[arg-type]
    "keys out of order": {"l": None, "e": [_entry(b"c/2"), _entry(b"c/0")]},
    "a key that repeats what it shares": {"l": None, "e": [_entry(b"c/0"), _entry(b"c/2")]},
    "an empty key": {"l": None, "e": [_entry(b"")]},
    "a key twice": {"l": None, "e": [_entry(b"c/2"), _entry(b"", 3)]},
    "a value that is no link": {"l": None, "e": [_entry(b"c/2", v=b"x")]},
    "a subtree that is no link": {"l": 1, "e": []},
    "a key of 2000 bytes": {"l": None, "e": [_entry(b"c" * 2000)]},
}


@pytest.mark.parametrize("node", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_node_is_a_bad_tree(node: Any) -> None:
    data = block(node)
    with pytest.raises(BadTree):
        Tree(cid_of(data), {cid_of(data): data}).get(b"c/2")


@given(st.binary(max_size=20))
def test_a_height_is_half_the_leading_zeros_of_the_hash(key: bytes) -> None:
    bits = "".join(f"{byte:08b}" for byte in sha256(key).digest())
    assert height(key) == len(bits.split("1")[0]) // 2


def test_heights_are_kept_of_so_many_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mst_node, "MAX_HEIGHTS", 10)
    heights = mst_node._Heights()
    keys = [f"a.b.c/{number}".encode() for number in range(95)]
    assert [heights[key] for key in keys * 2] == [height(key) for key in keys * 2]
    assert len(heights) <= 10


def test_a_key_in_the_wrong_layer_is_a_bad_tree() -> None:
    low = next(key for n in range(99) if height(key := f"c/{n}".encode()) == 0)
    high = next(key for n in range(99) if height(key := f"c/{n}".encode()) == 1)
    first, second = sorted((low, high))
    shared = common_prefix(first, second)
    data = block({"l": None, "e": [_entry(first), _entry(second[shared:], shared)]})
    with pytest.raises(BadTree):
        Tree(cid_of(data), {cid_of(data): data}).get(low)


def keys_of(layer: int, prefix: str) -> Iterator[bytes]:
    return (key for n in count() if height(key := f"{prefix}{n}".encode()) == layer)


class Forest:
    """Nodes with whatever keys in whatever places, hashed as they should be."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}

    def node(self, keys: list[bytes], kids: list[bytes | None]) -> bytes:
        entries, before = [], b""
        for key, kid in zip(keys, kids[1:], strict=True):
            shared = common_prefix(before, key)
            entries.append(_entry(key[shared:], shared, t=kid))
            before = key
        data = block({"l": kids[0], "e": entries})
        self.blocks[cid_of(data)] = data
        return cid_of(data)

    def leaf(self, *keys: bytes) -> bytes:
        return self.node(list(keys), [None] * (len(keys) + 1))

    def grow(self, keys: list[bytes], layer: int) -> bytes | None:
        """Return a tree with these keys in this order, right or wrong."""
        if not keys:
            return None
        marks = [index for index, key in enumerate(keys) if height(key) == layer]
        runs = [keys[a + 1 : b] for a, b in zip([-1, *marks], [*marks, None], strict=True)]
        return self.node([keys[mark] for mark in marks], [self.grow(r, layer - 1) for r in runs])


A, D, P, Z = (next(keys_of(0, prefix)) for prefix in "adpz")
C, Q = (next(keys_of(1, prefix)) for prefix in "cq")
M = next(keys_of(2, "m"))


def test_a_key_beyond_one_of_a_node_further_up_is_a_bad_tree() -> None:
    forest = Forest()

    def shows(left: bytes | None, right: bytes | None, key: bytes) -> bytes | None:
        return Tree(forest.node([M], [left, right]), forest.blocks).get(key)

    # Below a node without keys, which says nothing of its place.
    assert shows(None, forest.node([], [forest.leaf(P, Z)]), Z) == VALUE
    with pytest.raises(BadTree):
        shows(None, forest.node([], [forest.leaf(A, Z)]), Z)
    with pytest.raises(BadTree):
        shows(forest.node([], [forest.leaf(A, Z)]), None, A)
    # Before the first key of a node, and behind the last one.
    assert shows(None, forest.node([Q], [forest.leaf(P), None]), P) == VALUE
    with pytest.raises(BadTree):
        shows(None, forest.node([Q], [forest.leaf(A), None]), P)
    with pytest.raises(BadTree):
        shows(forest.node([C], [None, forest.leaf(Z)]), None, D)


@pytest.mark.parametrize(("left", "right"), [(D, P), (Z, P), (D, A)])
def test_keys_beyond_the_one_that_was_put_between_them_are_a_bad_tree(
    left: bytes, right: bytes
) -> None:
    forest = Forest()
    before = forest.node([C], [None, forest.leaf(left)])
    behind = forest.node([Q], [forest.leaf(right), None])
    root = forest.node([M], [before, behind])
    created = [Op("create", M.decode(), VALUE, None)]
    if left < M < right:
        middle = forest.leaf(left, right)
        assert invert(root, created, forest.blocks) == forest.node([C, Q], [None, middle, None])
        return
    with pytest.raises(BadTree):
        invert(root, created, forest.blocks)


@given(st.sets(KEYS, min_size=2, max_size=60), st.randoms())
def test_two_keys_in_each_others_places_are_found_to_be_so(paths: set[str], rng: Random) -> None:
    keys = sorted(path.encode() for path in paths)
    one = rng.choice(keys)
    other = rng.choice([key for key in keys if height(key) == height(one)])
    swapped = {one: other, other: one}
    forest = Forest()
    root = forest.grow([swapped.get(key, key) for key in keys], max(map(height, keys)))
    assert root is not None

    def walk() -> None:
        tree = Tree(root, forest.blocks)
        assert [tree.get(key) for key in keys] == [VALUE] * len(keys)

    if one == other:
        walk()
        return
    with pytest.raises(BadTree):
        walk()


@pytest.mark.parametrize("changed", [1, MAX_SPLICES, MAX_SPLICES + 1, 80])
def test_however_many_subtrees_of_a_node_have_changed_it_is_what_it_was(changed: int) -> None:
    above = list(islice(keys_of(1, "app.bsky.feed.post/"), 80))
    leaves = [next(keys_of(0, f"{key.decode()}-")) for key in above]
    before = {key.decode(): VALUE for key in [*above, *leaves]}
    after = before | {key.decode(): OTHER for key in leaves[:changed]}
    ops = [Op("update", key.decode(), OTHER, VALUE) for key in leaves[:changed]]
    assert len(tree(after)) == 81
    assert invert(root_of(after), ops, blocks_of(after)) == root_of(before)
