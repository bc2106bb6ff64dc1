"""What is known of an invite's token besides its records."""

from collections.abc import Iterable

from indexer.store.db import Reader, Transaction
from indexer.syntax import parse_at_uri

_PLACE = """
    (select coalesce(max(place), 0) + 1 from invite_tokens where token_hash = :token_hash)
"""


async def note(tx: Transaction, tokens: Iterable[tuple[str, str]]) -> None:
    """Note tokens, by space URI and hash, that were made here or seen; in order, once for all."""
    await tx.execute_many(
        f"""
        insert into invite_tokens (space_uri, token_hash, place)
        values (:space_uri, :token_hash, {_PLACE})
        on conflict (space_uri, token_hash) do nothing
        """,  # noqa: S608
        [{"space_uri": space_uri, "token_hash": token_hash} for space_uri, token_hash in tokens],
    )


async def count_use(tx: Transaction, token_hash: str, space_uri: str) -> None:
    """Count that a token has let one more in."""
    await tx.execute(
        f"""
        insert into invite_tokens (space_uri, token_hash, place, used_count)
        values (:space_uri, :token_hash, {_PLACE}, 1)
        on conflict (space_uri, token_hash) do update set used_count = used_count + 1
        """,  # noqa: S608
        {"token_hash": token_hash, "space_uri": space_uri},
    )


async def owner(db: Reader, token_hash: str) -> str | None:
    """Return whose token it is: the DID that was first here to invite with it."""
    row = await db.one(
        """
        select space_uri from invite_tokens
        where token_hash = :token_hash order by place limit 1
        """,
        {"token_hash": token_hash},
    )
    return parse_at_uri(row["space_uri"]).authority if row else None
