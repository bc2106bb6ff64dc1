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


async def forget_details(tx: Transaction, did: str) -> None:
    """Remove the texts with which something was done to what an account wrote, or is said of it."""
    await tx.execute(
        """
        update audit set detail = null
        where detail is not null and (
            (subject >= 'at://' || :did || '/' and subject < 'at://' || :did || '0')
            or subject in (select uri from verifications where subject = :did)
        )
        """,
        {"did": did},
    )


async def of_subject(db: Reader, subject: str) -> list[Row]:
    """Return the entries about a subject, the oldest first."""
    return await db.all(
        "select at, actor, action, subject, detail from audit where subject = :subject order by id",
        {"subject": subject},
    )
