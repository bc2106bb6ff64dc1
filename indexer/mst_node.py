"""A node of a Merkle Search Tree: from its block, and back. Pure.

Source: atproto.com/specs/repository (MST structure). CIDs are in their binary form.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import libipld

from indexer.decode import CID_LENGTH, CID_PREFIX

MAX_KEY = 1_024  # bytes of a path

EMPTY = b"\xa2\x61e\x80\x61l\xf6"  # a node without anything: an empty repo's root
EMPTY_ROOT = CID_PREFIX + sha256(EMPTY).digest()

# For each layer the least and the greatest hash of its keys: cheaper to compare than to count bits.
_DIGESTS = [
    ((1 << 254 - 2 * layer).to_bytes(32), ((1 << 256 - 2 * layer) - 1).to_bytes(32))
    for layer in range(128)
]


class BadTree(ValueError):
    """The tree is not one that a repo may have, or not the one that the operations speak of."""


def height(key: bytes) -> int:
    """Return the layer of a key: the leading zero bits of its SHA-256, in pairs."""
    return (256 - int.from_bytes(sha256(key).digest()).bit_length()) >> 1


def check_layer(keys: Iterable[bytes], layer: int) -> None:
    """Raise `BadTree` unless each key's `height` is `layer`."""
    least, greatest = _DIGESTS[layer]
    for key in keys:
        if not least <= sha256(key).digest() <= greatest:
            raise BadTree("a key is in the wrong layer")


class Node:
    """Keys in order, a value for each, and a subtree (or None) before, between and behind them."""

    __slots__ = ("cid", "fields", "keys", "kids", "layer", "values")

    def __init__(
        self,
        layer: int,
        keys: list[bytes],
        values: list[bytes],
        kids: list["Kid"],
        cid: bytes | None = None,
        fields: dict[str, Any] | None = None,
    ) -> None:
        self.layer = layer
        self.keys = keys
        self.values = values
        self.kids = kids
        self.cid = cid  # None once anything below has changed
        self.fields = fields  # as `read_node` gave them, but for read kids; None if out of date

    def is_empty(self) -> bool:
        return not self.keys and self.kids[0] is None

    def drop(self, index: int, kid: "Kid") -> bytes:
        """Take a key out, with `kid` in place of the subtrees beside it; return its value."""
        self.kids[index : index + 2] = [kid]
        del self.keys[index]
        if self.fields is not None:
            entries = self.fields["e"]
            gone = entries.pop(index)
            _link(self.fields, index, kid)
            if index < len(entries):
                # Of three keys in order the outer two share what both share with the middle one.
                behind = entries[index]
                behind["p"] = min(gone["p"], behind["p"])
                behind["k"] = self.keys[index][behind["p"] :]
        return self.values.pop(index)


Kid = Node | bytes | None  # read, not read, not there


def read_node(block: bytes) -> tuple[dict[str, Any], list[bytes], list[bytes], list[Kid]]:
    """Return a node as it was decoded, its keys, their values, and its subtrees' CIDs.

    Raises `BadTree`, also for keys that are not in order, or not written as they have to be.
    """
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
    except BadTree:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadTree("a node of the tree can't be read") from error
    return fields, keys, values, links


def seal(kid: Node | bytes) -> bytes:
    """Return the CID of a subtree, computed anew along what has changed."""
    if isinstance(kid, bytes):
        return kid
    if kid.cid is None:
        kid.cid = CID_PREFIX + sha256(_encode(kid)).digest()
    return kid.cid


def _encode(node: Node) -> bytes:
    fields = node.fields
    if fields is None:
        entries = []
        before = b""
        for key, value, kid in zip(node.keys, node.values, node.kids[1:], strict=True):
            prefix = common_prefix(before, key)
            entries.append({"k": key[prefix:], "p": prefix, "t": kid, "v": value})
            before = key
        fields = {"e": entries, "l": node.kids[0]}
    for index, kid in enumerate(node.kids):
        if isinstance(kid, Node):
            _link(fields, index, seal(kid))
    # `libipld` writes bytes that are a CID as a link, which is what these are.
    return libipld.encode_dag_cbor(fields)


def _link(fields: dict[str, Any], index: int, kid: Kid) -> None:
    if index:
        fields["e"][index - 1]["t"] = kid
    else:
        fields["l"] = kid


def common_prefix(left: bytes, right: bytes) -> int:
    """Return the number of bytes that two keys share at their beginning."""
    size = min(len(left), len(right))
    # One difference of big numbers in place of a loop: many times as fast on a repo's keys.
    differ = int.from_bytes(left[:size]) ^ int.from_bytes(right[:size])
    return size - ((differ.bit_length() + 7) >> 3)
