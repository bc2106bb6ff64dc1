"""The invites, and apart from them those of strangers, which never count."""

from collections.abc import Iterable

from indexer.records import Invite, Row
from indexer.store.db import Reader, Transaction, json_list


async def load(db: Reader, uris: Iterable[str]) -> list[Row]:
    rows = await db.all(
        """
        select uri, did, cid, rev, revoked, space_uri, token_hash, kind, max_uses, expires_at,
               note, created_at
        from invites where uri in (select value from json_each(:uris))
        """,
        {"uris": json_list(uris)},
    )
    return [
        Row(r["uri"], r["did"], r["cid"], r["rev"], bool(r["revoked"]), Invite(*r[5:]))
        for r in rows
    ]


async def save(tx: Transaction, rows: Iterable[tuple[Row, Invite]]) -> None:
    await tx.execute_many(
        """
        insert into invites (uri, did, cid, rev, revoked, space_uri, token_hash, kind, max_uses,
                             expires_at, note, created_at)
        values (:uri, :did, :cid, :rev, :revoked, :space_uri, :token_hash, :kind, :max_uses,
                :expires_at, :note, :created_at)
        on conflict (uri) do update set
            cid = excluded.cid, rev = excluded.rev, revoked = excluded.revoked,
            space_uri = excluded.space_uri, token_hash = excluded.token_hash,
            kind = excluded.kind, max_uses = excluded.max_uses, expires_at = excluded.expires_at,
            note = excluded.note, created_at = excluded.created_at
        """,
        [
            {
                "uri": row.uri,
                "did": row.did,
                "cid": row.cid,
                "rev": row.rev,
                "revoked": row.revoked,
                "space_uri": invite.space_uri,
                "token_hash": invite.token_hash,
                "kind": invite.kind,
                "max_uses": invite.max_uses,
                "expires_at": invite.expires_at,
                "note": invite.note,
                "created_at": invite.created_at,
            }
            for row, invite in rows
        ],
    )


async def delete(tx: Transaction, uris: Iterable[str]) -> None:
    await tx.execute_many("delete from invites where uri = :uri", [{"uri": uri} for uri in uris])


async def with_token(db: Reader, space_uri: str, token_hash: str) -> list[Row]:
    """Return the invites of this token, revoked or not."""
    rows = await db.all(
        "select uri from invites where space_uri = :space_uri and token_hash = :token_hash",
        {"space_uri": space_uri, "token_hash": token_hash},
    )
    return await load(db, [row["uri"] for row in rows])


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
        from untrusted_invites where uri in (select value from json_each(:uris))
        """,
        {"uris": json_list(uris)},
    )
    return [
        Row(
            r["uri"],
            r["did"],
            r["cid"],
            r["rev"],
            revoked=False,
            fields=Invite(r["space_uri"], r["token_hash"], "join", None, None, None, 0),
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
