"""Bytes to event, pure: the hot path.

One DAG-CBOR pass over a frame, and never a look into its CAR. 99.9 % of the network's frames
end here as `Skipped`, after a few microseconds. What can't be read so is skimmed, field by field.
"""

from collections.abc import Collection
from typing import Any, cast

import libipld

from indexer.cbor import has_more_values, skim
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
LARGE = 65_536  # bytes; of a larger frame the values are counted before any is made
MAX_VALUES = 10_000  # of such a frame; a commit of 200 operations has about 2,000
CID_PREFIX = b"\x01\x71\x12\x20"  # CIDv1, DAG-CBOR, SHA-256 of 32 bytes: all that a repo uses
CID_LENGTH = 36

_ACTIONS = frozenset(("create", "update", "delete"))
_KINDS = frozenset(("#commit", "#sync", "#account", "#identity"))  # that have a place in the stream


class _Malformed(ValueError):
    """What is wrong, in words of ours alone: they go into the log."""


def decode(frame: bytes, collections: Collection[str], tracked: Collection[str]) -> Event:
    """Return what a frame says, as far as it concerns `collections` or the `tracked` DIDs.

    Whatever is wrong with it, bytes that are none at all included, makes it a `Rejected`.
    """
    try:
        if len(frame) > LARGE and has_more_values(frame, MAX_VALUES):
            raise _Malformed(f"more than {MAX_VALUES:,} values")
        header, body = libipld.decode_dag_cbor_multi(frame)
        kind = header.get("t") if header["op"] == 1 else header["op"]
        if kind == "#commit":
            for op in body["ops"]:
                if op["path"].partition("/")[0] in collections:
                    return _commit(body)
            if body["repo"] in tracked:
                return _commit(body)
            return Skipped(_seq(body), _text(body["time"]), "other_collection")
        return _other(kind, body, tracked)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return _salvage(frame, collections, tracked, error)


def _salvage(
    frame: bytes, collections: Collection[str], tracked: Collection[str], error: Exception
) -> Event:
    """Read what can be read of a frame with something wrong in it: its place, and whose it is."""
    header, body, body_at = skim(frame)
    if not isinstance(error, _Malformed) and body_at is not None:
        kind = header.get("t") if header.get("op") == 1 else header.get("op")
        if kind in _KINDS and not _is_dag_cbor(frame[:body_at]):
            # It is the header that could not be read, so this is the first look at the body.
            plain = libipld.encode_dag_cbor({"op": 1, "t": kind})
            return decode(plain + frame[body_at:], collections, tracked)
        if kind == -1:
            return StreamError(_text(body.get("error")) or "Unknown", _text(body.get("message")))
        if kind == "#info":
            return Info(_text(body.get("name")) or "Unknown", _text(body.get("message")))
        if kind not in _KINDS and "op" in header:
            return Skipped(_seq_or_none(body), _text(body.get("time")), "unknown_type")
    did = _did(body.get("repo", body.get("did")))
    return Rejected(
        _seq_or_none(body),
        _text(body.get("time")),
        "malformed",
        did if did in tracked else None,
        _claimed_rev(body),
        what=_what(error),
    )


def _is_dag_cbor(data: bytes) -> bool:
    try:
        libipld.decode_dag_cbor(data)
    except (ValueError, RecursionError):
        return False
    return True


def _what(error: Exception) -> str:
    """Say what is wrong with a frame, in one of few ways."""
    if isinstance(error, _Malformed):
        return str(error)
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, KeyError | TypeError | AttributeError):
        return "a field that is missing, or of another type"
    if "Unicode" in str(error):
        return "text that is not UTF-8"
    return "map keys out of order" if "sorted" in str(error) else "not DAG-CBOR"


def _other(kind: object, body: Any, tracked: Collection[str]) -> Event:
    if not isinstance(body, dict):
        raise _Malformed("a body that is no map")
    if kind == -1:
        return StreamError(_text(body.get("error")) or "Unknown", _text(body.get("message")))
    if kind == "#info":
        return Info(_text(body.get("name")) or "Unknown", _text(body.get("message")))
    time = _text(body.get("time"))
    if kind not in _KINDS:
        return Skipped(_seq_or_none(body), time, "unknown_type")
    seq = _seq(body)
    did = _did(body.get("did"))
    if did is None:
        return Rejected(seq, time, "malformed", None, _claimed_rev(body), what="a DID that is none")
    if kind == "#identity":
        return Identity(seq, time, did)
    if did not in tracked:
        return Skipped(seq, time, "untracked_repo")
    if kind == "#account":
        active = body.get("active")
        if not isinstance(active, bool):
            raise _Malformed("an active that is no boolean")
        return Account(seq, time, did, active, _text(body.get("status")))
    return Sync(seq, time, did, _rev(body.get("rev")), _blocks(body.get("blocks")))


def _commit(body: dict[str, Any]) -> Commit | Rejected:
    seq = _seq(body)
    time = _text(body.get("time"))
    did = _did(body.get("repo"))
    try:
        if did is None:
            raise _Malformed("a DID that is none")
        if len(body["ops"]) > MAX_OPS:
            raise _Malformed(f"more than {MAX_OPS} operations")
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
    except _Malformed as error:
        return Rejected(seq, time, "malformed", did, _claimed_rev(body), what=str(error))


def _op(op: dict[str, Any]) -> Op:
    action, path, cid, prev = op.get("action"), op["path"], op.get("cid"), op.get("prev")
    collection, _, rkey = path.partition("/")
    if action not in _ACTIONS or not is_nsid(collection) or not is_record_key(rkey):
        raise _Malformed("an operation that is none")
    if (cid is None) != (action == "delete"):
        raise _Malformed("an operation without its CID, or with one too many")
    return Op(
        action=cast(Action, action),
        path=path,
        cid=None if cid is None else _cid(cid),
        prev=None if prev is None else _cid(prev),
    )


def _seq(body: dict[str, Any]) -> int:
    seq = body.get("seq")
    if type(seq) is not int or not 0 <= seq <= MAX_SEQ:
        raise _Malformed("no seq")
    return seq


def _seq_or_none(body: dict[str, Any]) -> int | None:
    seq = body.get("seq")
    return seq if type(seq) is int and 0 <= seq <= MAX_SEQ else None


def _did(value: object) -> str | None:
    return value if isinstance(value, str) and is_did(value) else None


def _rev(value: object) -> str:
    if not isinstance(value, str) or not is_tid(value):
        raise _Malformed("a rev that is no TID")
    return value


def _claimed_rev(body: dict[str, Any]) -> str | None:
    rev = body.get("rev")
    return rev if isinstance(rev, str) and is_tid(rev) else None


def _cid(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != CID_LENGTH or value[:4] != CID_PREFIX:
        raise _Malformed("a CID of another kind than a repo's")
    return value


def _blocks(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_BLOCKS:
        raise _Malformed("blocks that are missing, or over 2 MB")
    return value


def _text(value: object) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) else None
