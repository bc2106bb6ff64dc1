"""Whether anything may be written into repos now."""

from dataclasses import dataclass

from indexer.store.db import Reader, Transaction


@dataclass(frozen=True, slots=True)
class Pause:
    paused_at: int  # Unix ms
    reason: str


async def load(db: Reader) -> Pause | None:
    """Return since when, and why, nothing is published; None while all is."""
    row = await db.one("select paused_at, reason from pause where id = 1")
    return Pause(*row) if row else None


async def begin(tx: Transaction, reason: str, now: int) -> None:
    """Publish nothing from now on; a pause that there is already stays as it is."""
    await tx.execute(
        """
        insert into pause (id, paused_at, reason) values (1, :now, :reason)
        on conflict (id) do nothing
        """,
        {"now": now, "reason": reason},
    )


async def end(tx: Transaction) -> bool:
    """Publish again; return whether that was paused."""
    return await tx.execute("delete from pause") > 0
