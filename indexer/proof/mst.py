"""A Merkle Search Tree, as far as a commit brings it: its operations inverted. Pure.

A commit's CAR has the nodes on the way to every path that it changed, and to their neighbours.
With them each operation can be taken back, and what is left must be the tree before the commit,
hash for hash. A subtree that the CAR lacks stays a CID: to need it is an error.

Source: atproto.com/specs/repository (MST structure) and atproto.com/specs/sync (inversion).
CIDs are in their binary form.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import pairwise

from indexer.proof.mst_node import (
    EMPTY,
    EMPTY_ROOT,
    BadTree,
    Kid,
    Node,
    height,
    read_node,
    seal,
)
from indexer.stream.events import Op

_Bounds = tuple[bytes, bytes | None]  # keys, neither included; None: there is none behind it
_ANYWHERE: _Bounds = (b"", None)


class MissingBlock(BadTree):
    """The CAR lacks a node that it takes."""


def invert(root: bytes, ops: Iterable[Op], blocks: Mapping[bytes, bytes]) -> bytes:
    """Return the root's CID before these operations, one a path, which led to `root`.

    On the way it is shown that each create and update is in the tree with its CID, and that
    each deleted path is not. Raises `BadTree` or `MissingBlock`.
    """
    tree = Tree(root, blocks)
    # Creations last: to take the others back first needs fewer nodes of their neighbours.
    for op in sorted(ops, key=lambda op: op.action == "create"):
        key = op.path.encode()
        if op.cid is None:
            if op.prev is not None:
                tree.insert(key, op.prev)
            elif tree.get(key) is not None:
                # What came and went within the commit; or something was there before, and then
                # the root that comes out is another.
                raise BadTree("a deleted path is in the tree")
        elif op.action == "create":
            if tree.remove(key) != op.cid:
                raise BadTree("a created path has another CID in the tree")
        elif op.prev is None:
            raise BadTree("an update without the CID of what it replaced")
        elif tree.replace(key, op.prev) != op.cid:
            raise BadTree("an updated path has another CID in the tree")
    return tree.root()


class Tree:
    """A tree whose nodes are read when they are needed, and may be changed."""

    def __init__(self, root: bytes, blocks: Mapping[bytes, bytes]) -> None:
        self._blocks = blocks
        self._root: Node | bytes = root

    def root(self) -> bytes:
        """Return the root's CID as the tree stands."""
        return seal(self._root)

    def get(self, key: bytes) -> bytes | None:
        """Return a key's value, or None if the tree shows that it is not there."""
        path, is_there, _ = self._path(key)
        node, index = path[-1]
        return node.values[index] if is_there else None

    def remove(self, key: bytes) -> bytes:
        """Take a key out; return its value."""
        path, around = self._changed_path(key)
        node, index = path.pop()
        value = node.drop(index, self._merge(node, index, node, index + 1, key, around))
        while path and node.is_empty():
            node, index = path.pop()
            node.change(index, None)
        self._shorten()
        return value

    def replace(self, key: bytes, value: bytes) -> bytes:
        """Give a key another value; return the one that it had."""
        path, _ = self._changed_path(key)
        node, index = path[-1]
        old, node.values[index] = node.values[index], value
        node.block = None
        return old

    def insert(self, key: bytes, value: bytes) -> None:
        """Put a key in that is not there."""
        layer = height(key)
        path, is_there, _ = self._path(key)
        root, _ = path[0]
        if is_there:
            raise BadTree("a deleted path is in the tree")
        if root.is_empty():
            self._root = Node(layer, [key], [value], [None, None])
        elif layer > root.layer:
            left, right = _split(root, key)
            for between in range(root.layer + 1, layer):
                left, right = _lift(left, between), _lift(right, between)
            self._root = Node(layer, [key], [value], [left, right])
        else:
            self._insert(path[: root.layer - layer + 1], key, value, layer)

    def _insert(self, path: list[tuple[Node, int]], key: bytes, value: bytes, layer: int) -> None:
        """Put a key in at the end of a path, which leads to its layer or to where nothing is."""
        _mark(path)
        node, index = path[-1]
        if node.layer == layer:
            node.put(index, key, value, _split(node.kids[index], key))
            return
        kid = Node(layer, [key], [value], [None, None])
        for between in range(layer + 1, node.layer):
            kid = Node(between, [], [], [kid])
        node.change(index, kid)

    def _shorten(self) -> None:
        """Leave off a root without keys: it has some, unless the tree is empty."""
        root = self._top()
        while not root.keys and (kid := root.kids[0]) is not None:
            if isinstance(kid, bytes) and kid not in self._blocks:
                self._root = kid
                return
            self._root = root = self._present(root, 0, *_ANYWHERE)

    def _changed_path(self, key: bytes) -> tuple[list[tuple[Node, int]], _Bounds]:
        """Return the path to a key that must be there, marked as changed, and its neighbours."""
        path, is_there, around = self._path(key)
        if not is_there:
            raise BadTree("a path that was written is not in the tree")
        _mark(path)
        return path, around

    def _path(self, key: bytes) -> tuple[list[tuple[Node, int]], bool, _Bounds]:
        """Return the nodes on the way to a key, each with its place there, and if it is there.

        The last one holds the key, or nothing is in its place. Also returns which keys were met
        nearest to it, before and behind.
        """
        path = []
        low, high = _ANYWHERE
        node: Node | None = self._top()
        while node is not None:
            keys = node.keys
            index = bisect_left(keys, key)
            path.append((node, index))
            is_there = index < len(keys) and keys[index] == key
            behind = index + is_there
            if index > 0:
                low = keys[index - 1]
            if behind < len(keys):
                high = keys[behind]
            if is_there:
                return path, True, (low, high)
            node = self._kid(node, index, low, high)
        return path, False, (low, high)

    def _merge(
        self,
        left: Node,
        left_index: int,
        right: Node,
        right_index: int,
        key: bytes,
        around: _Bounds,
    ) -> Kid:
        """Join two neighbouring subtrees, between which a key was; `around` are its neighbours."""
        if left.kids[left_index] is None:
            return right.kids[right_index]
        if right.kids[right_index] is None:
            return left.kids[left_index]
        low, high = around
        first = self._present(left, left_index, low, key)
        second = self._present(right, right_index, key, high)
        nearer = (first.keys[-1] if first.keys else low, second.keys[0] if second.keys else high)
        middle = self._merge(first, len(first.keys), second, 0, key, nearer)
        return Node(
            first.layer,
            first.keys + second.keys,
            first.values + second.values,
            [*first.kids[:-1], middle, *second.kids[1:]],
        )

    def _top(self) -> Node:
        if isinstance(self._root, bytes):
            self._root = self._read(self._root)
            if not self._root.keys and self._root.kids[0] is not None:
                raise BadTree("a root without keys")
        return self._root

    def _present(self, node: Node, index: int, low: bytes, high: bytes | None) -> Node:
        """Return a subtree that must be there."""
        kid = self._kid(node, index, low, high)
        if kid is None:
            raise BadTree("a path that was written is not in the tree")
        return kid

    def _kid(self, node: Node, index: int, low: bytes, high: bytes | None) -> Node | None:
        """Return a subtree as a node, read if it is not yet, or None if there is none.

        It lies between the keys `low` and `high`, be they in `node` or above.
        """
        kid = node.kids[index]
        if not isinstance(kid, bytes):
            return kid
        kid = self._read(kid, node.layer - 1)
        if kid.is_empty():
            raise BadTree("an empty node below the root")
        if kid.keys and (kid.keys[0] <= low or (high is not None and kid.keys[-1] >= high)):
            raise BadTree("a subtree has keys beyond its neighbours")
        node.kids[index] = kid
        return kid

    def _read(self, cid: bytes, layer: int | None = None) -> Node:
        """Read a node of a known layer, or, if that is None, of the layer of its keys."""
        block = self._blocks.get(cid)
        if block is None:
            if cid != EMPTY_ROOT:
                raise MissingBlock("a node of the tree is not in the CAR")
            block = EMPTY
        keys, values, kids, shared = read_node(block)
        if layer is None:
            layer = height(keys[0]) if keys else 0
        for key in keys:
            if height(key) != layer:
                raise BadTree("a key is in the wrong layer")
        if layer <= 0 and any(kids):
            raise BadTree("a subtree below the lowest layer")
        return Node(layer, keys, values, kids, shared, cid, block)


def _mark(path: list[tuple[Node, int]]) -> None:
    """Let each node of a path know that the one below it changes."""
    for (above, _), (node, _) in pairwise(path):
        if node.block is not None and not node.changed:  # else it is known
            above.changed.append(node)


def _lift(kid: Kid, layer: int) -> Kid:
    return None if kid is None else Node(layer, [], [], [kid])


def _split(kid: Kid, key: bytes) -> tuple[Kid, Kid]:
    """Part a subtree into what comes before a key and what comes behind it.

    The way to that key must have been read.
    """
    if kid is None:
        return None, None
    assert isinstance(kid, Node)  # noqa: S101 (for the types)
    index = bisect_left(kid.keys, key)
    before, behind = _split(kid.kids[index], key)
    keys, values, kids = kid.keys, kid.values, kid.kids
    left = Node(kid.layer, keys[:index], values[:index], [*kids[:index], before])
    right = Node(kid.layer, keys[index:], values[index:], [behind, *kids[index + 1 :]])
    return (None if left.is_empty() else left), (None if right.is_empty() else right)
