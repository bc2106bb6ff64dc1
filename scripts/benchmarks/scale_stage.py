"""What `scripts/bench scale` is played on: indexes of any size.

One space in twenty has hundreds of invites and the others a few; an issuer wrote ten verifications
or ten thousand. All of it follows from numbers, so calls are made without a look at the file.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

from indexer.records import binding_of
from indexer.store.migrations import SCHEMA_VERSION, schema
from scripts.benchmarks.repo_corpus import cached
from scripts.benchmarks.xrpc_stage import PDS, START, Owner, settings
from tests.support.frames import INVITE, VERIFICATION, cid_text, tid
from xrpc.publishing.pds import Tokens
from xrpc.publishing.sessions import Vault

EDITION = 4  # of what is made here: another one is made anew
FEW, MANY = 5, 200  # invites to a space
INVITED = (*(FEW,) * 19, MANY)  # to one space after the other, and again
ISSUED = (10, 30, 100, 300, 1_000, 3_000, 10_000)  # by one issuer after the other, and again
YEARS = 2 * 365 * 86_400_000  # ms, in which all of it was written
REVOKED = 10  # one record in so many is
GONE = 5  # and of so many there was one more, which its repo deleted
GARDEN = "garden"  # the key of each space
FRESH = START + 100 * YEARS  # Unix ms; so that no session ever needs to be refreshed

_ISSUERS, _OWNERS = 10**6, 2 * 10**6  # numbers of accounts; subjects are counted from 0
_REV = tid(10**6, START)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is in an index."""

    invites: int
    verifications: int
    subjects: int  # accounts that the verifications are of

    def invited(self) -> tuple[int, ...]:
        """Return how many invites each space has."""
        return _shares(self.invites, INVITED)

    def issued(self) -> tuple[int, ...]:
        """Return how many verifications each issuer wrote; none wrote more than a third of all."""
        return _shares(self.verifications, tuple(n for n in ISSUED if 3 * n <= self.verifications))

    def subject(self, issuer: int, number: int) -> Owner:
        return Owner((issuer * 31 + number) % self.subjects)


@cache
def _shares(total: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    shares: list[int] = []
    for size in cycle(sizes):
        if total <= 0:
            return tuple(shares)
        shares.append(min(size, total))
        total -= size
    raise AssertionError("nobody gets anything")


def owner_of(space: int) -> Owner:
    return Owner(_OWNERS + space)


def issuer(number: int) -> Owner:
    return Owner(_ISSUERS + number)


# --- the file ---


def make(cached_in: Path, size: Size, tell: Callable[[], None]) -> Path:
    """Return the index of this size, made if the cache lacks it: `tell` is called before that."""
    words = [EDITION, schema(), *asdict(size).values()]
    return cached(cached_in, words, lambda directory: _write(directory, size), tell) / "index.db"


def _write(directory: Path, size: Size) -> None:
    with closing(sqlite3.connect(directory / "index.db")) as db:
        # Nobody reads it before it is whole.
        db.executescript("pragma journal_mode = off; pragma synchronous = off;")
        db.execute("pragma cache_size = -1000000")
        db.executescript(schema())
        # Sorted once they are full, not row by row.
        indexes = db.execute(
            "select name, sql from sqlite_schema where type = 'index' and sql is not null"
        ).fetchall()
        for name, _ in indexes:
            db.execute(f"drop index {name}")
        _fill(db, size, Vault.open(settings(directory / "index.db")))
        for _, sql in indexes:
            db.execute(sql)
        db.commit()
        db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        db.execute("pragma journal_mode = wal")


def _fill(db: sqlite3.Connection, size: Size, vault: Vault) -> None:
    rng = Random("rescind scale")
    owners = [owner_of(space) for space in range(len(size.invited()))]
    issuers = [issuer(number) for number in range(len(size.issued()))]
    everybody = [(owner.did, vault.seal(Tokens(owner.did, None, "access", "refresh")))
                 for owner in issuers + owners]  # fmt: skip
    db.executemany(
        "insert into repos (did, rev, data, sync, whole_rev, stretch) "
        f"values (?, '{_REV}', '{cid_text(b'')}', 'synchronized', '{_REV}', '{_REV}')",
        [(did,) for did, _ in everybody],
    )
    db.executemany(
        "insert into sessions (did, pds, sealed, created_at, refreshed_at) "
        f"values (?, '{PDS}', ?, {START}, {FRESH})",
        everybody,
    )
    db.executemany(
        "insert into spaces (uri, did, cid, rev, name, created_at) values (?, ?, ?, ?, ?, ?)",
        [(o.space(GARDEN), o.did, cid_text(o.did.encode()), _REV, "A garden", START)
         for o in owners],
    )  # fmt: skip
    db.executemany(
        f"insert into invites values (?, ?, ?, '{_REV}', ?, ?, ?, 'join', 5, null, ?, ?)",
        _invites(size, rng),
    )
    db.executemany(
        f"insert into verifications values (?, ?, ?, '{_REV}', ?, ?, ?, ?, ?)",
        _verifications(size, rng),
    )
    db.create_function("binding_of", 1, binding_of, deterministic=True)
    db.execute(
        "insert into invite_tokens (space_uri, token_hash, did, binding, owned) "
        "select space_uri, token_hash, min(did), binding_of(space_uri), 1 from invites "
        "group by space_uri, token_hash"
    )
    for kind, table, token in (
        ("invite", "invites", "space_uri, token_hash"),
        ("verification", "verifications", "null, null"),
    ):
        db.execute(
            f"insert into tombstones select uri, cid, '{kind}', did, rev, 'revoked', did, "
            f"'an impostor', created_at + 86400000, {token} from {table} where revoked"
        )
        db.execute(
            f"insert into tombstones select uri || 'x', cid, '{kind}', did, rev, 'deleted', "
            f"null, null, created_at, null, null from {table} where created_at % {GONE} = 0"
        )
        db.execute(
            "insert into outbox (uri, did, collection, rkey, state, record_rev, commit_rev, "
            "due_at, created_at, updated_at) "
            "select uri, did, '', '', 'confirmed', rev, rev, created_at, created_at, created_at "
            f"from {table} where revoked"
        )
        db.execute(
            f"insert into audit (at, actor, action, subject) "
            f"select created_at, did, '{kind}.revoke', uri from {table} where revoked"
        )


def _invites(size: Size, rng: Random) -> Iterator[tuple[Any, ...]]:
    for space, share in enumerate(size.invited()):
        owner = owner_of(space)
        space_uri = owner.space(GARDEN)
        for number in range(share):
            uri = f"at://{owner.did}/{INVITE}/{number:05}"
            yield (
                uri, owner.did, cid_text(uri.encode()), is_revoked(number), space_uri,
                owner.token_hash(GARDEN, number), f"For the neighbours, number {number}",
                _moment(number, share, rng),
            )  # fmt: skip


def _verifications(size: Size, rng: Random) -> Iterator[tuple[Any, ...]]:
    for wrote, share in enumerate(size.issued()):
        did = issuer(wrote).did
        for number in range(share):
            uri, subject = verification(wrote, number), size.subject(wrote, number)
            yield (
                uri, did, cid_text(uri.encode()), is_revoked(number), subject.did,
                f"subject-{subject.number}.test", f"Subject {subject.number}",
                _moment(number, share, rng),
            )  # fmt: skip


def _moment(number: int, share: int, rng: Random) -> int:
    """Return when one of so many was written, in Unix ms: later than those before, as its key."""
    return START + int((number + rng.random()) * YEARS / share)


def verification(wrote: int, number: int) -> str:
    return f"at://{issuer(wrote).did}/{VERIFICATION}/{number:05}"


def is_revoked(number: int) -> bool:
    return number % REVOKED == REVOKED - 1
