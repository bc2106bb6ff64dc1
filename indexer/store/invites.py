"""The invites, and apart from them those of strangers, which never count."""

from collections.abc import Iterable
from typing import NamedTuple

from indexer.records import Invite, Row
from indexer.store import living
from indexer.store.db import Params, Reader, Transaction, json_list
from indexer.store.db import Row as DbRow

MAX_COPIES = 1_000
MAX_CONSIDERED = 10_000

_COLUMNS = """
    invites.uri, invites.did, invites.cid, invites.rev, invites.revoked, invites.space_uri,
    invites.token_hash, kind, max_uses, expires_at, note, invites.created_at
"""


async def load(db: Reader, uris: Iterable[str]) -> list[Row]:
    rows = await db.all(
        f"select {_COLUMNS} from json_each(:uris) cross join invites on uri = value",  # noqa: S608
        {"uris": json_list(uris)},
    )
    return [_row(row) for row in rows]


async def save(tx: Transaction, rows: Iterable[tuple[Row, Invite]]) -> None:
    await tx.execute_many(
        """
        insert into invites (uri, did, cid, rev, revoked, space_uri, token_hash, kind, max_uses,
                             expires_at, note, created_at)
        values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        on conflict (uri) do update set
            cid = excluded.cid, rev = excluded.rev, revoked = excluded.revoked,
            space_uri = excluded.space_uri, token_hash = excluded.token_hash,
            kind = excluded.kind, max_uses = excluded.max_uses, expires_at = excluded.expires_at,
            note = excluded.note, created_at = excluded.created_at
        """,
        [(*row[:5], *invite) for row, invite in rows],
    )


async def delete(tx: Transaction, uris: Iterable[str]) -> None:
    await tx.execute_many("delete from invites where uri = :uri", [{"uri": uri} for uri in uris])


async def mark_revoked(tx: Transaction, uris: Iterable[str]) -> None:
    """Keep these invites to tell what was revoked; they grant nothing any more."""
    await tx.execute_many(
        "update invites set revoked = 1 where uri = :uri", [{"uri": uri} for uri in uris]
    )


async def with_token(db: Reader, space_uri: str, token_hash: str) -> list[Row]:
    """Return the invites of this token, revoked or not."""
    rows = await db.all(
        f"""
        select {_COLUMNS} from invites
        where space_uri = :space_uri and token_hash = :token_hash
        """,  # noqa: S608
        {"space_uri": space_uri, "token_hash": token_hash},
    )
    return [_row(row) for row in rows]


class Issued(NamedTuple):
    """An invite with what is known of its token."""

    uri: str
    did: str  # who wrote it
    rev: str
    invite: Invite
    used_count: int
    revoked_at: int | None = None  # Unix ms; None while it is not revoked


async def living_with_token(
    db: Reader, token_hash: str, owner: str, space_uri: str | None = None
) -> list[Issued]:
    """Return an owner's live invites of this token to live spaces, or to this one of them.

    Only `MAX_COPIES` are looked at: an owner can put a hash into any number of records.
    """
    rows = await db.all(
        f"""
        select {_COLUMNS}, coalesce(used_count, 0), null
        from (
            select * from invites
            where token_hash = :token_hash and space_uri >= :first and space_uri < :before
            limit :considered
        ) as invites
        join spaces on spaces.uri = invites.space_uri join repos on repos.did = spaces.did
        left join invite_tokens on invite_tokens.token_hash = invites.token_hash
            and invite_tokens.space_uri = invites.space_uri
        where {living.INVITE} and {living.SPACE}
        """,  # noqa: S608
        _copies(token_hash, owner, space_uri),
    )
    return [_issued(row) for row in rows]


async def was_revoked(
    db: Reader, token_hash: str, owner: str, space_uri: str | None = None
) -> bool:
    """Whether an owner's invite of this token was revoked, in whatever space of theirs, or this."""
    row = await db.one(
        """
        select 1 from (
            select revoked from invites
            where token_hash = :token_hash and space_uri >= :first and space_uri < :before
            limit :considered
        ) where revoked = 1 limit 1
        """,
        _copies(token_hash, owner, space_uri),
    )
    return row is not None


def _copies(token_hash: str, owner: str, space_uri: str | None) -> Params:
    if space_uri is None:
        first, before = living.under(f"at://{owner}")
    else:
        first, before = (
            space_uri,
            f"{space_uri}!",
        )  # which sorts before all that a URI may go on with
    return {
        "token_hash": token_hash,
        "first": first,
        "before": before,
        "considered": MAX_COPIES,
    }


async def of_space(db: Reader, space_uri: str, *, revoked: bool, limit: int) -> list[Issued]:
    """Return the live invites to a space, and the revoked ones if wanted, the newest first.

    Only the `MAX_CONSIDERED` newest records are looked at: an owner can write any number of them.
    """
    rows = await db.all(
        f"""
        select {_COLUMNS}, coalesce(used_count, 0),
            case when invites.revoked = 1 then
                (select min(created_at) from tombstones
                 where tombstones.space_uri = invites.space_uri
                     and tombstones.token_hash = invites.token_hash and cause = 'revoked')
            end
        from (
            select * from invites where space_uri = :space_uri
            order by created_at desc, uri desc limit :considered
        ) as invites
        left join invite_tokens on invite_tokens.token_hash = invites.token_hash
            and invite_tokens.space_uri = invites.space_uri
        where (:revoked and invites.revoked = 1) or ({living.INVITE})
        limit :limit
        """,  # noqa: S608
        {
            "space_uri": space_uri,
            "revoked": revoked,
            "considered": MAX_CONSIDERED,
            "limit": limit,
        },
    )
    return [_issued(row) for row in rows]


async def count_live(db: Reader) -> int:
    row = await db.one(
        """
        select count(*) as count from invites join repos using (did)
        where invites.revoked = 0 and repos.hosting = 'active'
        """
    )
    return row["count"] if row else 0


async def load_untrusted(db: Reader, uris: Iterable[str]) -> list[Row]:
    rows = await db.all(
        """
        select uri, did, cid, rev, space_uri, token_hash
        from json_each(:uris) cross join untrusted_invites on uri = value
        """,
        {"uris": json_list(uris)},
    )
    return [
        Row(
            uri=r["uri"],
            did=r["did"],
            cid=r["cid"],
            rev=r["rev"],
            revoked=False,
            fields=Invite(
                space_uri=r["space_uri"],
                token_hash=r["token_hash"],
                kind="join",
                max_uses=None,
                expires_at=None,
                note=None,
                created_at=0,
            ),
            trusted=False,
        )
        for r in rows
    ]


async def save_untrusted(tx: Transaction, rows: Iterable[tuple[Row, Invite]]) -> None:
    await tx.execute_many(
        """
        insert into untrusted_invites (uri, did, cid, rev, space_uri, token_hash)
        values (:uri, :did, :cid, :rev, :space_uri, :token_hash)
        on conflict (uri) do update set
            cid = excluded.cid, rev = excluded.rev, space_uri = excluded.space_uri,
            token_hash = excluded.token_hash
        """,
        [
            {
                "uri": row.uri,
                "did": row.did,
                "cid": row.cid,
                "rev": row.rev,
                "space_uri": invite.space_uri,
                "token_hash": invite.token_hash,
            }
            for row, invite in rows
        ],
    )


async def delete_untrusted(tx: Transaction, uris: Iterable[str]) -> None:
    await tx.execute_many(
        "delete from untrusted_invites where uri = :uri", [{"uri": uri} for uri in uris]
    )


def _row(row: DbRow) -> Row:
    fields = _invite(row)
    return Row(row["uri"], row["did"], row["cid"], row["rev"], bool(row["revoked"]), fields)


def _issued(row: DbRow) -> Issued:
    uri, did, _, rev, _, *_ = row
    return Issued(uri, did, rev, _invite(row), *row[12:])


def _invite(row: DbRow) -> Invite:
    return Invite(*row[5:12])
