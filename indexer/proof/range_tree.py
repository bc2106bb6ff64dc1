"""The nodes of a repo's tree around our collections: which are wanted, and what they show. Pure.

Keys are sorted, so the keys of a collection are a range. The nodes on the way to its two ends and
between them show what is in there, and that nothing else is. They may come in any order, from
a CAR of the whole repo or a few at a time from its host: what is checked of each is the same.

Source: atproto.com/specs/repository (MST structure). CIDs are in their binary form.
"""

from collections.abc import Collection
from dataclasses import dataclass

from indexer.lexicon.syntax import is_record_key
from indexer.proof.mst_node import EMPTY_ROOT, BadTree, height, read_node

FANOUT = 4  # a key is in the next layer up with this chance to one
MAX_GUESSED = 16  # layers: four billion keys


class TooMany(ValueError):
    """There is more of ours than may be held."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands: its layer (None for the root), and the keys that it lies between."""

    layer: int | None
    low: bytes
    high: bytes | None  # None: there is no key behind it
    growth: float = 1.0  # from the root down to it, by how much the tree widens on the way


class RangeTree:
    """A tree, read as far as it is ours; at most `limit` records, and as many nodes at once."""

    def __init__(self, data: bytes, collections: Collection[str], limit: int) -> None:
        # Each from its first possible key to the first key behind: `0` follows `/`.
        self._ranges = sorted((f"{c}/".encode(), f"{c}0".encode()) for c in collections)
        self._limit = limit
        self.wanted: dict[bytes, Place] = {}  # nodes that have not been read, by CID
        self.records: dict[str, bytes] = {}  # CIDs of records of ours, by path
        self.guess = 0  # keys that the whole tree may have, by what was read of it; 0: none
        self.top = 0  # the layer of the root, once that was read
        if data != EMPTY_ROOT:
            self.wanted[data] = Place(None, b"", None)

    def read(self, cid: bytes, block: bytes) -> None:
        """Take in a node that is wanted, whose block matches its CID.

        Raises `BadTree` if no such node can stand there, and `TooMany`.
        """
        place = self.wanted.pop(cid)
        keys, values, kids, _ = read_node(block)
        layer = place.layer
        if layer is None:
            self.top = layer = height(keys[0]) if keys else -1
        if any(height(key) != layer for key in keys) or (not keys and kids[0] is None) or layer < 0:
            raise BadTree("a node is in the wrong layer, or empty")
        if keys and (keys[0] <= place.low or (place.high is not None and keys[-1] >= place.high)):
            raise BadTree("a subtree has keys beyond its neighbours")
        for key, value in zip(keys, values, strict=True):
            if any(first <= key < end for first, end in self._ranges):
                self.records[_path(key)] = value
        bounds: list[bytes | None] = [place.low, *keys, place.high]
        # A key's way leads through wide nodes more often than through narrow ones: with m subtrees
        # a node stands for a widening by (m + 1) / 2 where their number is geometric.
        growth = place.growth * (len(keys) + 2) / 2
        for kid, low, high in zip(kids, bounds[:-1], bounds[1:], strict=True):
            assert low is not None  # noqa: S101 (for the type)
            self._see(kid, layer - 1, Place(layer - 1, low, high, growth))
        if max(len(self.records), len(self.wanted)) > self._limit:
            raise TooMany(f"more than {self._limit} records of ours")

    def _see(self, kid: object, layer: int, place: Place) -> None:
        """Want a subtree if any of it may be ours."""
        low, high = place.low, place.high
        if self._ranges and _is_between(self._ranges[0][0], low, high):
            below = 1 if kid is None else FANOUT ** min(layer + 1, MAX_GUESSED)
            self.guess = round(place.growth * below)
        if kid is None:
            return
        if layer < 0:
            raise BadTree("a subtree below the lowest layer")
        assert isinstance(kid, bytes)  # noqa: S101 (for the type)
        if any((high is None or first < high) and low < end for first, end in self._ranges):
            if kid in self.wanted:
                raise BadTree("a subtree stands in two places")
            self.wanted[kid] = place

    def starts_within(self, place: Place) -> list[bytes]:
        """Return where our collections begin, as far as that lies within a node's place."""
        return [first for first, _ in self._ranges if _is_between(first, place.low, place.high)]


def _is_between(key: bytes, low: bytes, high: bytes | None) -> bool:
    return low < key and (high is None or key < high)


def _path(key: bytes) -> str:
    path = key.decode("ascii", "replace")
    if not is_record_key(path.partition("/")[2]):
        raise BadTree("a key is not a path")
    return path
