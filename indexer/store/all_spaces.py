"""The spaces of everybody, for operators: callers see their own."""

from indexer.records import Row
from indexer.store import living, spaces
from indexer.store.db import Reader


async def page(db: Reader, type_: str | None, limit: int) -> list[Row]:
    """Return the first live spaces by their URIs: all, or of a collection."""
    rows = await db.all(
        f"""
        select spaces.uri from spaces join repos using (did)
        where (:type is null
               or substr(spaces.uri, length(spaces.did) + 7, length(:type) + 1) = :type || '/')
            and {living.SPACE}
        order by spaces.uri limit :limit
        """,  # noqa: S608
        {"type": type_, "limit": limit},
    )
    found = await spaces.load(db, [row["uri"] for row in rows])
    return sorted(found, key=lambda space: space.uri)
