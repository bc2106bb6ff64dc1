"""A node of a Merkle Search Tree: from its block, and back. Pure.

Source: atproto.com/specs/repository (MST structure). CIDs are in their binary form.
"""

from hashlib import sha256

import libipld

from indexer.cbor import has_more_values
from indexer.stream.decode import CID_LENGTH, CID_PREFIX

MAX_KEY = 1_024  # bytes of a path
LARGE = 16_384  # bytes; of a larger node the values are counted before any is made
VALUE_BYTES = 10  # that a value of a node takes at least, on average: a CID has 41

EMPTY = b"\xa2\x61e\x80\x61l\xf6"  # a node without anything: an empty repo's root
EMPTY_ROOT = CID_PREFIX + sha256(EMPTY).digest()

# Kept, of keys that were met lately: a repo's next commit has most of them. 200 bytes each.
MAX_HEIGHTS = 16_384

# Subtrees of a node that are put into its old block: each goes through all of it twice, which
# takes as long for about so many as to encode the node anew, large or small.
MAX_SPLICES = 16


class BadTree(ValueError):
    """The tree is not one that a repo may have, or not the one that the operations speak of."""


class _Heights(dict[bytes, int]):
    """The layers of keys: the leading zero bits of their SHA-256, in pairs.

    Computed when they are asked for, and all forgotten when there are too many: what an
    `lru_cache` does to know which was used last would take longer than all else.
    """

    def __missing__(self, key: bytes) -> int:
        layer = (256 - int.from_bytes(sha256(key).digest()).bit_length()) >> 1
        if len(self) >= MAX_HEIGHTS:
            self.clear()
        self[key] = layer
        return layer


height = _Heights().__getitem__  # the layer of a key


class Node:
    """Keys in order, a value for each, and a subtree (or None) before, between and behind them."""

    __slots__ = ("block", "changed", "cid", "keys", "kids", "layer", "shared", "values")

    def __init__(
        self,
        layer: int,
        keys: list[bytes],
        values: list[bytes],
        kids: list["Kid"],
        shared: list[int] | None = None,
        cid: bytes | None = None,
        block: bytes | None = None,
    ) -> None:
        self.layer = layer
        self.keys = keys
        self.values = values
        self.kids = kids
        self.shared = shared  # bytes of each key with the one before; None: to be computed
        self.cid = cid  # as it was read or sealed; None if it is neither yet
        # What the CID is of; None once something other than subtrees' contents has changed.
        self.block = block
        self.changed: list[Node] = []  # subtrees whose contents have changed since

    def is_empty(self) -> bool:
        return not self.keys and self.kids[0] is None

    def change(self, index: int, kid: "Kid") -> None:
        """Put another subtree in a place."""
        self.kids[index] = kid
        self.block = None

    def put(self, index: int, key: bytes, value: bytes, kids: tuple["Kid", "Kid"]) -> None:
        """Put a key in, with `kids` in place of the subtree that was there."""
        self.kids[index : index + 1] = kids
        self.block = self.shared = None
        self.keys.insert(index, key)
        self.values.insert(index, value)

    def drop(self, index: int, kid: "Kid") -> bytes:
        """Take a key out, with `kid` in place of the subtrees beside it; return its value."""
        self.kids[index : index + 2] = [kid]
        self.block = None
        del self.keys[index]
        if self.shared is not None:
            # Of three keys in order, the outer two share what all of them share.
            own = self.shared.pop(index)
            if index < len(self.shared):
                self.shared[index] = min(own, self.shared[index])
        return self.values.pop(index)


Kid = Node | bytes | None  # read, not read, not there


def read_node(block: bytes) -> tuple[list[bytes], list[bytes], list[Kid], list[int]]:
    """Return a node's keys, their values, its subtrees' CIDs, and what its keys share.

    That is, of each, the number of bytes at its beginning that the one before has too.
    Raises `BadTree`, also for keys that are not in order, or not written as they have to be.
    """
    if len(block) > LARGE and has_more_values(block, len(block) // VALUE_BYTES):
        raise BadTree("a node of the tree is made of too many values")
    try:
        fields = libipld.decode_dag_cbor(block)
        first = fields["l"]
        if len(fields) != 2:
            raise BadTree("a node has fields that are not of a node")
        if first is not None and (first[:4] != CID_PREFIX or len(first) != CID_LENGTH):
            raise BadTree("a subtree of a node is no CID of a repo")
        keys: list[bytes] = []
        values: list[bytes] = []
        links: list[Kid] = [first]
        shared: list[int] = []
        key = b""
        for entry in fields["e"]:
            prefix, rest, value, link = entry["p"], entry["k"], entry["v"], entry["t"]
            if type(prefix) is not int or not 0 <= prefix <= len(key) or len(entry) != 4:
                raise BadTree("an entry of a node is malformed")
            if value[:4] != CID_PREFIX or len(value) != CID_LENGTH:
                raise BadTree("a value of a node is no CID of a repo")
            if link is not None and (link[:4] != CID_PREFIX or len(link) != CID_LENGTH):
                raise BadTree("a subtree of a node is no CID of a repo")
            # Of the key before all is shared that can be, so that the first byte tells the order.
            if rest[:1] <= key[prefix : prefix + 1]:
                raise BadTree("the keys of a node are not in order, or repeat what they share")
            key = key[:prefix] + rest
            if len(key) > MAX_KEY:
                raise BadTree("a key is too long")
            keys.append(key)
            values.append(value)
            links.append(link)
            shared.append(prefix)
    except BadTree:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadTree("a node of the tree can't be read") from error
    return keys, values, links, shared


def seal(kid: Node | bytes) -> bytes:
    """Return the CID of a subtree, computed anew along what has changed."""
    if isinstance(kid, bytes):
        return kid
    if kid.cid is None or kid.block is None or kid.changed:
        kid.block = _spliced(kid) or _encoded(kid)
        kid.cid = CID_PREFIX + sha256(kid.block).digest()
        kid.changed = []
    return kid.cid


def _spliced(node: Node) -> bytes | None:
    """Return the block of a node in which only subtrees have changed: other CIDs in the old one.

    None if it has to be encoded anew.
    """
    block = node.block
    if block is None or len(node.changed) > MAX_SPLICES:
        return None
    for kid in node.changed:
        # A hostile node may hold the same CID as a value as well.
        if kid.cid is None or block.count(kid.cid) != 1:
            return None
        block = block.replace(kid.cid, seal(kid))
    return block


def _encoded(node: Node) -> bytes:
    shared = node.shared
    if shared is None:
        shared = list(map(common_prefix, [b"", *node.keys], node.keys))
    entries = [
        {"k": key[prefix:], "p": prefix, "t": _link(kid), "v": value}
        for key, prefix, value, kid in zip(
            node.keys, shared, node.values, node.kids[1:], strict=True
        )
    ]
    # `libipld` writes bytes that are a CID as a link, which is what these are.
    return libipld.encode_dag_cbor({"e": entries, "l": _link(node.kids[0])})


def _link(kid: Kid) -> bytes | None:
    return None if kid is None else seal(kid)


def common_prefix(left: bytes, right: bytes) -> int:
    """Return the number of bytes that two keys share at their beginning."""
    size = min(len(left), len(right))
    # One difference of big numbers in place of a loop: many times as fast on a repo's keys.
    differ = int.from_bytes(left[:size]) ^ int.from_bytes(right[:size])
    return size - ((differ.bit_length() + 7) >> 3)
