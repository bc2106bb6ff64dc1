"""Whole MSTs that change, and the nodes that prove each step: another road than the verifier's."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping

from indexer.proof.mst_node import height
from tests.support.frames import block, cid_of

_END = b"\xff"  # behind every key

_Place = tuple[int, bytes, bytes]  # a layer, and the two keys that a node of it lies between


class GrowingTree:
    """A tree by its keys in order. A node is what lies between two keys of the layers above."""

    def __init__(self, records: Mapping[bytes, bytes]) -> None:
        """`records` is path to CID (binary form), at least one."""
        self._values = dict(records)
        self._keys = sorted(records)
        self._layers: list[list[bytes]] = []
        for key in self._keys:
            self._layer(height(key)).append(key)
        self._nodes: dict[_Place, tuple[bytes, bytes]] = {}  # CID and block

    def root(self) -> bytes:
        """Return the root's CID."""
        return self._node(self._top())[0]

    def insert(self, key: bytes, value: bytes) -> None:
        """Put a key in that is not there."""
        self._forget(key)
        insort(self._keys, key)
        insort(self._layer(height(key)), key)
        self._values[key] = value

    def replace(self, key: bytes, value: bytes) -> bytes:
        """Give a key that is there another value; return the one that it had."""
        self._forget(key)
        old, self._values[key] = self._values[key], value
        return old

    def remove(self, key: bytes) -> bytes:
        """Take a key out that is there, and not the only one; return its value."""
        self._forget(key)
        for keys in (self._keys, self._layers[height(key)]):
            del keys[bisect_left(keys, key)]
        while not self._layers[-1]:
            del self._layers[-1]
        return self._values.pop(key)

    def proof(self, key: bytes) -> list[bytes]:
        """Return the nodes on the way to a key, or to its place, and on to its two neighbours."""
        return [self._node(place)[1] for place in self._around(key) if not self._is_empty(place)]

    def _forget(self, key: bytes) -> None:
        """Drop the nodes that change when this key does."""
        for place in self._around(key):
            self._nodes.pop(place, None)

    def _around(self, key: bytes) -> Iterator[_Place]:
        """Yield the places on the way to a key, and from it on to its two neighbours."""
        place = self._top()
        while place[0] >= 0:
            yield place
            keys = self._keys_of(place)
            index = bisect_left(keys, key)
            gaps = self._gaps(place, keys)
            if key in keys[index : index + 1]:
                break
            place = gaps[index]
        else:
            return
        for side in (0, 1):
            below = gaps[index + side]
            while below[0] >= 0:
                yield below
                # On the left the neighbour is the last key of all, on the right the first.
                below = self._gaps(below, self._keys_of(below))[side - 1]

    def nodes(self) -> Iterator[bytes]:
        """Yield the block of every node."""
        places = [self._top()]
        while places:
            place = places.pop()
            yield self._node(place)[1]
            gaps = self._gaps(place, self._keys_of(place))
            places += [gap for gap in gaps if not self._is_empty(gap)]

    def _layer(self, layer: int) -> list[bytes]:
        while len(self._layers) <= layer:
            self._layers.append([])
        return self._layers[layer]

    def _top(self) -> _Place:
        return (len(self._layers) - 1, b"", _END)

    def _keys_of(self, place: _Place) -> list[bytes]:
        layer, low, high = place
        keys = self._layers[layer]
        return keys[bisect_right(keys, low) : bisect_left(keys, high)]

    def _gaps(self, place: _Place, keys: list[bytes]) -> list[_Place]:
        layer, low, high = place
        return [(layer - 1, a, b) for a, b in zip([low, *keys], [*keys, high], strict=True)]

    def _is_empty(self, place: _Place) -> bool:
        layer, low, high = place
        return layer < 0 or bisect_right(self._keys, low) == bisect_left(self._keys, high)

    def _node(self, place: _Place) -> tuple[bytes, bytes]:
        if place not in self._nodes:
            keys = self._keys_of(place)
            gaps = self._gaps(place, keys)
            links = [None if self._is_empty(gap) else self._node(gap)[0] for gap in gaps]
            entries, last = [], b""
            for key, link in zip(keys, links[1:], strict=True):
                shared = _shared(last, key)
                value = self._values[key]
                entries.append({"p": shared, "k": key[shared:], "v": value, "t": link})
                last = key
            data = block({"l": links[0], "e": entries})
            self._nodes[place] = cid_of(data), data
        return self._nodes[place]


def _shared(left: bytes, right: bytes) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(left), len(right)))
