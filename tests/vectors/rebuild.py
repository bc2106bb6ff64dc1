"""The tree before a commit, by another road than inversion in place: a witness for tests.

What the CAR has of the tree is written out as one list of keys in order, in which a subtree that
it lacks stays a hole. The ops are taken back in that list, and the tree is built anew from it. No
step is shared with the verifier. A block matters if this fails without it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

import libipld

from indexer.stream.events import Op
from tests.support.frames import block, cid_of

EMPTY_TREE = cid_of(block({"l": None, "e": []}))


class Unproven(Exception):
    """The blocks do not show what the ops claim."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A key and its record; or, without a key, a hole and its root."""

    key: bytes | None
    layer: int
    cid: bytes


def data_before(data: bytes, ops: Iterable[Op], blocks: Mapping[bytes, bytes]) -> bytes:
    """Return the root's CID before these ops led to `data`; `Unproven` if that can't be told."""
    items = [] if data == EMPTY_TREE else _items(data, None, blocks)
    # Creates last: each takes the wall away between two gaps, of which one may have a hole.
    for op in sorted(ops, key=lambda op: op.action == "create"):
        key = op.path.encode()
        index = next((n for n, i in enumerate(items) if i.key and i.key >= key), len(items))
        there = index < len(items) and items[index].key == key
        if not there and index > 0 and items[index - 1].key is None:
            raise Unproven("the path may be in a subtree that is not here")
        if there != (op.cid is not None) or (there and items[index].cid != op.cid):
            raise Unproven("the tree does not hold what the op says")
        if (op.prev is None) != (op.action == "create"):
            raise Unproven("the op does not say what was there before")
        restored = [] if op.prev is None else [_Item(key, height(key), op.prev)]
        items[index : index + there] = restored
    if not items:
        return EMPTY_TREE
    cid = _build(items, max(item.layer for item in items))
    assert cid is not None
    return cid


@cache
def height(key: bytes) -> int:
    """Return the layer of a key, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in sha256(key).digest())
    return (len(bits) - len(bits.lstrip("0"))) // 2


def _items(cid: bytes | None, layer: int | None, blocks: Mapping[bytes, bytes]) -> list[_Item]:
    if cid is None:
        return []
    if cid not in blocks:
        return [_Item(None, 0 if layer is None else layer, cid)]
    node: dict[str, Any] = libipld.decode_dag_cbor(blocks[cid])
    keys = [b""]
    for entry in node["e"]:
        keys.append(keys[-1][: entry["p"]] + entry["k"])
    del keys[0]
    if layer is None:
        layer = height(keys[0])
    items = _items(node["l"], layer - 1, blocks)
    for key, entry in zip(keys, node["e"], strict=True):
        items += [_Item(key, layer, entry["v"]), *_items(entry["t"], layer - 1, blocks)]
    return items


def _build(items: list[_Item], layer: int) -> bytes | None:
    """Return the CID of the only node that this layer can have over these items."""
    if not items:
        return None
    if len(items) == 1 and items[0].key is None and items[0].layer == layer:
        return items[0].cid
    if any(item.key is None and item.layer == layer for item in items):
        raise Unproven("a subtree that is not here would be another one")
    marks = [index for index, item in enumerate(items) if item.layer == layer]
    runs = [items[low + 1 : high] for low, high in zip([-1, *marks], [*marks, None], strict=True)]
    first, *kids = (_build(run, layer - 1) for run in runs)
    entries = []
    last = b""
    for index, kid in zip(marks, kids, strict=True):
        key, value = items[index].key, items[index].cid
        assert key is not None
        shared = max(n for n in range(len(key) + 1) if last[:n] == key[:n] and n <= len(last))
        entries.append({"p": shared, "k": key[shared:], "v": value, "t": kid})
        last = key
    return cid_of(block({"l": first, "e": entries}))
