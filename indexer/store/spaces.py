"""The spaces."""

from collections.abc import Iterable

from indexer.records import Row, Space
from indexer.store.db import Reader, Transaction, json_list


async def load(db: Reader, uris: Iterable[str]) -> list[Row]:
    rows = await db.all(
        """
        select uri, did, cid, rev, revoked, name, description, created_at
        from spaces where uri in (select value from json_each(:uris))
        """,
        {"uris": json_list(uris)},
    )
    return [
        Row(r["uri"], r["did"], r["cid"], r["rev"], bool(r["revoked"]), Space(*r[5:])) for r in rows
    ]


async def save(tx: Transaction, rows: Iterable[tuple[Row, Space]]) -> None:
    await tx.execute_many(
        """
        insert into spaces (uri, did, cid, rev, revoked, name, description, created_at)
        values (:uri, :did, :cid, :rev, :revoked, :name, :description, :created_at)
        on conflict (uri) do update set
            cid = excluded.cid, rev = excluded.rev, revoked = excluded.revoked,
            name = excluded.name, description = excluded.description,
            created_at = excluded.created_at
        """,
        [
            {
                "uri": row.uri,
                "did": row.did,
                "cid": row.cid,
                "rev": row.rev,
                "revoked": row.revoked,
                "name": space.name,
                "description": space.description,
                "created_at": space.created_at,
            }
            for row, space in rows
        ],
    )


async def delete(tx: Transaction, uris: Iterable[str]) -> None:
    await tx.execute_many("delete from spaces where uri = :uri", [{"uri": uri} for uri in uris])


async def is_known(db: Reader, uri: str) -> bool:
    """Whether the space exists, or did: one that is deleted still knows its owner."""
    row = await db.one(
        """
        select 1 from spaces where uri = :uri
        union all select 1 from tombstones where uri = :uri and kind = 'space'
        """,
        {"uri": uri},
    )
    return row is not None


async def count_live(db: Reader) -> int:
    row = await db.one(
        """
        select count(*) as count from spaces join repos using (did)
        where spaces.revoked = 0 and repos.hosting = 'active'
        """
    )
    return row["count"] if row else 0
