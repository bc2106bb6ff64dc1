"""The sessions at PDSes, sealed: this file never sees a token."""

from dataclasses import dataclass

from indexer.store.db import Reader, Transaction


@dataclass(frozen=True, slots=True)
class StoredSession:
    did: str
    handle: str | None
    pds: str  # base URL of the host that issued it
    sealed: bytes
    created_at: int  # Unix ms
    refreshed_at: int  # Unix ms
    refused: str | None  # why the PDS refuses it; None while it works


_COLUMNS = "did, handle, pds, sealed, created_at, refreshed_at, refused"


async def load(db: Reader, did: str) -> StoredSession | None:
    row = await db.one(
        f"select {_COLUMNS} from sessions where did = :did",  # noqa: S608
        {"did": did},
    )
    return StoredSession(*row) if row else None


async def listing(db: Reader) -> list[StoredSession]:
    rows = await db.all(f"select {_COLUMNS} from sessions order by did")  # noqa: S608
    return [StoredSession(*row) for row in rows]


async def unused_since(db: Reader, before: int) -> list[str]:
    """Return the DIDs of working sessions that were last refreshed before (Unix ms)."""
    rows = await db.all(
        "select did from sessions where refused is null and refreshed_at < :before order by did",
        {"before": before},
    )
    return [row["did"] for row in rows]


async def save(
    tx: Transaction, did: str, handle: str | None, pds: str, sealed: bytes, now: int
) -> None:
    """Store a new session in place of any older one."""
    await tx.execute(
        """
        insert into sessions (did, handle, pds, sealed, created_at, refreshed_at)
        values (:did, :handle, :pds, :sealed, :now, :now)
        on conflict (did) do update set
            handle = excluded.handle, pds = excluded.pds, sealed = excluded.sealed,
            created_at = excluded.created_at, refreshed_at = excluded.refreshed_at, refused = null
        """,
        {"did": did, "handle": handle, "pds": pds, "sealed": sealed, "now": now},
    )


async def refresh(
    tx: Transaction, did: str, pds: str, before: bytes, sealed: bytes, now: int
) -> bool:
    """Put new tokens, of this PDS, in the place of `before`; False if they were replaced."""
    changed = await tx.execute(
        """
        update sessions set sealed = :sealed, pds = :pds, refreshed_at = :now, refused = null
        where did = :did and sealed = :before
        """,
        {"did": did, "pds": pds, "before": before, "sealed": sealed, "now": now},
    )
    return changed > 0


async def refuse(tx: Transaction, did: str, before: bytes, reason: str) -> bool:
    """Note that the PDS refuses these tokens; False if they are not the stored ones any more."""
    changed = await tx.execute(
        "update sessions set refused = :reason where did = :did and sealed = :before",
        {"did": did, "before": before, "reason": reason},
    )
    return changed > 0


async def reseal(tx: Transaction, did: str, before: bytes, sealed: bytes) -> bool:
    """Put the same tokens, sealed anew, in the place of `before`; False if they were replaced."""
    changed = await tx.execute(
        "update sessions set sealed = :sealed where did = :did and sealed = :before",
        {"did": did, "before": before, "sealed": sealed},
    )
    return changed > 0


async def delete_all(tx: Transaction) -> int:
    """Forget every session, also in what the file has free; return how many there were."""
    await tx.all("pragma secure_delete = on")
    return await tx.execute("delete from sessions")


async def delete(tx: Transaction, did: str) -> bool:
    return await tx.execute("delete from sessions where did = :did", {"did": did}) > 0
