"""A commit that was claimed to a commit that checked out, or `Rejected`. Pure.

What is checked: every block against its CID, the commit object against the message, and that
each record of ours is in the CAR. A record that can't be read is still a proven write: what
stood there before is gone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import libipld

from indexer.car import BadBlock, BadCar, read_car
from indexer.decode import CID_LENGTH, CID_PREFIX
from indexer.events import (
    Commit,
    Rejected,
    RejectReason,
    Sync,
    VerifiedCommit,
    VerifiedSync,
    Write,
)
from indexer.records import MAX_RECORD
from indexer.syntax import tid_time

MAX_AHEAD = 300_000_000  # microseconds that a rev may lie in the future
REPO_VERSION = 3


class _Unproven(Exception):
    def __init__(self, reason: RejectReason) -> None:
        self.reason = reason


def verify_commit(
    event: Commit, is_ours: Callable[[str], bool], now: int
) -> VerifiedCommit | Rejected:
    """Check a commit; keep the writes whose collection `is_ours`. `now` is Unix ms."""
    try:
        _check_clock(event.rev, now)
        root, blocks = _read(event.blocks)
        if root != event.commit:
            raise _Unproven("bad_commit")
        data = _commit_data(blocks, root, event.repo, event.rev)
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
    except _Unproven as unproven:
        return Rejected(event.seq, event.time, unproven.reason, event.repo, event.rev)
    prev_data = _text(event.prev_data)
    return VerifiedCommit(
        seq=event.seq,
        time=event.time,
        did=event.repo,
        rev=event.rev,
        since=event.since,
        prev_data=prev_data,
        data=data,
        writes=tuple(writes),
    )


def verify_sync(event: Sync, now: int) -> VerifiedSync | Rejected:
    """Check a `#sync` against the commit object that it brings. `now` is Unix ms."""
    try:
        _check_clock(event.rev, now)
        root, blocks = _read(event.blocks)
        data = _commit_data(blocks, root, event.did, event.rev)
    except _Unproven as unproven:
        return Rejected(event.seq, event.time, unproven.reason, event.did, event.rev)
    return VerifiedSync(event.seq, event.did, event.rev, data)


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


def _commit_data(blocks: Mapping[bytes, bytes], root: bytes, did: str, rev: str) -> str:
    """Return the MST root that the commit object names, if it is the commit of the message."""
    commit = _map(_block(blocks, root))
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
    return libipld.encode_cid(data)


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
