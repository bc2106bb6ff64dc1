"""Where the stream of each relay host is read up to."""

from dataclasses import dataclass, field

from indexer.store.db import Reader, Transaction


@dataclass(frozen=True, slots=True)
class Cursor:
    seq: int
    time: str | None  # when the relay says that it sent that frame
    applied_at: int = 0  # Unix ms
    mark: bytes | None = field(default=None, compare=False)  # that tells it from other frames


async def load(db: Reader, relay: str) -> Cursor | None:
    """Return the last applied frame of this relay host, or None if it was never read."""
    row = await db.one(
        "select seq, time, applied_at, mark from cursors where relay = :relay", {"relay": relay}
    )
    return Cursor(*row) if row else None


async def save(tx: Transaction, relay: str, cursor: Cursor) -> None:
    """Store the position, which may go back: it follows the stream that was really read."""
    await tx.execute(
        """
        insert into cursors (relay, seq, time, applied_at, mark)
        values (:relay, :seq, :time, :at, :mark)
        on conflict (relay) do update set
            seq = excluded.seq, time = excluded.time, applied_at = excluded.applied_at,
            mark = excluded.mark
        """,
        {
            "relay": relay,
            "seq": cursor.seq,
            "time": cursor.time,
            "at": cursor.applied_at,
            "mark": cursor.mark,
        },
    )


async def forget(tx: Transaction, relay: str) -> None:
    """Drop the position: this relay's sequence is not the one that it was."""
    await tx.execute("delete from cursors where relay = :relay", {"relay": relay})
