"""What an index says of a repo, next to what the repo holds: to check it, and change nothing.

The rules are those by which a copy is applied. What was revoked is expected to be gone here before
it is gone there.
"""

from dataclasses import dataclass
from typing import Literal

from indexer.proof.repo import Contents
from indexer.records import InvalidRecord, Scope
from indexer.store import invites, outbox, records, spaces, tombstones, verifications
from indexer.store.db import Reader

CHUNK = 500  # records that are looked up at once


@dataclass(frozen=True, slots=True)
class Difference:
    """One record of which index and repo say different things."""

    uri: str
    kind: Literal["missing", "surplus", "other"]
    here: str | None  # the CIDs
    there: str | None

    def __str__(self) -> str:
        match self.kind:
            case "missing":
                return f"{self.uri} is in the repo ({self.there}) and not in the index"
            case "surplus":
                return f"{self.uri} is in the index ({self.here}) and not in the repo"
        return f"{self.uri} is {self.here} in the index and {self.there} in the repo"


async def differences(db: Reader, scope: Scope, contents: Contents) -> list[Difference]:
    """Return what the index says otherwise than the repo, in the order of the URIs."""
    did = contents.did
    copied = {f"at://{did}/{path}": found for path, found in contents.records.items()}
    here = {u for u in await records.uris_of_repo(db, did) if _collection(u) in scope.collections}
    uris = sorted(copied.keys() | here)
    found = []
    for first in range(0, len(uris), CHUNK):
        found += await _of(db, scope, contents.rev, uris[first : first + CHUNK], copied)
    return found


async def _of(
    db: Reader, scope: Scope, rev: str, uris: list[str], copied: dict[str, tuple[str, bytes]]
) -> list[Difference]:
    rows = {
        row.uri: row
        for table in (spaces.load, invites.load, invites.load_untrusted, verifications.load)
        for row in await table(db, uris)
    }
    under_way = {
        uri
        for uri, deletion in (await outbox.load(db, uris)).items()
        if deletion.state in outbox.UNDONE
    }
    # A version that was revoked, and whatever was buried at a later revision than the copy's.
    buried = {
        (stone.uri, stone.cid)
        for stone in await tombstones.load(db, uris)
        if tombstones.is_revoked(stone) or stone.rev > rev
    }
    found = []
    for uri in uris:
        row, (there, block) = rows.get(uri), copied.get(uri, (None, b""))
        if uri in under_way or (row is not None and row.revoked):
            continue
        if row is not None and there is None:
            found.append(Difference(uri, "surplus", row.cid, None))
        elif there is not None and (row is None or row.cid != there):
            if (uri, there) in buried:
                continue
            is_valid = _is_valid(scope, uri, block)
            if row is None and is_valid:
                found.append(Difference(uri, "missing", None, there))
            elif row is not None:
                found.append(Difference(uri, "other", row.cid, there))
    return found


def _is_valid(scope: Scope, uri: str, block: bytes) -> bool:
    """Whether a record fits its lexicon: else it is not indexed."""
    try:
        scope.read(_collection(uri), block)
    except InvalidRecord:
        return False
    return True


def _collection(uri: str) -> str:
    return uri.split("/")[3]
