"""Trees that no honest host makes, under a good signature: first commits that must be rejected.

Each op's record is in the tree with its CID, so that only the tree's own form is wrong.
"""

from collections.abc import Iterator
from typing import Any

from tests.support.account_keys import Key
from tests.support.frames import CREATED, TIME, block, car, cid_of, frame, tid
from tests.vectors.message import signed
from tests.vectors.mutate import Mutation
from tests.vectors.rebuild import height

_RECORD = block({"$type": "app.bsky.feed.post", "text": "hello", "createdAt": CREATED})
_VALUE = cid_of(_RECORD)
_REASONS = frozenset(("bad_tree", "malformed"))


def forgeries(did: str, key: Key) -> Iterator[Mutation]:
    """Yield commits of a new repo whose trees are malformed."""
    low, high = _paths(0, 3), _paths(1, 2)
    top = _paths(2, 1)[0]
    whole = [_entry(path) for path in low[:2]]
    surplus = {**whole[0], "x": 1}
    for name, paths, nodes in (
        ("keys out of order", low[:2], [_node(low[1::-1])]),
        ("a key twice", low[:1], [_node([low[0], low[0]])]),
        ("keys of two layers in one node", [low[0], high[0]], [_node(sorted([low[0], high[0]]))]),
        ("a root without keys", low, [_node(low), _node([], [_node(low)])]),
        ("an empty node under the root", high, [_node([]), _node(high, [_node([]), None, None])]),
        ("a key of a lower layer, two below", [low[0], top], _two_below(low[0], top)),
        ("a subtree below the lowest layer", low, _under(low[0], low[1:])),
        ("a subtree on the wrong side", [low[0], high[0]], _wrong_side(low[0], high[0])),
        ("a key that no op names", low[:1], [_node(low[:2])]),
        ("a key without a collection", low[:1], [_node(sorted([low[0], "x"]))]),
        ("a prefix longer than the key before", low[:1], [_entries(_entry(low[0], p=3))]),
        ("a negative prefix", low[:1], [_entries(_entry(low[0], p=-1))]),
        ("a key that is text", low[:1], [_entries(_entry(low[0], k=low[0]))]),
        ("a value that is null", low[:1], [_entries(_entry(low[0], v=None))]),
        ("entries that are a map", low[:1], [block({"l": None, "e": {}})]),
        ("a node that is a list", low[:1], [block([])]),
        ("a node that is a record", low[:1], [_RECORD]),
        # The right keys in another encoding than the only right one.
        ("keys that share a prefix and repeat it", low[:2], [_entries(*whole)]),
        ("an entry with a field too many", low[:1], [_entries(surplus)]),
        ("a node with a field too many", low[:1], [block({"l": None, "e": whole[:1], "x": 1})]),
        ("a deep nest in place of a node", low[:1], [b"\x81" * 100_000 + b"\x80"]),
    ):
        yield Mutation(f"a tree with {name}", _REASONS, _genesis(did, key, paths, nodes))


def _genesis(did: str, key: Key, paths: list[str], nodes: list[bytes]) -> bytes:
    """Return a first commit with these creates and nodes, of which the last is the root."""
    unsigned = {"did": did, "version": 3, "rev": tid(1), "prev": None, "data": cid_of(nodes[-1])}
    commit = block(signed(unsigned, key))
    body = {
        "seq": 1,
        "time": TIME,
        "repo": did,
        "rev": tid(1),
        "since": None,
        "commit": cid_of(commit),
        "ops": [{"action": "create", "path": path, "cid": _VALUE} for path in paths],
        "blobs": [],
        "blocks": car(cid_of(commit), [commit, *nodes, _RECORD]),
        "rebase": False,
        "tooBig": False,
    }
    return frame("#commit", body)


def _paths(layer: int, count: int) -> list[str]:
    paths = (f"app.bsky.feed.post/{tid(number)}" for number in range(10_000))
    found = [path for path in paths if height(path.encode()) == layer]
    return found[:count]


def _node(paths: list[str], kids: list[bytes | None] | None = None) -> bytes:
    """Return a node with these keys, whatever their order, and subtrees before and behind them."""
    cids = [None if kid is None else cid_of(kid) for kid in kids or [None] * (len(paths) + 1)]
    entries = []
    last = ""
    for path, cid in zip(paths, cids[1:], strict=True):
        shared = next((n for n, (a, b) in enumerate(zip(last, path, strict=False)) if a != b), 0)
        shared = len(path) if path == last else shared
        entries.append({"p": shared, "k": path[shared:].encode(), "v": _VALUE, "t": cid})
        last = path
    return block({"l": cids[0], "e": entries})


def _entries(*entries: dict[str, Any]) -> bytes:
    return block({"l": None, "e": list(entries)})


def _entry(path: str, **fields: Any) -> dict[str, Any]:
    return {"p": 0, "k": path.encode(), "v": _VALUE, "t": None, **fields}


def _two_below(low: str, top: str) -> list[bytes]:
    leaf = _node([low])
    kids = [leaf, None] if low < top else [None, leaf]
    return [leaf, _node([top], kids)]


def _under(path: str, below: list[str]) -> list[bytes]:
    leaf = _node(below)
    return [leaf, _node([path], [None, leaf])]


def _wrong_side(low: str, high: str) -> list[bytes]:
    leaf = _node([low])
    kids = [None, leaf] if low < high else [leaf, None]
    return [leaf, _node([high], kids)]
