"""A tombstone keeps who, why and when, whatever is laid on it later."""

import sqlite3
from dataclasses import replace
from typing import Any

import pytest

from indexer.store import tombstones
from indexer.store.db import Database
from indexer.store.tombstones import Tombstone
from tests.support.frames import ALICE, BOB, hash_of, tid
from tests.support.store_file import NOW, URI, db

__all__ = ["db"]  # fixtures


def stone(
    cause: tombstones.Cause = "deleted", cid: str = "c1", rev: str = "", **fields: Any
) -> Tombstone:
    values: dict[str, Any] = {
        "uri": URI,
        "cid": cid,
        "kind": "verification",
        "did": ALICE,
        "rev": rev or tid(1),
        "cause": cause,
        "actor": BOB if cause == "revoked" else None,
        "reason": None,
        "created_at": NOW,
        **fields,
    }
    return Tombstone(**values)


async def buried(db: Database) -> list[Tombstone]:
    return await tombstones.load(db, [URI])


async def bury(db: Database, *stones: Tombstone) -> Tombstone:
    async with db.transaction() as tx:
        await tombstones.save(tx, stones)
    (found,) = await buried(db)
    return found


async def test_the_first_revocations_who_why_and_when_stay(db: Database) -> None:
    first = stone("revoked", actor=ALICE, reason="spam", created_at=5)
    await bury(db, first)
    later = stone("revoked", rev=tid(9), actor=BOB, reason="no", created_at=9)
    found = await bury(db, later)
    assert (found.actor, found.reason, found.created_at, found.rev) == (ALICE, "spam", 5, tid(9))
    for cause in ("deleted", "replaced", "purged"):
        found = await bury(db, stone(cause, rev=tid(3)))
        assert (found.cause, found.actor, found.rev) == ("revoked", ALICE, tid(9))


async def test_a_deleted_record_can_be_revoked_afterwards(db: Database) -> None:
    token = {"space_uri": f"at://{ALICE}/rsvp.atmo.space/x", "token_hash": hash_of("x")}
    await bury(db, stone("deleted", rev=tid(5), created_at=5, **token))
    found = await bury(db, stone("revoked", rev=tid(2), reason="spam", created_at=9))
    assert found == stone("revoked", rev=tid(5), reason="spam", created_at=9, **token)


async def test_an_advance_reaches_every_version_and_never_goes_back(db: Database) -> None:
    async with db.transaction() as tx:
        await tombstones.save(tx, [stone(cid="c1", rev=tid(1)), stone(cid="c2", rev=tid(9))])
        await tombstones.advance(tx, [URI], tid(5))
        await tombstones.advance(tx, [URI], "")
    assert sorted(found.rev for found in await buried(db)) == [tid(5), tid(9)]


async def test_of_a_tokens_revocations_the_first_is_the_one_that_counts(db: Database) -> None:
    space = f"at://{ALICE}/rsvp.atmo.space/x"
    token = {"space_uri": space, "token_hash": hash_of("x"), "kind": "invite"}
    async with db.transaction() as tx:
        await tombstones.save(
            tx,
            [
                stone("revoked", cid="c1", created_at=9, **token),
                stone("revoked", cid="c2", created_at=5, **token),
                stone("deleted", cid="c3", created_at=1, **token),
            ],
        )
    found = await tombstones.revoked_tokens(db, [(space, hash_of("x")), (space, hash_of("y"))])
    assert [one.cid for one in found] == ["c2"]
    assert len(await tombstones.with_token(db, space, hash_of("x"))) == 3


@pytest.mark.parametrize("fields", [{"actor": None}, {"space_uri": "at://x"}, {"rev": None}])
async def test_a_tombstone_that_says_half_is_refused(db: Database, fields: Any) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await bury(db, replace(stone("revoked"), **fields))
