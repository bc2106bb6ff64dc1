"""The durable marks of what is gone."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from indexer.records import Kind
from indexer.store.db import Reader, Transaction, json_list

Cause = Literal["revoked", "deleted", "replaced", "purged"]

_COLUMNS = """
    uri, cid, kind, did, rev, cause, actor, reason, created_at, space_uri, token_hash
"""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A version of a record that is gone. The fields are explained in `schema.sql`."""

    uri: str
    cid: str
    kind: Kind
    did: str
    rev: str
    cause: Cause
    actor: str | None
    reason: str | None
    created_at: int  # Unix ms
    space_uri: str | None = None
    token_hash: str | None = None


def is_revoked(stone: Tombstone | None) -> bool:
    """Whether somebody asked us to revoke this version."""
    return stone is not None and stone.cause == "revoked"


async def load(db: Reader, uris: Iterable[str]) -> list[Tombstone]:
    """Return every tombstone of these URIs."""
    rows = await db.all(
        f"select {_COLUMNS} from json_each(:uris) cross join tombstones on uri = value",  # noqa: S608
        {"uris": json_list(uris)},
    )
    return [Tombstone(*row) for row in rows]


async def revoked_tokens(db: Reader, tokens: Iterable[tuple[str, str]]) -> list[Tombstone]:
    """Return the first revocation of each of these (space URI, token hash) that was revoked."""
    rows = await db.all(
        f"""
        select {_COLUMNS} from json_each(:tokens) as asked
        join tombstones on (uri, cid) = (
            select uri, cid from tombstones
            where space_uri = asked.value ->> 0 and token_hash = asked.value ->> 1
                and cause = 'revoked'
            order by created_at, uri, cid limit 1
        )
        """,  # noqa: S608
        {"tokens": json.dumps(list(tokens))},
    )
    return [Tombstone(*row) for row in rows]


async def is_token_revoked(db: Reader, space_uri: str, token_hash: str) -> bool:
    row = await db.one(
        """
        select 1 from tombstones
        where space_uri = :space_uri and token_hash = :token_hash and cause = 'revoked' limit 1
        """,
        {"space_uri": space_uri, "token_hash": token_hash},
    )
    return row is not None


async def with_token(db: Reader, space_uri: str, token_hash: str) -> list[Tombstone]:
    """Return every tombstone that carries this invite token."""
    rows = await db.all(
        f"select {_COLUMNS} from tombstones "  # noqa: S608
        "where space_uri = :space_uri and token_hash = :token_hash",
        {"space_uri": space_uri, "token_hash": token_hash},
    )
    return [Tombstone(*row) for row in rows]


async def save(tx: Transaction, tombstones: Iterable[Tombstone]) -> None:
    """Lay tombstones, or add to those that lie there.

    A revision only grows, and a cause only turns into 'revoked', with its who, why and when:
    what was revoked first stays as it was.
    """
    await tx.execute_many(
        f"""
        insert into tombstones ({_COLUMNS})
        values (:uri, :cid, :kind, :did, :rev, :cause, :actor, :reason, :created_at,
                :space_uri, :token_hash)
        on conflict (uri, cid) do update set
            rev = max(rev, excluded.rev),
            actor = case when cause = 'revoked' then actor else excluded.actor end,
            reason = case when cause = 'revoked' then reason else excluded.reason end,
            created_at = case when cause <> 'revoked' and excluded.cause = 'revoked'
                              then excluded.created_at else created_at end,
            cause = case when cause = 'revoked' then cause else excluded.cause end,
            space_uri = coalesce(space_uri, excluded.space_uri),
            token_hash = coalesce(token_hash, excluded.token_hash)
        """,  # noqa: S608
        [_params(tombstone) for tombstone in tombstones],
    )


async def date_back(tx: Transaction, tombstones: Iterable[Tombstone]) -> None:
    """Give revocations the who, why and when of these where they are the earlier ones."""
    await tx.execute_many(
        """
        update tombstones set actor = :actor, reason = :reason, created_at = :created_at
        where uri = :uri and cid = :cid and cause = 'revoked' and created_at > :created_at
        """,
        [_params(tombstone) for tombstone in tombstones],
    )


def _params(tombstone: Tombstone) -> dict[str, Any]:
    # `asdict` would copy each value too, in ten times the time.
    return {field.name: getattr(tombstone, field.name) for field in fields(tombstone)}


async def advance(tx: Transaction, uris: Iterable[str], rev: str) -> None:
    """Let nothing of these URIs live up to `rev`, at which a deletion was committed."""
    await tx.execute_many(
        "update tombstones set rev = max(rev, :rev) where uri = :uri",
        [{"uri": uri, "rev": rev} for uri in uris],
    )


async def purge_repo(tx: Transaction, did: str, now: int) -> None:
    """Remove what a deleted account wrote; what is left says only that it was there."""
    # A space that was made again as it had been ended before that, and its older invites with it:
    # that is not to be forgotten if the account comes back.
    await tx.execute(
        f"""
        insert into tombstones ({_COLUMNS})
        select uri, '', kind, did, tombstones.rev, cause, null, null, tombstones.created_at,
               null, null
        from spaces join tombstones using (uri, cid, did)
        where did = :did and cause in ('deleted', 'replaced')
        on conflict (uri, cid) do update set rev = max(rev, excluded.rev)
        """,  # noqa: S608
        {"did": did},
    )
    for table, kind, space_uri, token_hash in (
        ("spaces", "space", "null", "null"),
        ("invites", "invite", "space_uri", "token_hash"),
        ("verifications", "verification", "null", "null"),
        # These too, or they would come back when the stream is played again.
        ("untrusted_invites", "invite", "null", "null"),
    ):
        await tx.execute(
            f"""
            insert into tombstones ({_COLUMNS})
            select uri, cid, '{kind}', did, rev, 'purged', null, null, :now,
                   {space_uri}, {token_hash}
            from {table} where did = :did
            on conflict (uri, cid) do update set
                rev = max(rev, excluded.rev),
                cause = case when cause = 'revoked' then cause else excluded.cause end,
                space_uri = coalesce(space_uri, excluded.space_uri),
                token_hash = coalesce(token_hash, excluded.token_hash)
            """,  # noqa: S608
            {"did": did, "now": now},
        )
        await tx.execute(f"delete from {table} where did = :did", {"did": did})  # noqa: S608


async def forget_reasons(tx: Transaction, did: str) -> int:
    """Remove why what an account wrote, or what was said of it, was revoked; return of how many."""
    return await tx.execute(
        """
        update tombstones set reason = null
        where reason is not null and (
            (uri > 'at://' || :did || '/' and uri < 'at://' || :did || '0')
            or uri in (select uri from verifications where subject = :did)
        )
        """,
        {"did": did},
    )


async def count_by_kind(db: Reader) -> dict[str, int]:
    rows = await db.all("select kind, count(*) as count from tombstones group by kind")
    return {row["kind"]: row["count"] for row in rows}
