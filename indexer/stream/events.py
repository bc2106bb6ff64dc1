"""What a frame of the firehose turns out to be: frozen values, nothing else.

Those that come with most frames are named tuples, made in a quarter of the time of a dataclass.

Source: the event types of `com.atproto.sync.subscribeRepos` and atproto.com/specs/sync.
CIDs are in their binary form here (`libipld` gives them so); `time` is the relay's own string.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Action = Literal["create", "update", "delete"]

SkipReason = Literal[
    "other_collection",  # a commit of a repo that we don't track, without our collections
    "untracked_repo",  # an #account or #sync of a repo that we don't track
    "unknown_type",  # a message type, or an op of the header, that is not in the spec we know
]

RejectReason = Literal[
    "malformed",  # not DAG-CBOR, or a known message whose fields are not of their types or limits
    "out_of_order",  # a frame that goes back in the stream
    "bad_car",  # the CAR can't be read
    "bad_block",  # the bytes of a block are not those that its CID names
    "missing_block",  # the commit or a record is not in the CAR
    "bad_commit",  # the commit object is not the one that the message describes
    "bad_signature",  # the key that the DID names did not sign it
    "bad_tree",  # the MST is malformed, or the operations did not lead from `prevData` to it
    "no_key",  # the DID can't be resolved now, or names no key
    "old_form",  # without `prevData`, which its repo has sent before, or which we are set to want
    "future_rev",  # a clock that runs ahead would outlive every later revision
    "invalid_record",  # it does not fit its lexicon
]


class Op(NamedTuple):
    """One change of a path in a commit."""

    action: Action
    path: str  # collection/rkey
    cid: bytes | None  # None for a delete
    prev: bytes | None  # the CID before; None for a create, or from a host of the old form


class Commit(NamedTuple):
    """A `#commit` that may concern us; nothing in it is proven yet."""

    seq: int
    time: str | None
    repo: str
    rev: str
    since: str | None  # the revision before this one; None for a repo's first
    prev_data: bytes | None  # the MST root before; None from a host of the old form
    commit: bytes  # the CID of the commit object
    ops: tuple[Op, ...]
    blocks: bytes  # a CAR


@dataclass(frozen=True, slots=True)
class Sync:
    """A `#sync`: the state of a repo without what led to it."""

    seq: int
    time: str | None
    did: str
    rev: str
    blocks: bytes  # a CAR with the commit object


@dataclass(frozen=True, slots=True)
class Account:
    """An `#account`: whether the host serves the repo, and if not, why."""

    seq: int
    time: str | None
    did: str
    active: bool
    status: str | None


@dataclass(frozen=True, slots=True)
class Identity:
    """An `#identity`: the DID document or the handle may have changed."""

    seq: int
    time: str | None
    did: str


@dataclass(frozen=True, slots=True)
class Info:
    """An `#info` about the stream itself. It has no seq."""

    name: str
    message: str | None


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error frame: the relay closes the stream after it."""

    name: str
    message: str | None


class Skipped(NamedTuple):
    """A frame that concerns nobody here."""

    seq: int | None
    time: str | None
    reason: SkipReason


@dataclass(frozen=True, slots=True)
class Rejected:
    """A stranger's fault: counted, and the repo, if one is named, is no longer in step."""

    seq: int | None
    time: str | None
    reason: RejectReason
    did: str | None = None
    rev: str | None = None  # as claimed; None if that is not even a TID
    # For the log, in one of few ways; None where the reason says it all.
    what: str | None = field(default=None, compare=False)


Event = Commit | Sync | Account | Identity | Info | StreamError | Skipped | Rejected


class Write(NamedTuple):
    """A proven change of one record of ours."""

    action: Action
    collection: str
    rkey: str
    cid: str | None  # text form; None for a delete
    prev: str | None  # text form; the version before, if the host says it
    block: bytes | None  # the record, as it came; None for a delete


class VerifiedCommit(NamedTuple):
    """A commit that checked out, with the writes to our collections only."""

    seq: int
    time: str | None
    did: str
    rev: str
    since: str | None
    prev_data: str | None
    data: str  # the MST root after it, text form
    writes: tuple[Write, ...]


@dataclass(frozen=True, slots=True)
class VerifiedSync:
    """A `#sync` whose commit object says the same as the message."""

    seq: int
    did: str
    rev: str
    data: str
