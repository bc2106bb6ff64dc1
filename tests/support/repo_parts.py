"""A repo's blocks, and the parts of it that hosts give out: the way to a key, and single blocks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import libipld

from tests.support.frames import Author, block, cid_of, tree


@dataclass(frozen=True, slots=True)
class Parts:
    """One commit and all below it, by CID."""

    did: str
    key: str  # did:key
    rev: str
    head: bytes
    data: bytes
    records: dict[str, bytes]  # CIDs by path
    blocks: dict[bytes, bytes]

    def way(self, path: str) -> list[bytes]:
        """Return the CIDs of the commit, the nodes on the way to a path, and its record if any."""
        return [self.head, *way(self.data, path.encode(), self.blocks)]


def parts_of(author: Author, records: Iterable[bytes]) -> Parts:
    """Return an author's repo as it stands; `records` are blocks."""
    assert author.rev
    assert author.data
    commit = block(author.commit_object(author.rev, author.data))
    found = [commit, *tree(author.records), *records]
    blocks = {cid_of(each): each for each in found}
    return Parts(
        author.did, author.key.did_key, author.rev, cid_of(commit), author.data,
        dict(author.records), blocks,
    )  # fmt: skip


def repo_of(author: Author, records: Mapping[str, Any]) -> Parts:
    """Write records, which paths name, as one commit; return the repo."""
    made = {path: block(record) for path, record in records.items()}
    author.commit_body(1, made)
    return parts_of(author, made.values())


def way(root: bytes, key: bytes, blocks: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the CIDs of the nodes down to a key's place, and of its record if it is there."""
    found = []
    cid: bytes | None = root
    while cid is not None:
        found.append(cid)
        node: dict[str, Any] = libipld.decode_dag_cbor(blocks[cid])
        cid, last = node["l"], b""
        for entry in node["e"]:
            last = last[: entry["p"]] + entry["k"]
            if last == key:
                return [*found, entry["v"]]
            if last > key:
                break
            cid = entry["t"]
    return found
