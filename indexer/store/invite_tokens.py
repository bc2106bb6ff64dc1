"""What is known of an invite's token besides its records."""

from indexer.store.db import Reader, Transaction


async def note_minted(tx: Transaction, token_hash: str, space_uri: str, now: int) -> None:
    """Note that a token was made here, for this space. `now` is Unix ms."""
    await tx.execute(
        """
        insert into invite_tokens (token_hash, space_uri, minted_at)
        values (:token_hash, :space_uri, :now)
        on conflict (token_hash, space_uri) do update set
            minted_at = coalesce(minted_at, excluded.minted_at)
        """,
        {"token_hash": token_hash, "space_uri": space_uri, "now": now},
    )


async def count_use(tx: Transaction, token_hash: str, space_uri: str) -> None:
    """Count that a token has let one more in."""
    await tx.execute(
        """
        insert into invite_tokens (token_hash, space_uri, used_count)
        values (:token_hash, :space_uri, 1)
        on conflict (token_hash, space_uri) do update set used_count = used_count + 1
        """,
        {"token_hash": token_hash, "space_uri": space_uri},
    )


async def minted_for(db: Reader, token_hash: str) -> str | None:
    """Return the space that a token was made for, if it was made here."""
    row = await db.one(
        """
        select space_uri from invite_tokens
        where token_hash = :token_hash and minted_at is not null
        """,
        {"token_hash": token_hash},
    )
    return row["space_uri"] if row else None
