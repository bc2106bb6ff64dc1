"""How the PDSes of the network give out parts of a repo: each in its own way.

Source: their code as of 2026, and `@atproto/pds` as it was seen to answer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import libipld

from tests.support.frames import car, section
from tests.support.http_host import http
from tests.support.repo_parts import Parts

GET_RECORD = "com.atproto.sync.getRecord"
GET_BLOCKS = "com.atproto.sync.getBlocks"
CAR_TYPE = "Content-Type: application/vnd.ipld.car"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a PDS answers. An error is a status and the name of the error."""

    # getRecord of a path that is not there: the way to its place, the commit alone, or an error
    absent: Literal["way", "commit"] | tuple[int, str] = "way"
    # and of one that is there
    present: Literal["way"] | tuple[int, str] = "way"
    # getBlocks if a block is unknown
    unknown: Literal["left out", "empty"] | tuple[int, str] = (400, "InvalidRequest")
    # what getBlocks has at all
    has: Literal["all", "nodes", "nothing"] = "all"
    root: Literal["none", "head"] = "none"
    order: Literal["asked", "cid"] = "asked"
    commit_first: bool = False

    def record(self, parts: Parts, query: Mapping[str, list[str]]) -> bytes:
        path = f"{query['collection'][0]}/{query['rkey'][0]}"
        cids = parts.way(path)
        is_there = cids[-1] in parts.records.values()
        kind = self.present if is_there else self.absent
        if isinstance(kind, tuple):
            return error(*kind)
        if kind == "commit":
            cids = cids[:1]
        return http(car(parts.head, [parts.blocks[cid] for cid in cids]), "200 OK", CAR_TYPE)

    def part(self, parts: Parts, query: Mapping[str, list[str]]) -> bytes:
        if self.has == "nothing":
            return error(501, "MethodNotImplemented")
        asked = query["cids"]
        known = {libipld.encode_cid(cid): cid for cid in parts.blocks if self._has(parts, cid)}
        if isinstance(self.unknown, tuple) and not known.keys() >= set(asked):
            return error(*self.unknown)
        if self.order == "cid":
            asked = sorted(set(asked))
        roots = [parts.head] if self.root == "head" else []
        body = car(b"", [], {"version": 1, "roots": roots})
        if self.commit_first:
            body += section(parts.head, parts.blocks[parts.head])
        for text in asked:
            if text in known:
                body += section(known[text], parts.blocks[known[text]])
            elif self.unknown == "empty":
                body += section(b"\x01\x71\x12\x20" + bytes(32), b"")
        return http(body, "200 OK", CAR_TYPE)

    def _has(self, parts: Parts, cid: bytes) -> bool:
        return self.has == "all" or (cid != parts.head and cid not in parts.records.values())


def error(status: int, name: str) -> bytes:
    return http(json.dumps({"error": name, "message": "no"}).encode(), f"{status} No")


# Of this one it is known beforehand; by its values it is an indigo relay.
WHOLE_ONLY = Dialect((404, "Not Found"), (404, "Not Found"), has="nothing")
OFFICIAL = Dialect(order="cid")
DIALECTS = {
    "@atproto/pds": OFFICIAL,
    "rsky": Dialect(unknown=(500, "InternalServerError")),
    "millipds": Dialect(unknown="left out"),
    "cirrus": Dialect(unknown="left out", root="head"),
    "vlpds": Dialect(unknown=(400, "BlockNotFound")),
    "cocoon": Dialect((500, "InternalServerError"), unknown="empty", root="head"),
    "pegasus": Dialect("commit", unknown=(400, "BlockNotFound"), has="nodes", commit_first=True),
    "arroba": Dialect((400, "RecordNotFound"), unknown=(400, "BlockNotFound"), root="head"),
    "tranquil": Dialect((404, "RecordNotFound")),
    "indigo relay": Dialect((404, "Not Found"), (404, "Not Found"), has="nothing"),
}
