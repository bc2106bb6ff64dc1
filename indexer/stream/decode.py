"""Bytes to event, pure: the hot path.

One DAG-CBOR pass over a frame, and never a look into its CAR. 99.9 % of the network's frames
end here as `Skipped`, after a few microseconds.
"""

from collections.abc import Collection
from typing import Any, cast

import libipld

from indexer.lexicon.syntax import is_did, is_nsid, is_record_key, is_tid
from indexer.stream.events import (
    Account,
    Action,
    Commit,
    Event,
    Identity,
    Info,
    Op,
    Rejected,
    Skipped,
    StreamError,
    Sync,
)

MAX_SEQ = 2**63 - 1  # what SQLite and JSON clients of the spec can hold
MAX_OPS = 200  # a commit; atproto.com/specs/sync
MAX_BLOCKS = 2_000_000  # bytes of a commit's CAR; the same
MAX_TEXT = 256  # characters of a name, status or time
CID_PREFIX = b"\x01\x71\x12\x20"  # CIDv1, DAG-CBOR, SHA-256 of 32 bytes: all that a repo uses
CID_LENGTH = 36

_ACTIONS = frozenset(("create", "update", "delete"))


class UndecodableFrame(ValueError):
    """Not a frame of this protocol, so not even its seq is known: the stream is broken."""


class _Malformed(ValueError):
    pass


def decode(frame: bytes, collections: Collection[str], tracked: Collection[str]) -> Event:
    """Return what a frame says, as far as it concerns `collections` or the `tracked` DIDs.

    Raises `UndecodableFrame`; whatever else is wrong with it is a `Rejected`.
    """
    try:
        header, body = libipld.decode_dag_cbor_multi(frame)
        kind = header.get("t") if header["op"] == 1 else header["op"]
        if kind == "#commit":
            for op in body["ops"]:
                if op["path"].partition("/")[0] in collections:
                    return _commit(body)
            if body["repo"] in tracked:
                return _commit(body)
            return Skipped(_seq(body), _text(body["time"]), "other_collection")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return _salvage(frame, tracked, error)
    if not isinstance(body, dict):
        raise UndecodableFrame("the body is not a map")
    return _other(kind, body, tracked)


def _salvage(frame: bytes, tracked: Collection[str], error: Exception) -> Rejected:
    """Tell a `#commit` with wrong fields, which has its place in the stream, from noise."""
    try:
        _, body = libipld.decode_dag_cbor_multi(frame)
        did = _did(body.get("repo"))
        seq, time = _seq(body), _text(body.get("time"))
        did = did if did in tracked else None
        return Rejected(seq, time, "malformed", did, _claimed_rev(body))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UndecodableFrame(f"{type(error).__name__} in a frame of {len(frame)} B") from error


def _other(kind: object, body: dict[str, Any], tracked: Collection[str]) -> Event:
    if kind == -1:
        return StreamError(_text(body.get("error")) or "Unknown", _text(body.get("message")))
    if kind == "#info":
        return Info(_text(body.get("name")) or "Unknown", _text(body.get("message")))
    time = _text(body.get("time"))
    if kind not in ("#sync", "#account", "#identity"):
        return Skipped(_seq(body) if "seq" in body else None, time, "unknown_type")
    seq = _seq(body)
    did = _did(body.get("did"))
    try:
        if did is None:
            raise _Malformed("did")
        if kind == "#identity":
            return Identity(seq, time, did)
        if did not in tracked:
            return Skipped(seq, time, "untracked_repo")
        if kind == "#account":
            active = _require(body.get("active"), bool)
            return Account(seq, time, did, active, _text(body.get("status")))
        return Sync(seq, time, did, _rev(body.get("rev")), _blocks(body.get("blocks")))
    except _Malformed:
        return Rejected(seq, time, "malformed", did, _claimed_rev(body))


def _commit(body: dict[str, Any]) -> Commit | Rejected:
    seq = _seq(body)
    time = _text(body.get("time"))
    did = _did(body.get("repo"))
    try:
        if did is None or len(body["ops"]) > MAX_OPS:
            raise _Malformed("repo or ops")
        ops = tuple(_op(op) for op in body["ops"])
        since = body.get("since")
        prev_data = body.get("prevData")
        return Commit(
            seq=seq,
            time=time,
            repo=did,
            rev=_rev(body.get("rev")),
            since=None if since is None else _rev(since),
            prev_data=None if prev_data is None else _cid(prev_data),
            commit=_cid(body.get("commit")),
            ops=ops,
            blocks=_blocks(body.get("blocks")),
        )
    except _Malformed:
        return Rejected(seq, time, "malformed", did, _claimed_rev(body))


def _op(op: dict[str, Any]) -> Op:
    action, path, cid, prev = op.get("action"), op["path"], op.get("cid"), op.get("prev")
    collection, _, rkey = path.partition("/")
    if action not in _ACTIONS or not is_nsid(collection) or not is_record_key(rkey):
        raise _Malformed("op")
    if (cid is None) != (action == "delete"):
        raise _Malformed("cid of an op")
    return Op(
        action=cast(Action, action),
        path=path,
        cid=None if cid is None else _cid(cid),
        prev=None if prev is None else _cid(prev),
    )


def _seq(body: dict[str, Any]) -> int:
    seq = body.get("seq")
    if type(seq) is not int or not 0 <= seq <= MAX_SEQ:
        raise UndecodableFrame("no seq")
    return seq


def _did(value: object) -> str | None:
    return value if isinstance(value, str) and is_did(value) else None


def _rev(value: object) -> str:
    if not isinstance(value, str) or not is_tid(value):
        raise _Malformed("rev")
    return value


def _claimed_rev(body: dict[str, Any]) -> str | None:
    rev = body.get("rev")
    return rev if isinstance(rev, str) and is_tid(rev) else None


def _cid(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != CID_LENGTH or value[:4] != CID_PREFIX:
        raise _Malformed("cid")
    return value


def _blocks(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_BLOCKS:
        raise _Malformed("blocks")
    return value


def _require(value: object, kind: type[bool]) -> bool:
    if not isinstance(value, kind):
        raise _Malformed(kind.__name__)
    return value


def _text(value: object) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) else None
