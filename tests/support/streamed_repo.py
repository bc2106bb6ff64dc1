"""A repo with all its records: what its host streams of it, and a copy of the whole."""

from collections.abc import Iterator
from typing import Any

import libipld
import pytest

from indexer.proof.repo import Contents
from indexer.proof.verify import verify_commit
from indexer.stream.decode import decode
from indexer.stream.events import Commit, VerifiedCommit
from tests.support.account_keys import Key
from tests.support.frames import ALICE, COLLECTIONS, NOW, Author, block, car, cid_of, frame, tree


class Owner(Author):
    """An author whose records are kept, so that the repo can be asked for whole."""

    def __init__(self, did: str = ALICE, key: Key | None = None) -> None:
        super().__init__(did)
        self.key = key or Author.key
        self.blocks: dict[bytes, bytes] = {}  # records by CID, also those of the past
        self._seq = 0

    def commit_body(self, seq: int, changes: dict[str, Any]) -> dict[str, Any]:
        for record in changes.values():
            if record is not None:
                data = record if isinstance(record, bytes) else block(record)
                self.blocks[cid_of(data)] = data
        return super().commit_body(seq, changes)

    def said(self, changes: dict[str, Any]) -> Commit:
        """Commit; return what comes from the stream, which is not proven yet."""
        self._seq += 1
        event = decode(frame("#commit", self.commit_body(self._seq, changes)), (), {self.did})
        assert isinstance(event, Commit)
        return event

    def wrote(self, changes: dict[str, Any]) -> VerifiedCommit:
        """Commit; return the proven commit."""
        event = self.said(changes)
        change = verify_commit(event, COLLECTIONS.__contains__, self.key.did_key, NOW)
        assert isinstance(change, VerifiedCommit)
        return change

    def fill(self, records: dict[str, Any]) -> None:
        """Commit, unseen, more than a frame may hold."""
        self.commit_body(0, records)

    def copy(self) -> Contents:
        """Return what a proven copy of the repo, taken now, holds of ours."""
        assert self.rev
        assert self.data
        records = {
            path: (libipld.encode_cid(cid), self.blocks[cid])
            for path, cid in self.records.items()
            if path.partition("/")[0] in COLLECTIONS
        }
        return Contents(self.did, self.rev, libipld.encode_cid(self.data), records)

    def car(self, rev: str | None = None) -> bytes:
        """Return the repo as `getRepo` gives it, by default at its own rev."""
        assert self.rev
        assert self.data
        commit = block(self.commit_object(rev or self.rev, self.data))
        return car(cid_of(commit), [commit, *self._below()])

    def _below(self) -> Iterator[bytes]:
        yield from tree(self.records)
        yield from (self.blocks[cid] for cid in self.records.values())


@pytest.fixture
def owner() -> Owner:
    return Owner()
