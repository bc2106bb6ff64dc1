"""A frame that checks out, made wrong in one thing: what a verifier must reject, and why.

Nothing comes from here that a verifier may accept: no block is dropped that proves nothing, no
op is only moved, and `since` and `seq`, which no signature covers, stay as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import libipld
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from indexer.stream.decode import CID_PREFIX, decode
from indexer.stream.events import Commit
from tests.support.account_keys import Key
from tests.support.frames import block, cid_of, section, tid, varint
from tests.vectors.message import Message, signed
from tests.vectors.rebuild import Unproven, data_before

SAMPLE = 4  # ops, or nodes, of one commit that are made wrong: the largest have hundreds
_ECDSA = ec.ECDSA(hashes.SHA256())
STRANGER = "did:plc:" + "z" * 24
CAR_REASONS = "bad_car bad_block bad_commit missing_block"
TREE_REASONS = "bad_tree missing_block"


@dataclass(frozen=True, slots=True)
class Mutation:
    """A wrong frame. `reasons` are those that are right for its rejection; mostly it is one."""

    name: str
    reasons: frozenset[str]
    frame: bytes


def mutations(frame: bytes, key: Key, rng: Random) -> Iterator[Mutation]:
    """Yield wrong forms of a `#commit` or `#sync` that `key` signed."""
    message = Message.parse(frame)
    sources = [_car(message, rng), _claims(message), _commit_object(message, key)]
    sources.append(_signature(message, key, rng))
    if message.kind == "#commit":
        sources.append(_records(message, rng))
        if not message.is_old:
            sources += [_nodes(message, rng), _ops(message, rng), _prev_data(message, rng)]
            sources.append(_other_tree(message, key))
    for source in sources:
        for reasons, name, wrong in source:
            yield Mutation(name, frozenset(reasons.split()), wrong)


_Wrong = Iterator[tuple[str, str, bytes]]  # reasons, name, frame


def _car(message: Message, rng: Random) -> _Wrong:
    car: bytes = message.body["blocks"]
    cids = list(message.blocks)
    for cid in (message.root, rng.choice(cids), rng.choice(cids)):
        flipped = {**message.blocks, cid: _flip(message.blocks[cid], rng)}
        yield "bad_block", "a flipped bit in a block", replace(message, blocks=flipped).frame()
    for _ in range(SAMPLE):
        yield CAR_REASONS, "a flipped bit in the CAR", message.with_car(_flip(car, rng))
    cut = rng.randrange(1, 36 + min(map(len, message.blocks.values())))
    yield "bad_car", "a truncated CAR", message.with_car(car[:-cut])
    yield "bad_car", "a CAR that ends in its header", message.with_car(car[: rng.randrange(59)])
    yield "bad_car", "a zero byte behind the CAR", message.with_car(car + b"\0")
    half = section(message.root, message.blocks[message.root])[: rng.randrange(1, 36)]
    yield "bad_car", "half a block behind the CAR", message.with_car(car + half)
    lie = section(cid_of(b"\xa0"), b"\xa1aa\x00")
    yield "bad_block", "a block behind the CAR under a false CID", message.with_car(car + lie)
    head = varint(len(block({"version": 1, "roots": [message.root]})))
    body = car[len(head) + head[0] :]
    for name, header in (
        ("version 2", {"version": 2, "roots": [message.root]}),
        ("no root", {"version": 1, "roots": []}),
    ):
        data = block(header)
        yield "bad_car", f"a CAR of {name}", message.with_car(varint(len(data)) + data + body)
    others = [cid for cid in cids if cid != message.root]
    stranger = rng.choice(others) if others else _cid(rng)
    yield (
        "bad_commit missing_block",
        "a CAR with another root",
        replace(message, root=stranger).frame(),
    )
    if others:
        yield (
            "bad_commit missing_block",
            "no commit object in the CAR",
            message.without_block(message.root),
        )


def _claims(message: Message) -> _Wrong:
    is_commit = message.kind == "#commit"
    name = "repo" if is_commit else "did"
    yield "bad_commit", "another repo in the message", message.with_body(**{name: STRANGER})
    yield "bad_commit", "another rev in the message", message.with_body(rev=tid(7))
    if is_commit:
        other = cid_of(b"\xa0")
        yield "bad_commit", "another commit in the message", message.with_body(commit=other)


def _commit_object(message: Message, key: Key) -> _Wrong:
    commit = message.commit
    for name, fields in (
        ("of version 2", {"version": 2}),
        ("of version 4", {"version": 4}),
        ("of another DID", {"did": STRANGER}),
        ("of another rev", {"rev": tid(7)}),
        ("whose data is text", {"data": libipld.encode_cid(commit["data"])}),
        ("whose data is null", {"data": None}),
    ):
        wrong = signed({**commit, **fields}, key)
        yield "bad_commit", f"a commit object {name}", message.with_commit(wrong)
    for field in ("did", "rev", "data", "version"):
        wrong = signed({name: v for name, v in commit.items() if name != field}, key)
        yield "bad_commit", f"a commit object without {field}", message.with_commit(wrong)


def _signature(message: Message, key: Key, rng: Random) -> _Wrong:
    commit = message.commit
    sig: bytes = commit["sig"]
    curve = key.private.curve
    thief = replace(key, private=ec.derive_private_key(rng.randrange(1, 2**128), curve))
    der = key.private.sign(block({k: v for k, v in commit.items() if k != "sig"}), _ECDSA)
    for name, wrong in (
        ("by another key", signed(commit, thief)["sig"]),
        ("with high S", sig[:32] + (key.order - int.from_bytes(sig[32:])).to_bytes(32)),
        ("with a flipped bit", _flip(sig, rng)),
        ("of zeros", bytes(64)),
        ("over another rev", signed({**commit, "rev": tid(7)}, key)["sig"]),
        ("with r and s exchanged", sig[32:] + sig[:32]),
    ):
        fields = {**commit, "sig": wrong}
        yield "bad_signature", f"a signature {name}", message.with_commit(fields)
    for name, odd in (
        ("in DER", der),
        ("a byte too short", sig[:-1]),
        ("a byte too long", sig + b"\0"),
        ("that is empty", b""),
        ("that is text", sig.hex()),
    ):
        fields = {**commit, "sig": odd}
        reasons = "bad_signature bad_commit"
        yield reasons, f"a signature {name}", message.with_commit(fields)
    fields = {name: value for name, value in commit.items() if name != "sig"}
    yield "bad_signature bad_commit", "no signature", message.with_commit(fields)


def _records(message: Message, rng: Random) -> _Wrong:
    indices = [n for n, op in enumerate(message.body["ops"]) if op["cid"] is not None]
    for index in _some(indices, rng):
        op = message.body["ops"][index]
        yield "missing_block", "a dropped record", message.without_block(op["cid"])
        wrong = message.with_op(index, cid=message.root)
        yield TREE_REASONS, "an op with the CID of another block", wrong
        record = block({"$type": op["path"].partition("/")[0], "text": "not what was signed"})
        blocks = {**message.blocks, cid_of(record): record}
        wrong = replace(message, blocks=blocks).with_op(index, cid=cid_of(record))
        yield TREE_REASONS, "a replaced record", wrong
    for index in _some(range(len(message.body["ops"])), rng):
        op = message.body["ops"][index]
        wrong = message.with_op(index, cid=message.root if op["cid"] is None else None)
        yield "malformed", "an op with a CID that its action excludes", wrong


def _nodes(message: Message, rng: Random) -> _Wrong:
    records = {op["cid"] for op in message.body["ops"]}
    nodes = [cid for cid in message.blocks if cid != message.root and cid not in records]
    for cid in _some(nodes, rng):
        without = message.without_block(cid)
        if not _proves(without):
            yield TREE_REASONS, "a dropped node of the tree", without


def _ops(message: Message, rng: Random) -> _Wrong:
    ops: list[dict[str, Any]] = list(message.body["ops"])
    taken = {op["path"] for op in ops}
    for index in _some(range(len(ops)), rng):
        op = ops[index]
        rest = [*ops[:index], *ops[index + 1 :]]
        if op.get("prev") != op["cid"]:
            yield TREE_REASONS, "an op left out", message.with_body(ops=rest)
        if op["action"] != "delete":
            # Two on one path are what the second did to what the first found there.
            more = [*ops, {**op, "cid": _cid(rng)}]
            reasons = f"{TREE_REASONS} malformed"  # there may be 200 of them
            yield reasons, "an op once more, with another cid", message.with_body(ops=more)
        path = _path(rng, op["path"].partition("/")[0])
        if path not in taken:
            yield TREE_REASONS, "an op on another path", message.with_op(index, path=path)
        if "prev" in op:
            wrong = message.with_op(index, prev=_cid(rng))
            yield TREE_REASONS, "an op with another prev", wrong
            wrong = message.with_op(index, prev=None)
            yield f"{TREE_REASONS} malformed", "an op without prev", wrong
        if op["action"] == "create":
            wrong = message.with_op(index, action="update")
            yield f"{TREE_REASONS} malformed", "a create called an update", wrong
        if op["action"] == "update":
            wrong = message.with_op(index, action="create")
            yield f"{TREE_REASONS} malformed", "an update called a create", wrong
            wrong = message.with_op(index, action="delete", cid=None)
            yield TREE_REASONS, "an update called a delete", wrong
    path = _path(rng, "app.bsky.feed.post")
    created = {"action": "create", "path": path, "cid": message.root}
    for name, op in (
        ("create", created),
        ("update", {**created, "action": "update", "prev": _cid(rng)}),
        ("delete", {**created, "action": "delete", "cid": None, "prev": _cid(rng)}),
    ):
        wrong = message.with_body(ops=[*ops, op])
        reasons = TREE_REASONS if len(ops) < 200 else "malformed"
        yield reasons, f"an op to {name} added", wrong
    many = [{**created, "path": f"app.bsky.feed.post/{n}"} for n in range(201)]
    yield "malformed", "more than 200 ops", message.with_body(ops=many)


def _prev_data(message: Message, rng: Random) -> _Wrong:
    yield TREE_REASONS, "another prevData", message.with_body(prevData=_cid(rng))
    data = message.commit["data"]
    if message.body.get("prevData") not in {data, None}:
        yield TREE_REASONS, "the tree itself as prevData", message.with_body(prevData=data)
    yield "malformed", "a prevData that is text", message.with_body(prevData="bafyrei")


def _other_tree(message: Message, key: Key) -> _Wrong:
    commit = message.commit
    for name, data in (
        ("the tree before", message.body.get("prevData")),
        ("a tree that nobody has", cid_of(b"\xa0")),
    ):
        if data is not None and data != commit["data"]:
            wrong = signed({**commit, "data": data}, key)
            yield TREE_REASONS, f"a commit object that names {name}", message.with_commit(wrong)


def _proves(frame: bytes) -> bool:
    """Tell whether this commit, of which only blocks were dropped, is proven still."""
    message = Message.parse(frame)
    event = decode(frame, (), {message.body["repo"]})
    assert isinstance(event, Commit)
    try:
        data_before(message.commit["data"], event.ops, message.blocks)
    except Unproven:
        return False
    return True


def _flip(data: bytes, rng: Random) -> bytes:
    flipped = bytearray(data)
    flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _cid(rng: Random) -> bytes:
    return CID_PREFIX + rng.randbytes(32)


def _path(rng: Random, collection: str) -> str:
    return f"{collection}/{tid(rng.randrange(10**9))}"


def _some(items: Any, rng: Random) -> list[Any]:
    return rng.sample(items, min(SAMPLE, len(items)))
