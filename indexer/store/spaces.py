"""The spaces."""

from collections.abc import Iterable

from indexer.records import Row, Space
from indexer.store import living
from indexer.store.db import Reader, Transaction, json_list
from indexer.store.db import Row as DbRow

_END = "at;"  # behind every AT-URI: `;` comes right after `:`
_COLUMNS = """
    spaces.uri, spaces.did, spaces.cid, spaces.rev, revoked, name, description, created_at
"""


async def load(db: Reader, uris: Iterable[str]) -> list[Row]:
    rows = await db.all(
        f"select {_COLUMNS} from json_each(:uris) cross join spaces on uri = value",  # noqa: S608
        {"uris": json_list(uris)},
    )
    return [_row(row) for row in rows]


async def save(tx: Transaction, rows: Iterable[tuple[Row, Space]]) -> None:
    await tx.execute_many(
        """
        insert into spaces (uri, did, cid, rev, revoked, name, description, created_at)
        values (?, ?, ?, ?, ?, ?, ?, ?)
        on conflict (uri) do update set
            cid = excluded.cid, rev = excluded.rev, revoked = excluded.revoked,
            name = excluded.name, description = excluded.description,
            created_at = excluded.created_at
        """,
        [(*row[:5], *space) for row, space in rows],
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


async def live(db: Reader, uri: str) -> Row | None:
    """Return a space if it is there for people: not revoked, its owner's account active."""
    row = await db.one(
        f"""
        select {_COLUMNS} from spaces join repos using (did)
        where uri = :uri and {living.SPACE}
        """,  # noqa: S608
        {"uri": uri},
    )
    return _row(row) if row else None


async def of_owner(db: Reader, did: str, type_: str | None, after: str, limit: int) -> list[Row]:
    """Return the live spaces of an owner behind a URI, in order: all, or of a collection."""
    start, end = living.under(f"at://{did}/{type_}" if type_ else f"at://{did}")
    rows = await db.all(
        f"""
        select {_COLUMNS} from spaces join repos using (did)
        where uri > :after and uri < :end and {living.SPACE}
        order by uri limit :limit
        """,  # noqa: S608
        {"after": max(after, start), "end": end, "limit": limit},
    )
    return [_row(row) for row in rows]


async def of_member(
    db: Reader, did: str, owner: str | None, type_: str | None, after: str, limit: int
) -> list[Row]:
    """Return the live spaces behind a URI that somebody came into, in order."""
    start, end = living.under(f"at://{owner}") if owner else ("", _END)
    rows = await db.all(
        f"""
        select {_COLUMNS} from members
        join spaces on spaces.uri = members.space_uri join repos on repos.did = spaces.did
        where members.did = :did and members.space_uri > :after and members.space_uri < :end
            and (:type is null
                 or substr(spaces.uri, length(spaces.did) + 7, length(:type) + 1) = :type || '/')
            and {living.MEMBER} and {living.SPACE}
        order by members.space_uri limit :limit
        """,  # noqa: S608
        {"did": did, "after": max(after, start), "end": end, "type": type_, "limit": limit},
    )
    return [_row(row) for row in rows]


async def count_live(db: Reader) -> int:
    row = await db.one(
        """
        select count(*) as count from spaces join repos using (did)
        where spaces.revoked = 0 and repos.hosting = 'active'
        """
    )
    return row["count"] if row else 0


def _row(row: DbRow) -> Row:
    fields = Space(*row[5:])
    return Row(row["uri"], row["did"], row["cid"], row["rev"], bool(row["revoked"]), fields)
