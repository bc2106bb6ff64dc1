"""The verifications."""

from collections.abc import Iterable

from indexer.records import Row, Verification
from indexer.store.db import Reader, Transaction, json_list


async def load(db: Reader, uris: Iterable[str]) -> list[Row]:
    rows = await db.all(
        """
        select uri, did, cid, rev, revoked, subject, handle, display_name, created_at
        from verifications where uri in (select value from json_each(:uris))
        """,
        {"uris": json_list(uris)},
    )
    return [
        Row(r["uri"], r["did"], r["cid"], r["rev"], bool(r["revoked"]), Verification(*r[5:]))
        for r in rows
    ]


async def save(tx: Transaction, rows: Iterable[tuple[Row, Verification]]) -> None:
    await tx.execute_many(
        """
        insert into verifications (uri, did, cid, rev, revoked, subject, handle, display_name,
                                   created_at)
        values (:uri, :did, :cid, :rev, :revoked, :subject, :handle, :display_name, :created_at)
        on conflict (uri) do update set
            cid = excluded.cid, rev = excluded.rev, revoked = excluded.revoked,
            subject = excluded.subject, handle = excluded.handle,
            display_name = excluded.display_name, created_at = excluded.created_at
        """,
        [
            {
                "uri": row.uri,
                "did": row.did,
                "cid": row.cid,
                "rev": row.rev,
                "revoked": row.revoked,
                "subject": verification.subject,
                "handle": verification.handle,
                "display_name": verification.display_name,
                "created_at": verification.created_at,
            }
            for row, verification in rows
        ],
    )


async def delete(tx: Transaction, uris: Iterable[str]) -> None:
    await tx.execute_many(
        "delete from verifications where uri = :uri", [{"uri": uri} for uri in uris]
    )


async def count_live(db: Reader) -> int:
    row = await db.one(
        """
        select count(*) as count from verifications join repos using (did)
        where verifications.revoked = 0 and repos.hosting = 'active'
        """
    )
    return row["count"] if row else 0
