"""A real index in a file, and what is done to it: by the stream, by callers, by the publisher."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest

from indexer.lexicon.syntax import parse_at_uri
from indexer.rules.projection import Change, Projection
from indexer.store import invite_tokens, members, outbox, spaces, tombstones
from indexer.store.db import Database
from indexer.store.members import Member
from indexer.stream.events import Account, Action, Rejected, VerifiedCommit, VerifiedSync, Write
from tests.support.frames import ALICE, NOW, SCOPE, TIME, block, cid_text, hash_of, tid
from xrpc.methods.invites import lay_tombstones as revoke_token
from xrpc.methods.verifications import _lay_tombstones as revoke_records
from xrpc.methods.verifications import _Seen
from xrpc.publishing.pds import Target

RELAY = "relay.test"
TABLES = ["repos", "spaces", "invites", "untrusted_invites", "verifications"]
TABLES += ["tombstones", "members", "outbox", "audit", "sessions"]
Row = dict[str, Any]


class Repo:
    """One repo's history as proven commits: each follows the one before."""

    def __init__(
        self,
        did: str = ALICE,
        seqs: Iterator[int] | None = None,
        times: Iterator[str] | None = None,
    ) -> None:
        self.did = did
        self.rev: str | None = None
        self.data: str | None = None
        self.cids: dict[str, str] = {}
        self._seqs = seqs or count(1)
        self._times = times or repeat(TIME)
        self._numbers = count(1)

    def uri(self, path: str) -> str:
        return f"at://{self.did}/{path}"

    def commit(self, changes: dict[str, Any], **fields: Any) -> VerifiedCommit:
        """Set these paths to records, or delete them (None); a record in bytes can't be read."""
        rev = tid(next(self._numbers))
        writes = []
        for path, record in changes.items():
            collection, _, rkey = path.partition("/")
            old = self.cids.pop(path, None)
            if record is None:
                writes.append(Write("delete", collection, rkey, None, old, None))
                continue
            data = record if isinstance(record, bytes) else block(record)
            cid = self.cids[path] = cid_text(data)
            action: Action = "create" if old is None else "update"
            writes.append(Write(action, collection, rkey, cid, old, data))
        data_ = cid_text(rev.encode())
        commit: dict[str, Any] = {
            "seq": next(self._seqs),
            "time": next(self._times),
            "did": self.did,
            "rev": rev,
            "since": self.rev,
            "prev_data": self.data,
            "data": data_,
            "writes": tuple(writes),
            **fields,
        }
        self.rev, self.data = commit["rev"], commit["data"]
        return VerifiedCommit(**commit)

    def account(self, active: bool, status: str | None = None, **fields: Any) -> Account:
        values: dict[str, Any] = {
            "seq": next(self._seqs),
            "time": next(self._times),
            **fields,
        }
        return Account(did=self.did, active=active, status=status, **values)

    def sync(self, data: str | None = None, rev: str | None = None) -> VerifiedSync:
        """Say that the repo stands at a rev with this root: by default where it really stands."""
        return VerifiedSync(
            next(self._seqs), self.did, rev or self.rev or "", data or self.data or ""
        )

    def rejected(self, rev: str | None) -> Rejected:
        return Rejected(next(self._seqs), next(self._times), "bad_block", self.did, rev)

    def later(self) -> str:
        """Return a rev after all that were given, and take it: the PDS's, which nobody saw yet."""
        return tid(next(self._numbers))


class Index:
    """The database with one relay's projection; the clock stands still."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.now = NOW
        self.projection = Projection(SCOPE, RELAY)

    async def apply(self, *changes: Change) -> list[str]:
        """Apply one batch."""
        async with self.db.transaction() as tx:
            return list(await self.projection.apply(tx, changes, self.now))

    async def apply_each(self, *changes: Change) -> None:
        """Apply each in a batch of its own."""
        for change in changes:
            await self.apply(change)

    async def replay(self, *changes: Change, relay: str = RELAY) -> None:
        """Apply each in a batch of its own, as one replay does."""
        played = Projection(SCOPE, relay, is_replay=True)
        for change in changes:
            async with self.db.transaction() as tx:
                await played.apply(tx, [change], self.now)

    async def create_invite(self, space_uri: str, uri: str, token: str = "token") -> None:
        """Do what a caller's creation of an invite does before its record is written."""
        async with self.db.transaction() as tx:
            await invite_tokens.note_created(tx, space_uri, hash_of(token), uri)

    async def revoke_token(self, space_uri: str, token: str = "token", actor: str = ALICE) -> bool:
        async with self.db.transaction() as tx:
            return await revoke_token(tx, space_uri, hash_of(token), actor, self.now)

    async def revoke(
        self, uri: str, actor: str = ALICE, reason: str | None = None, seen: _Seen | None = None
    ) -> None:
        """Revoke a verification; `seen` is what its repo has, if the index was not enough."""
        parts = parse_at_uri(uri)
        target = Target(uri, parts.authority, parts.collection or "", parts.rkey or "")
        async with self.db.transaction() as tx:
            found = {} if seen is None else {uri: seen}
            await revoke_records(tx, [target], found, actor, reason, self.now)

    async def join(self, space_uri: str, did: str) -> None:
        """Let somebody into a space, if it is there."""
        async with self.db.transaction() as tx:
            space = await spaces.live(tx, space_uri)
            if space is not None:
                member = Member(space_uri, did, space.rev, hash_of("token"), ALICE, self.now)
                await members.add(tx, member)

    async def acknowledge(self, uri: str, rev: str) -> None:
        """Do what the publisher does when the PDS has deleted a record at `rev`."""
        async with self.db.transaction() as tx:
            await outbox.mark_sent(tx, [uri], rev, now=self.now, check_at=self.now)
            await tombstones.advance(tx, [uri], rev)

    async def block(self, did: str) -> None:
        async with self.db.transaction() as tx:
            await outbox.block_repo(tx, did, "no session", self.now)

    async def drop(self, uri: str) -> None:
        async with self.db.transaction() as tx:
            await outbox.drop(tx, uri, "given up", self.now)

    async def rows(self, table: str, **where: Any) -> list[Row]:
        wanted = " and ".join(f"{name} = :{name}" for name in where) or "1"
        return [
            dict(row) for row in await self.db.all(f"select * from {table} where {wanted}", where)
        ]

    async def row(self, table: str, uri: str) -> Row | None:
        return next(iter(await self.rows(table, uri=uri)), None)

    async def repo(self, did: str = ALICE) -> Row:
        (row,) = await self.rows("repos", did=did)
        return row

    async def is_live(self, table: str, uri: str) -> bool:
        row = await self.row(table, uri)
        return row is not None and row["revoked"] == 0

    async def stones(self, uri: str) -> dict[str, Row]:
        """Return the tombstones of a URI by CID."""
        return {row["cid"]: row for row in await self.rows("tombstones", uri=uri)}

    async def deletion(self, uri: str) -> Row | None:
        return await self.row("outbox", uri)

    async def dump(self, *but: str) -> dict[str, list[tuple[Any, ...]]]:
        """Return all that the index holds, without ids and these columns."""
        index = {}
        for table in TABLES:
            rows = await self.rows(table)
            kept = [{k: v for k, v in row.items() if k not in ("id", *but)} for row in rows]
            index[table] = sorted((tuple(row.items()) for row in kept), key=repr)
        return index


@asynccontextmanager
async def opened(directory: Path, name: str = "index.db") -> AsyncIterator[Index]:
    async with await Database.open(directory / name) as db:
        yield Index(db)


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    async with opened(tmp_path) as index:
        yield index


@pytest.fixture
def repo() -> Repo:
    return Repo()
