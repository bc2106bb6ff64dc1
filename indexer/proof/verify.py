"""A commit and a key to a commit that checked out, or `Rejected`. Pure.

What is checked, in the order of its cost: the clock, every block against its CID, the commit
object against the message, its signature, each operation against the tree before and after it,
and that each record of ours is in the CAR. A record that can't be read is still a proven write:
what stood there before is gone. Where the commit stands in the repo's chain is for `projection`.

Source: atproto.com/specs/repository and atproto.com/specs/sync.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import libipld

from indexer.lexicon.syntax import is_tid, tid_time
from indexer.proof.car import BadBlock, BadCar, read_car
from indexer.proof.keys import SIGNATURE_LENGTH, is_signed
from indexer.proof.mst import MissingBlock, Tree, invert
from indexer.proof.mst_node import EMPTY_ROOT, BadTree
from indexer.stream.decode import CID_LENGTH, CID_PREFIX
from indexer.stream.events import (
    Commit,
    Op,
    Rejected,
    RejectReason,
    Sync,
    VerifiedCommit,
    VerifiedSync,
    Write,
)

MAX_AHEAD = 300_000_000  # microseconds that a rev may lie in the future
REPO_VERSION = 3
MAX_COMMIT = 8_192  # bytes of a commit object; it has some 250

_SIGNATURE = b"\x63sig\x58\x40"  # the entry of a commit object, up to its 64 bytes


class Unproven(Exception):
    """What was claimed is not shown; the `reason` is one of `RejectReason`.

    The text, if there is one, says what in particular, in one of few ways.
    """

    def __init__(self, reason: RejectReason, *what: str) -> None:
        super().__init__(*what)
        self.reason = reason


def verify_commit(
    event: Commit, is_ours: Callable[[str], bool], key: str | None, now: int
) -> VerifiedCommit | Rejected:
    """Check a commit; keep the writes whose collection `is_ours`.

    `key` is the did:key that the repo's DID names now; None if it names none. `now` is Unix ms.
    """
    try:
        _check_clock(event.rev, now)
        root, blocks = _read(event.blocks)
        if root != event.commit:
            raise Unproven("bad_commit")
        data = _prove_message(blocks, root, event.repo, event.rev, key)
        ops = _folded(event.ops)
        _prove_ops(event, ops, data, blocks)
        writes = []
        for op in ops:
            collection, _, rkey = op.path.partition("/")
            if is_ours(collection):
                block = None if op.cid is None else _block(blocks, op.cid)
                cid, prev = _text(op.cid), _text(op.prev)
                writes.append(Write(op.action, collection, rkey, cid, prev, block))
            elif op.cid is not None and op.cid not in blocks:
                raise Unproven("missing_block", "a record is not in the CAR")
    except Unproven as unproven:
        return _rejected(event, event.repo, unproven)
    return VerifiedCommit(
        seq=event.seq,
        time=event.time,
        did=event.repo,
        rev=event.rev,
        since=event.since,
        prev_data=_text(event.prev_data),
        data=libipld.encode_cid(data),
        writes=tuple(writes),
    )


def verify_sync(event: Sync, key: str | None, now: int) -> VerifiedSync | Rejected:
    """Check a `#sync` against the commit object that it brings; the same `key` and `now`."""
    try:
        _check_clock(event.rev, now)
        root, blocks = _read(event.blocks)
        data = _prove_message(blocks, root, event.did, event.rev, key)
    except Unproven as unproven:
        return _rejected(event, event.did, unproven)
    return VerifiedSync(event.seq, event.did, event.rev, libipld.encode_cid(data))


def _rejected(event: Commit | Sync, did: str, unproven: Unproven) -> Rejected:
    what = str(unproven) or None
    return Rejected(event.seq, event.time, unproven.reason, did, event.rev, what=what)


def is_old_form(event: Commit) -> bool:
    """Whether the host does not say which tree the commit changed, as before sync 1.1."""
    return event.prev_data is None and event.since is not None


def _check_clock(rev: str, now: int) -> None:
    if tid_time(rev) > now * 1000 + MAX_AHEAD:
        raise Unproven("future_rev")


def _read(car: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    try:
        return read_car(car)
    except BadBlock:
        raise Unproven("bad_block") from None
    except BadCar as error:
        raise Unproven("bad_car", str(error)) from None


class SignedCommit(NamedTuple):
    """A commit object that its owner signed."""

    rev: str
    data: bytes  # the MST root's CID


def prove_commit(
    block: bytes, did: str, key: str | None, expected_rev: str | None = None
) -> SignedCommit:
    """Return what a commit object of this DID says, if this did:key signed it; else `Unproven`."""
    # Not even decoded if it is too large: hostile CBOR takes up to 200 times its size.
    commit = _map(block) or {} if len(block) <= MAX_COMMIT else {}
    rev, data = commit.get("rev"), commit.get("data")
    if (
        commit.get("did") != did
        or commit.get("version") != REPO_VERSION
        or not isinstance(rev, str)
        or not is_tid(rev)
        or expected_rev not in (None, rev)
        or not isinstance(data, bytes)
        or len(data) != CID_LENGTH
        or data[:4] != CID_PREFIX
    ):
        raise Unproven("bad_commit")
    if key is None or not _is_signed(block, key):
        raise Unproven("bad_signature")
    return SignedCommit(rev, data)


def _prove_message(
    blocks: Mapping[bytes, bytes], root: bytes, did: str, rev: str, key: str | None
) -> bytes:
    """Return the MST root that the message's commit object names."""
    return prove_commit(_block(blocks, root), did, key, rev).data


def _is_signed(block: bytes, key: str) -> bool:
    """Whether this key signed the commit object: all of it but the entry of the signature."""
    # In canonical order the signature stands behind `did` and `rev`, and neither can hold an @.
    # To cut it out is to encode the rest again, only cheaper.
    cut = block.find(_SIGNATURE)
    start, end = cut + len(_SIGNATURE), cut + len(_SIGNATURE) + SIGNATURE_LENGTH
    if cut < 0:
        return False
    unsigned = bytes((block[0] - 1,)) + block[1:cut] + block[end:]
    return is_signed(key, block[start:end], unsigned)


def _folded(ops: Sequence[Op]) -> Sequence[Op]:
    """Return one operation a path: what the last one did to what the first one found there.

    A host may write a key twice in one commit. The official PDS gives each the `prev` from before
    all of them, so that to take them back one by one would fail.
    """
    last = {op.path: op for op in ops}
    if len(last) == len(ops):
        return ops
    first = {op.path: op for op in reversed(ops)}
    return [_joined(first[path], op) for path, op in last.items()]


def _joined(first: Op, last: Op) -> Op:
    """Return what a path's operations amount to: from what was there to what is left."""
    if first is last:
        return last
    prev = None if first.action == "create" else first.prev
    if last.cid is None:
        return Op("delete", last.path, None, prev)
    is_new = first.action == "create"
    return Op("create" if is_new else "update", last.path, last.cid, prev)


def _prove_ops(
    event: Commit, ops: Sequence[Op], data: bytes, blocks: Mapping[bytes, bytes]
) -> None:
    """Check that the operations, and nothing else, led to this tree."""
    try:
        if is_old_form(event):
            _check_against(Tree(data, blocks), ops)
        elif invert(data, ops, blocks) != (event.prev_data or EMPTY_ROOT):
            raise Unproven("bad_tree", "the operations did not lead from prevData to it")
    except MissingBlock as error:
        raise Unproven("missing_block", str(error)) from None
    except BadTree as error:
        raise Unproven("bad_tree", str(error)) from None


def _check_against(tree: Tree, ops: Sequence[Op]) -> None:
    """Check operations against the tree after them, which is all that a host of old sends."""
    for op in ops:
        if tree.get(op.path.encode()) != op.cid:
            raise BadTree("the tree does not show what the operation says")


def _block(blocks: Mapping[bytes, bytes], cid: bytes) -> bytes:
    block = blocks.get(cid)
    if block is None:
        raise Unproven("missing_block", "the commit or a record is not in the CAR")
    return block


def _map(block: bytes) -> dict[str, Any] | None:
    try:
        value = libipld.decode_dag_cbor(block)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(cid: bytes | None) -> str | None:
    return None if cid is None else libipld.encode_cid(cid)
