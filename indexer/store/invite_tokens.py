"""What is known of an invite's token besides its records."""

from collections.abc import Iterable

from indexer.store.db import Reader, Transaction

_PLACE = """
    (select coalesce(max(place), 0) + 1 from invite_tokens where token_hash = :token_hash)
"""


async def note(tx: Transaction, tokens: Iterable[tuple[str, str]]) -> None:
    """Note tokens, by space URI and hash, that were seen; in order, once for all."""
    await tx.execute_many(
        f"""
        insert into invite_tokens (space_uri, token_hash, place)
        values (:space_uri, :token_hash, {_PLACE})
        on conflict (space_uri, token_hash) do nothing
        """,  # noqa: S608
        [{"space_uri": space_uri, "token_hash": token_hash} for space_uri, token_hash in tokens],
    )


async def note_created(tx: Transaction, space_uri: str, token_hash: str, uri: str) -> None:
    """Note a new token whose record is about to be written, under this URI."""
    await tx.execute(
        f"""
        insert into invite_tokens (space_uri, token_hash, place, uri)
        values (:space_uri, :token_hash, {_PLACE}, :uri)
        """,  # noqa: S608
        {"space_uri": space_uri, "token_hash": token_hash, "uri": uri},
    )


async def created_as(db: Reader, space_uri: str, token_hash: str) -> str | None:
    """Return the URI of the record that was created here with a token, or was about to be.

    None for a token that was only seen.
    """
    row = await db.one(
        "select uri from invite_tokens where space_uri = :space_uri and token_hash = :token_hash",
        {"space_uri": space_uri, "token_hash": token_hash},
    )
    return row["uri"] if row else None


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


async def first_space(db: Reader, token_hash: str) -> str | None:
    """Return the URI of the space that a token invited to first here: it is its owner's."""
    row = await db.one(
        """
        select space_uri from invite_tokens
        where token_hash = :token_hash order by place limit 1
        """,
        {"token_hash": token_hash},
    )
    return row["space_uri"] if row else None
