"""Frames of the firehose as a host makes them: CARs, commits, and one thing wrong on demand."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import libipld

from indexer.identity.model import Identity
from indexer.proof.mst_node import height
from indexer.prover import Prover
from indexer.records import Scope
from indexer.stream.decode import CID_PREFIX
from tests.support.account_keys import Key

SPACE = "rsvp.atmo.space"
INVITE = "rsvp.atmo.space.invite"
VERIFICATION = "app.bsky.graph.verification"
COLLECTIONS = frozenset((SPACE, INVITE, VERIFICATION))
SCOPE = Scope(frozenset((SPACE,)), INVITE, VERIFICATION)

NOW = 1_790_000_000_000  # Unix ms
TIME = "2026-09-21T14:13:20.000Z"  # the same
CREATED = "2026-01-31T12:00:00.000Z"

ALICE = "did:plc:" + "a" * 24
BOB = "did:plc:" + "b" * 24
CAROL = "did:plc:" + "c" * 24

_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"


def tid(number: int, ms: int = NOW - 3_600_000) -> str:
    """Return the TID of a moment, `number` microseconds after `ms`: an hour ago by default."""
    value = (ms * 1000 + number) << 10
    return "".join(_DIGITS[value >> shift & 31] for shift in range(60, -1, -5))


def cid_of(block: bytes) -> bytes:
    return CID_PREFIX + sha256(block).digest()


def cid_text(block: bytes) -> str:
    return libipld.encode_cid(cid_of(block))


def block(value: Any) -> bytes:
    """Return DAG-CBOR; bytes that are a CID become a link."""
    return libipld.encode_dag_cbor(value)


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def section(cid: bytes, data: bytes) -> bytes:
    return varint(len(cid) + len(data)) + cid + data


def car(root: bytes, blocks: Iterable[bytes], header: Any = None) -> bytes:
    head = block({"version": 1, "roots": [root]} if header is None else header)
    return varint(len(head)) + head + b"".join(section(cid_of(b), b) for b in blocks)


def frame(kind: str, body: dict[str, Any]) -> bytes:
    return block({"op": 1, "t": kind}) + block(body)


def error_frame(name: str, message: str = "because") -> bytes:
    return block({"op": -1}) + block({"error": name, "message": message})


def info_frame(name: str, message: str = "because") -> bytes:
    return frame("#info", {"name": name, "message": message})


def space(**fields: Any) -> dict[str, Any]:
    return {"$type": SPACE, "name": "Garden", "createdAt": CREATED, **fields}


def invite(space_uri: str, token: str = "token", **fields: Any) -> dict[str, Any]:
    return {
        "$type": INVITE,
        "space": space_uri,
        "tokenHash": hash_of(token),
        "createdAt": CREATED,
        **fields,
    }


def verification(**fields: Any) -> dict[str, Any]:
    return {
        "$type": VERIFICATION,
        "subject": CAROL,
        "handle": "carol.test",
        "displayName": "Carol",
        "createdAt": CREATED,
        **fields,
    }


def hash_of(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def tree(records: dict[str, bytes]) -> list[bytes]:
    """Return the nodes of the MST of these records (path to CID), the root first."""

    def node(items: list[tuple[bytes, bytes]], layer: int) -> list[bytes]:
        marks = [index for index, (key, _) in enumerate(items) if height(key) == layer]
        runs = [items[a + 1 : b] for a, b in zip([-1, *marks], [*marks, None], strict=True)]
        kids = [node(run, layer - 1) if run else [] for run in runs]
        links = [cid_of(kid[0]) if kid else None for kid in kids]
        entries, last = [], b""
        for index, link in zip(marks, links[1:], strict=True):
            key, value = items[index]
            pairs = enumerate(zip(last, key, strict=False))
            shared = next((n for n, (a, b) in pairs if a != b), min(len(last), len(key)))
            entries.append({"p": shared, "k": key[shared:], "v": value, "t": link})
            last = key
        return [block({"l": links[0], "e": entries}), *(b for kid in kids for b in kid)]

    items = sorted((path.encode(), cid) for path, cid in records.items())
    return node(items, max((height(key) for key, _ in items), default=0))


class Author:
    """One repo, as its host puts it into frames: revisions follow each other."""

    key = Key.k256()  # one for all, to make tests quick

    def __init__(self, did: str = ALICE) -> None:
        self.did = did
        self.number = 0
        self.rev: str | None = None
        self.data: bytes | None = None
        self.records: dict[str, bytes] = {}  # path to CID

    def uri(self, path: str) -> str:
        return f"at://{self.did}/{path}"

    def commit_body(self, seq: int, changes: dict[str, Any]) -> dict[str, Any]:
        """Return the body of a `#commit` that sets these paths to records, or deletes (None)."""
        self.number += 1
        rev = tid(self.number)
        ops, blocks = [], []
        for path, record in changes.items():
            old = self.records.pop(path, None)
            new = None
            if record is not None:
                blocks.append(record if isinstance(record, bytes) else block(record))
                new = self.records[path] = cid_of(blocks[-1])
            action = "delete" if new is None else "create" if old is None else "update"
            op: dict[str, Any] = {"action": action, "path": path, "cid": new}
            ops.append(op if old is None else {**op, "prev": old})
        nodes = tree(self.records)
        data = cid_of(nodes[0])
        commit = block(self.commit_object(rev, data))
        body = {
            "seq": seq,
            "time": TIME,
            "repo": self.did,
            "rev": rev,
            "since": self.rev,
            "commit": cid_of(commit),
            "ops": ops,
            "blobs": [],
            "blocks": car(cid_of(commit), [commit, *nodes, *blocks]),
            "rebase": False,
            "tooBig": False,
            **({} if self.data is None else {"prevData": self.data}),
        }
        self.rev, self.data = rev, data
        return body

    def commit_object(self, rev: str, data: bytes, **fields: Any) -> dict[str, Any]:
        unsigned = {
            "did": self.did,
            "rev": rev,
            "data": data,
            "prev": None,
            "version": 3,
            **fields,
        }
        # One signature of a thousand looks like a CID to `libipld`, which would make it a link.
        while (sig := self.key.sign(block(unsigned)))[0] == 1:
            continue
        return {**unsigned, "sig": sig}

    def commit(self, seq: int, changes: dict[str, Any]) -> bytes:
        return frame("#commit", self.commit_body(seq, changes))

    def sync_body(self, seq: int, rev: str | None = None, data: bytes | None = None) -> Any:
        rev, data = rev or self.rev or tid(1), data or self.data or cid_of(b"\xa0")
        commit = block(self.commit_object(rev, data))
        return {
            "seq": seq,
            "time": TIME,
            "did": self.did,
            "rev": rev,
            "blocks": car(cid_of(commit), [commit]),
        }

    def account_body(self, seq: int, active: bool, status: str | None = None) -> dict[str, Any]:
        body = {"seq": seq, "time": TIME, "did": self.did, "active": active}
        return body if status is None else {**body, "status": status}


def foreign_commit(seq: int, did: str = BOB) -> bytes:
    """Return a commit that concerns nobody here: a post."""
    return Author(did).commit(seq, {"app.bsky.feed.post/3k": {"$type": "app.bsky.feed.post"}})


def identity_frame(seq: int, did: str = BOB) -> bytes:
    return frame("#identity", {"seq": seq, "time": TIME, "did": did, "handle": "bob.test"})


class Directory:
    """Says of every account that its key is the authors'."""

    def share(self, size: int) -> "Directory":
        return self

    def known(self, did: str) -> Identity:
        return Identity(did, Author.key.did_key, "https://pds.example", ())

    async def resolve(self, did: str, *, refresh: bool = False) -> Identity:
        return self.known(did)


def prover() -> Prover:
    return Prover(Directory(), COLLECTIONS.__contains__)
