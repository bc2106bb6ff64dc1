"""A Merkle Search Tree, as far as a commit brings it: its operations inverted. Pure.

A commit's CAR has the nodes on the way to every path that it changed, and to their neighbours.
With them each operation can be taken back, and what is left must be the tree before the commit,
hash for hash. A subtree that the CAR lacks stays a CID: to need it is an error.

Source: atproto.com/specs/repository (MST structure) and atproto.com/specs/sync (inversion).
CIDs are in their binary form.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import libipld

from indexer.decode import CID_LENGTH, CID_PREFIX
from indexer.events import Op

MAX_KEY = 1_024  # bytes of a path

_EMPTY = b"\xa2\x61e\x80\x61l\xf6"  # a node without anything: an empty repo's root
EMPTY_ROOT = CID_PREFIX + sha256(_EMPTY).digest()


class BadTree(ValueError):
    """The tree is not one that a repo may have, or not the one that the operations speak of."""


class MissingBlock(BadTree):
    """The CAR lacks a node that it takes."""


def invert(root: bytes, ops: Iterable[Op], blocks: Mapping[bytes, bytes]) -> bytes:
    """Return the root's CID before these operations, which led to `root`.

    On the way it is shown that each create and update is in the tree with its CID, and that
    each deleted path is not. Raises `BadTree` or `MissingBlock`.
    """
    tree = Tree(root, blocks)
    # Creations last: to take the others back first needs fewer nodes of their neighbours.
    for op in sorted(ops, key=lambda op: op.action == "create"):
        key = op.path.encode()
        if op.cid is None:
            if op.prev is None:
                raise BadTree("a deletion without the CID of what it deleted")
            tree.insert(key, op.prev)
        elif op.action == "create":
            if tree.remove(key) != op.cid:
                raise BadTree("a created path has another CID in the tree")
        elif op.prev is None:
            raise BadTree("an update without the CID of what it replaced")
        elif tree.replace(key, op.prev) != op.cid:
            raise BadTree("an updated path has another CID in the tree")
    return tree.root()


def height(key: bytes) -> int:
    """Return the layer of a key: the leading zero bits of its SHA-256, in pairs."""
    digest = sha256(key).digest()
    first = digest[0]
    if first:  # three keys of four, and of the rest all but one in 256
        return (8 - first.bit_length()) >> 1
    return (256 - int.from_bytes(digest).bit_length()) >> 1


class _Node:
    """Keys in order, a value for each, and a subtree (or None) before, between and behind them."""

    __slots__ = ("cid", "keys", "kids", "layer", "stems", "values")

    def __init__(
        self,
        layer: int,
        keys: list[bytes],
        values: list[bytes],
        kids: list["_Kid"],
        cid: bytes | None = None,
        stems: list[tuple[int, bytes]] | None = None,
    ) -> None:
        self.layer = layer
        self.keys = keys
        self.values = values
        self.kids = kids
        self.cid = cid  # None once anything below has changed
        self.stems = (
            stems  # how the keys are written: shared prefix and rest; None once they change
        )

    def is_empty(self) -> bool:
        return not self.keys and self.kids[0] is None


_Kid = _Node | bytes | None  # read, not read, not there


class Tree:
    """A tree whose nodes are read when they are needed, and may be changed."""

    def __init__(self, root: bytes, blocks: Mapping[bytes, bytes]) -> None:
        self._blocks = blocks
        self._root: _Node | bytes = root

    def root(self) -> bytes:
        """Return the root's CID as the tree stands."""
        return _seal(self._root)

    def get(self, key: bytes) -> bytes | None:
        """Return a key's value, or None if the tree shows that it is not there."""
        node: _Node | None = self._top()
        while node is not None:
            index = bisect_left(node.keys, key)
            if index < len(node.keys) and node.keys[index] == key:
                return node.values[index]
            node = self._kid(node, index)
        return None

    def remove(self, key: bytes) -> bytes:
        """Take a key out; return its value."""
        root = self._top()
        value = self._remove(root, key)
        # A root has keys, unless the tree is empty.
        while not root.keys and (kid := root.kids[0]) is not None:
            if isinstance(kid, bytes) and kid not in self._blocks:
                self._root = kid
                break
            self._root = root = self._present(root, 0)
        return value

    def replace(self, key: bytes, value: bytes) -> bytes:
        """Give a key another value; return the one that it had."""
        node = self._top()
        while True:
            node.cid = None
            index = bisect_left(node.keys, key)
            if index < len(node.keys) and node.keys[index] == key:
                old, node.values[index] = node.values[index], value
                return old
            node = self._present(node, index)

    def insert(self, key: bytes, value: bytes) -> None:
        """Put a key in that is not there."""
        layer = height(key)
        root = self._top()
        if root.is_empty():
            self._root = _Node(layer, [key], [value], [None, None])
        elif layer > root.layer:
            left, right = self._split(root, key)
            for between in range(root.layer + 1, layer):
                left, right = _lift(left, between), _lift(right, between)
            self._root = _Node(layer, [key], [value], [left, right])
        else:
            self._insert(root, key, value, layer)

    def _insert(self, node: _Node, key: bytes, value: bytes, layer: int) -> None:
        while True:
            node.cid = None
            index = bisect_left(node.keys, key)
            if index < len(node.keys) and node.keys[index] == key:
                raise BadTree("a deleted path is in the tree")
            kid = self._kid(node, index)
            if layer == node.layer:
                node.kids[index : index + 1] = (
                    (None, None) if kid is None else self._split(kid, key)
                )
                node.keys.insert(index, key)
                node.values.insert(index, value)
                node.stems = None
                return
            if kid is None:
                kid = _Node(layer, [key], [value], [None, None])
                for between in range(layer + 1, node.layer):
                    kid = _Node(between, [], [], [kid])
                node.kids[index] = kid
                return
            node = kid

    def _remove(self, node: _Node, key: bytes) -> bytes:
        node.cid = None
        index = bisect_left(node.keys, key)
        if index < len(node.keys) and node.keys[index] == key:
            node.kids[index : index + 2] = [self._merge(node, index, node, index + 1)]
            del node.keys[index]
            node.stems = None
            return node.values.pop(index)
        kid = self._present(node, index)
        value = self._remove(kid, key)
        if kid.is_empty():
            node.kids[index] = None
        return value

    def _merge(self, left: _Node, left_index: int, right: _Node, right_index: int) -> _Kid:
        """Join two neighbouring subtrees, between which a key was."""
        if left.kids[left_index] is None:
            return right.kids[right_index]
        if right.kids[right_index] is None:
            return left.kids[left_index]
        first, second = self._present(left, left_index), self._present(right, right_index)
        middle = self._merge(first, len(first.keys), second, 0)
        return _Node(
            first.layer,
            first.keys + second.keys,
            first.values + second.values,
            [*first.kids[:-1], middle, *second.kids[1:]],
        )

    def _split(self, node: _Node, key: bytes) -> tuple[_Kid, _Kid]:
        """Part a subtree into what comes before a key and what comes behind it."""
        index = bisect_left(node.keys, key)
        if index < len(node.keys) and node.keys[index] == key:
            raise BadTree("a deleted path is in the tree")
        kid = self._kid(node, index)
        before, behind = (None, None) if kid is None else self._split(kid, key)
        keys, values, kids = node.keys, node.values, node.kids
        left = _Node(node.layer, keys[:index], values[:index], [*kids[:index], before])
        right = _Node(node.layer, keys[index:], values[index:], [behind, *kids[index + 1 :]])
        return (None if left.is_empty() else left), (None if right.is_empty() else right)

    def _top(self) -> _Node:
        if isinstance(self._root, bytes):
            self._root = self._read(self._root)
            if not self._root.keys and self._root.kids[0] is not None:
                raise BadTree("a root without keys")
        return self._root

    def _present(self, node: _Node, index: int) -> _Node:
        """Return a subtree that must be there."""
        kid = self._kid(node, index)
        if kid is None:
            raise BadTree("a path that was written is not in the tree")
        return kid

    def _kid(self, node: _Node, index: int) -> _Node | None:
        """Return a subtree as a node, read if it is not yet, or None if there is none."""
        kid = node.kids[index]
        if not isinstance(kid, bytes):
            return kid
        kid = self._read(kid, node.layer - 1)
        if kid.is_empty():
            raise BadTree("an empty node below the root")
        if kid.keys and (
            (index > 0 and kid.keys[0] <= node.keys[index - 1])
            or (index < len(node.keys) and kid.keys[-1] >= node.keys[index])
        ):
            raise BadTree("a subtree has keys beyond its neighbours")
        node.kids[index] = kid
        return kid

    def _read(self, cid: bytes, layer: int | None = None) -> _Node:
        """Read a node of a known layer, or, if that is None, of the layer of its keys."""
        block = self._blocks.get(cid)
        if block is None:
            if cid != EMPTY_ROOT:
                raise MissingBlock("a node of the tree is not in the CAR")
            block = _EMPTY
        entries, keys, values, kids = read_node(block)
        if layer is None:
            layer = height(keys[0]) if keys else 0
        for key in keys:
            if height(key) != layer:
                raise BadTree("a key is in the wrong layer")
        if layer <= 0 and any(kid is not None for kid in kids):
            raise BadTree("a subtree below the lowest layer")
        return _Node(layer, keys, values, kids, cid, entries)


def read_node(
    block: bytes,
) -> tuple[list[tuple[int, bytes]], list[bytes], list[bytes], list[_Kid]]:
    """Return how a node's keys are written, its keys, their values, and its subtrees' CIDs.

    Raises `BadTree`, also for keys that are not in order.
    """
    try:
        fields = libipld.decode_dag_cbor(block)
        entries: list[dict[str, Any]] = fields["e"]
        surplus = len(fields) != 2
        stems: list[tuple[int, bytes]] = []
        keys: list[bytes] = []
        values: list[bytes] = []
        links = [fields["l"]]
        key = b""
        for entry in entries:
            prefix, rest = entry["p"], entry["k"]
            if type(prefix) is not int or not 0 <= prefix <= len(key) or len(entry) != 4:
                raise BadTree("a node's entry is malformed")
            key, before = key[:prefix] + rest, key
            if key <= before or len(key) > MAX_KEY:
                raise BadTree("the keys of a node are not in order, or too long")
            stems.append((prefix, rest))
            keys.append(key)
            values.append(entry["v"])
            links.append(entry["t"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadTree("a node of the tree can't be read") from error
    for link in (*values, *(link for link in links if link is not None)):
        if not isinstance(link, bytes) or len(link) != CID_LENGTH or link[:4] != CID_PREFIX:
            raise BadTree("a link of a node is no CID of a repo")
    if surplus:
        raise BadTree("a node has fields that are not of a node")
    return stems, keys, values, links


def _lift(kid: _Kid, layer: int) -> _Kid:
    return None if kid is None else _Node(layer, [], [], [kid])


def _seal(kid: _Node | bytes) -> bytes:
    """Return the CID of a subtree, computed anew along what was changed."""
    if isinstance(kid, bytes):
        return kid
    if kid.cid is None:
        kid.cid = CID_PREFIX + sha256(_encode(kid)).digest()
    return kid.cid


def _encode(node: _Node) -> bytes:
    stems = node.stems
    if stems is None:
        stems = []
        before = b""
        for key in node.keys:
            prefix = common_prefix(before, key)
            stems.append((prefix, key[prefix:]))
            before = key
    links = [None if kid is None else _seal(kid) for kid in node.kids]
    entries = [
        {"k": rest, "p": prefix, "t": link, "v": value}
        for (prefix, rest), value, link in zip(stems, node.values, links[1:], strict=True)
    ]
    # `libipld` writes bytes that are a CID as a link, which is what these are.
    return libipld.encode_dag_cbor({"e": entries, "l": links[0]})


def common_prefix(left: bytes, right: bytes) -> int:
    """Return the number of bytes that two keys share at their beginning."""
    size = min(len(left), len(right))
    # One difference of big numbers in place of a loop: many times as fast on a repo's keys.
    differ = int.from_bytes(left[:size]) ^ int.from_bytes(right[:size])
    return size - ((differ.bit_length() + 7) >> 3)
