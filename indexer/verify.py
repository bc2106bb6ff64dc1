"""A commit and a key to a commit that checked out, or `Rejected`. Pure.

What is checked, in the order of its cost: the clock, every block against its CID, the commit
object against the message, its signature, each operation against the tree before and after it,
and that each record of ours is in the CAR. A record that can't be read is still a proven write:
what stood there before is gone. Where the commit stands in the repo's chain is for `projection`.

Source: atproto.com/specs/repository and atproto.com/specs/sync.
"""

from collections.abc import Callable, Mapping
from typing import Any

import libipld

from indexer.car import BadBlock, BadCar, read_car
from indexer.decode import CID_LENGTH, CID_PREFIX
from indexer.events import (
    Commit,
    Op,
    Rejected,
    RejectReason,
    Sync,
    VerifiedCommit,
    VerifiedSync,
    Write,
)
from indexer.keys import SIGNATURE_LENGTH, is_signed
from indexer.mst import EMPTY_ROOT, BadTree, MissingBlock, Tree, invert
from indexer.records import MAX_RECORD
from indexer.syntax import tid_time

MAX_AHEAD = 300_000_000  # microseconds that a rev may lie in the future
REPO_VERSION = 3

_SIGNATURE = b"\x63sig\x58\x40"  # the entry of a commit object, up to its 64 bytes


class _Unproven(Exception):
    def __init__(self, reason: RejectReason) -> None:
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
            raise _Unproven("bad_commit")
        data = _prove_commit(blocks, root, event.repo, event.rev, key)
        _prove_ops(event, data, blocks)
        writes = []
        records: dict[bytes, Mapping[str, Any] | None] = {}
        for op in event.ops:
            collection, _, rkey = op.path.partition("/")
            if is_ours(collection):
                if op.cid is not None and op.cid not in records:
                    records[op.cid] = _record(blocks, op.cid)  # once, however often it is named
                record = None if op.cid is None else records[op.cid]
                cid, prev = _text(op.cid), _text(op.prev)
                writes.append(Write(op.action, collection, rkey, cid, prev, record))
            elif op.cid is not None and op.cid not in blocks:
                raise _Unproven("missing_block")
    except _Unproven as unproven:
        return Rejected(event.seq, event.time, unproven.reason, event.repo, event.rev)
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
        data = _prove_commit(blocks, root, event.did, event.rev, key)
    except _Unproven as unproven:
        return Rejected(event.seq, event.time, unproven.reason, event.did, event.rev)
    return VerifiedSync(event.seq, event.did, event.rev, libipld.encode_cid(data))


def is_old_form(event: Commit) -> bool:
    """Whether the host does not say which tree the commit changed, as before sync 1.1."""
    return event.prev_data is None and event.since is not None


def _check_clock(rev: str, now: int) -> None:
    if tid_time(rev) > now * 1000 + MAX_AHEAD:
        raise _Unproven("future_rev")


def _read(car: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    try:
        return read_car(car)
    except BadBlock:
        raise _Unproven("bad_block") from None
    except BadCar:
        raise _Unproven("bad_car") from None


def _prove_commit(
    blocks: Mapping[bytes, bytes], root: bytes, did: str, rev: str, key: str | None
) -> bytes:
    """Return the MST root that the commit object names, if it is the message's and signed."""
    block = _block(blocks, root)
    data = _commit_data(block, did, rev)
    if key is None or not _is_signed(block, key):
        raise _Unproven("bad_signature")
    return data


def _commit_data(block: bytes, did: str, rev: str) -> bytes:
    commit = _map(block)
    if commit is None:
        raise _Unproven("bad_commit")
    data = commit.get("data")
    if (
        commit.get("did") != did
        or commit.get("rev") != rev
        or commit.get("version") != REPO_VERSION
        or not isinstance(data, bytes)
        or len(data) != CID_LENGTH
        or data[:4] != CID_PREFIX
    ):
        raise _Unproven("bad_commit")
    return data


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


def _prove_ops(event: Commit, data: bytes, blocks: Mapping[bytes, bytes]) -> None:
    """Check that the operations, and nothing else, led to this tree."""
    try:
        if is_old_form(event):
            _check_against(Tree(data, blocks), event.ops)
        elif invert(data, event.ops, blocks) != (event.prev_data or EMPTY_ROOT):
            raise _Unproven("bad_tree")
    except MissingBlock:
        raise _Unproven("missing_block") from None
    except BadTree:
        raise _Unproven("bad_tree") from None


def _check_against(tree: Tree, ops: tuple[Op, ...]) -> None:
    """Check operations against the tree after them, which is all that a host of old sends."""
    for op in ops:
        try:
            found = tree.get(op.path.encode())
        except MissingBlock:
            if op.cid is not None:
                raise
            continue  # such a host sends new nodes only, and a deletion may leave none
        if found != op.cid:
            raise BadTree("the tree does not show what the operation says")


def _record(blocks: Mapping[bytes, bytes], cid: bytes) -> Mapping[str, Any] | None:
    block = _block(blocks, cid)
    # Decoded, hostile CBOR takes up to 70 times its size.
    return _map(block) if len(block) <= MAX_RECORD else None


def _block(blocks: Mapping[bytes, bytes], cid: bytes) -> bytes:
    block = blocks.get(cid)
    if block is None:
        raise _Unproven("missing_block")
    return block


def _map(block: bytes) -> dict[str, Any] | None:
    try:
        value = libipld.decode_dag_cbor(block)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(cid: bytes | None) -> str | None:
    return None if cid is None else libipld.encode_cid(cid)
