"""The service-auth tokens that procedures have taken, each for one effect."""

from indexer.store.db import Reader, Row, Transaction

PRUNED = 4  # rows at most that go when one comes: so those that ended get fewer and fewer


async def take(tx: Transaction, key: bytes, issuer: str, ends_at: int, now: int) -> bool:
    """Note that a token is used, with what it is used for; False if it was before. Unix ms."""
    await tx.execute(
        """
        delete from used_tokens where key in
            (select key from used_tokens where ends_at < :now order by ends_at limit :pruned)
        """,
        {"now": now, "pruned": PRUNED},
    )
    changed = await tx.execute(
        """
        insert into used_tokens (key, issuer, ends_at) values (:key, :issuer, :ends_at)
        on conflict (key) do nothing
        """,
        {"key": key, "issuer": issuer, "ends_at": ends_at},
    )
    return changed > 0


async def living(db: Reader, now: int) -> list[Row]:
    """Return those that could still be shown. `now` is Unix ms."""
    return await db.all(
        "select key, issuer, ends_at from used_tokens where ends_at >= :now", {"now": now}
    )
