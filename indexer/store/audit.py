"""Who did what, for good."""

from collections.abc import Iterable

from indexer.store.db import Reader, Row, Transaction


async def write(
    tx: Transaction,
    actor: str,
    action: str,
    subjects: Iterable[str],
    detail: str | None,
    now: int,
) -> None:
    """Note that `actor` did `action` to each subject. `actor` is a DID, or `operator`."""
    await tx.execute_many(
        """
        insert into audit (at, actor, action, subject, detail)
        values (:at, :actor, :action, :subject, :detail)
        """,
        [
            {"at": now, "actor": actor, "action": action, "subject": subject, "detail": detail}
            for subject in subjects
        ],
    )


async def of_subject(db: Reader, subject: str) -> list[Row]:
    """Return the entries about a subject, the oldest first."""
    return await db.all(
        "select at, actor, action, subject, detail from audit where subject = :subject order by id",
        {"subject": subject},
    )
