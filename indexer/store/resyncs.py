"""The repos that are to be fetched whole: a queue within the table of repos."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from indexer.store import repos
from indexer.store.db import Reader, Transaction, json_list


async def due(db: Reader, now: int, limit: int) -> list[str]:
    """Return repos that are to be fetched whole now, the longest waiting first.

    Among them are those that are not active and of which something was missed: they may be back.
    """
    rows = await db.all(
        """
        select did, resync_due_at, id from repos
        where sync <> 'synchronized' and hosting = 'active' and resync_due_at <= :now
        union all
        select did, resync_due_at, id from repos
        where sync = 'desynchronized' and hosting not in ('active', 'deleted')
            and resync_due_at <= :now
        order by resync_due_at, id limit :limit
        """,
        {"now": now, "limit": limit},
    )
    return [row["did"] for row in rows]


class Claim(NamedTuple):
    """A repo that was taken up."""

    attempt: int  # from 1
    whole: bool  # somebody wants its CAR to be fetched


async def claim(tx: Transaction, dids: Iterable[str], until: int) -> dict[str, Claim]:
    """Take repos up until `until` (Unix ms), those of them that are tracked.

    They are `pending` then. One that is not any more when its copy has come: something was missed
    since that may not be in there.
    """
    rows = await tx.all(
        """
        update repos set sync = 'pending', resync_due_at = :until,
                         resync_attempts = resync_attempts + 1
        where did in (select value from json_each(:dids))
        returning did, resync_attempts, resync_whole
        """,
        {"dids": json_list(dids), "until": until},
    )
    return {row["did"]: Claim(row["resync_attempts"], bool(row["resync_whole"])) for row in rows}


async def put_off(
    tx: Transaction, did: str, error: str, retry_at: int, *, counts: bool = True, now: int = -1
) -> None:
    """Let a repo that was taken up wait; unless it `counts`, that was no attempt.

    What was made due meanwhile, up to `now` (Unix ms), is tried again at once.
    """
    await tx.execute(
        """
        update repos set
            sync = case when sync = 'pending' and (whole_rev is not null or hosting <> 'active')
                        then 'desynchronized' else sync end,
            resync_due_at = case when resync_due_at <= :now then resync_due_at else :retry_at end,
            resync_error = :error,
            resync_attempts = max(resync_attempts - (not :counts), 0),
            -- Who puts off and off again is not waited for either.
            awaited = case when :counts then 0 else max(awaited - 1, 0) end
        where did = :did
        """,
        {"did": did, "error": error, "retry_at": retry_at, "counts": counts, "now": now},
    )


async def postpone(tx: Transaction, did: str, until: int) -> None:
    """Let a repo that is out of step not be fetched before this time (Unix ms)."""
    await tx.execute(
        """
        update repos set resync_due_at = max(resync_due_at, :until)
        where did = :did and sync = 'desynchronized'
        """,
        {"did": did, "until": until},
    )


async def mark_whole(tx: Transaction, did: str, rev: str) -> None:
    """The repo's host had nothing newer than `rev`, up to which all was known here."""
    await tx.execute(
        """
        update repos set sync = 'synchronized'
        where did = :did and sync = 'pending' and rev >= :rev and whole_rev = rev
        """,
        {"did": did, "rev": rev},
    )


async def end(tx: Transaction, did: str, *, again: bool = False) -> None:
    """The repo was fetched, or is not served any more: forget what was tried.

    With `again` it is to be fetched once more.
    """
    await tx.execute(
        """
        update repos set sync = case when :again then 'desynchronized' else sync end,
                         resync_due_at = 0, resync_attempts = 0, resync_error = null,
                         resync_whole = 0, awaited = 0
        where did = :did
        """,
        {"did": did, "again": again},
    )


async def release(tx: Transaction, now: int) -> None:
    """Give back all claims: a daemon that starts anew tries at once."""
    await tx.execute(
        "update repos set resync_due_at = :now where resync_due_at > :now", {"now": now}
    )


async def ask(tx: Transaction, did: str, now: int | None = None, *, whole: bool = False) -> None:
    """Have a repo made right, whatever is known of it; if it is not tracked, track it.

    With `whole` by its CAR, and not by parts of it.
    """
    await repos.track(tx, [did], now)
    await tx.execute(
        """
        update repos set
            sync = case sync when 'synchronized' then 'desynchronized' else sync end,
            whole_rev = null, resync_due_at = 0, resync_attempts = 0, resync_error = null,
            resync_whole = :whole
        where did = :did
        """,
        {"did": did, "whole": whole},
    )


async def hasten(tx: Transaction, dids: Iterable[str], now: int) -> int:
    """Make due at once what was put off of accounts that may be back; return how many repos.

    A claim is no more than a time too: who works at it goes on, and is not disturbed.
    """
    return await tx.execute(
        """
        update repos set resync_due_at = :now, resync_attempts = 0
        where did in (select value from json_each(:dids)) and sync <> 'synchronized'
            and hosting <> 'deleted' and resync_due_at > :now
        """,
        {"dids": json_list(dids), "now": now},
    )


async def refetch_all(tx: Transaction) -> None:
    """Have every repo fetched whole again, whatever is known of it."""
    await tx.execute(
        """
        update repos set
            sync = case sync when 'synchronized' then 'desynchronized' else sync end,
            whole_rev = null
        where hosting <> 'deleted'
        """
    )


async def retry_all(tx: Transaction) -> None:
    """Have the repos that are not whole fetched now, as if none had been tried."""
    await tx.execute(
        """
        update repos set resync_due_at = 0, resync_attempts = 0, resync_error = null
        where sync <> 'synchronized'
        """
    )


@dataclass(frozen=True, slots=True)
class Resync:
    """How the fetching of a repo stands."""

    did: str
    sync: str
    hosting: str
    rev: str | None
    attempts: int
    due_at: int  # Unix ms; of the next attempt
    error: str | None  # of the last attempt


async def load(db: Reader, did: str) -> Resync | None:
    """Return how the fetching of a repo stands; None if it is not tracked."""
    row = await db.one(
        """
        select did, sync, hosting, rev, resync_attempts, resync_due_at, resync_error
        from repos where did = :did
        """,
        {"did": did},
    )
    return Resync(*row) if row else None


async def count(db: Reader, dids: Iterable[str] | None, retries: int) -> tuple[int, int, int]:
    """Count, of these repos or all, those that are whole, that failed, and that are to be fetched.

    Failed is one that did so at least once, and then `retries` times more. A repo that is not
    served is none of the three.
    """
    row = await db.one(
        """
        with wanted as (
            select sync = 'synchronized' as whole,
                   resync_error is not null and resync_attempts > :retries as failed
            from repos where hosting = 'active'
                and (:dids is null or did in (select value from json_each(:dids)))
        )
        select coalesce(sum(whole), 0) as whole,
               coalesce(sum(failed and not whole), 0) as failed,
               coalesce(sum(not failed and not whole), 0) as waiting
        from wanted
        """,
        {"dids": None if dids is None else json_list(dids), "retries": retries},
    )
    return (row["whole"], row["failed"], row["waiting"]) if row else (0, 0, 0)


async def queue(db: Reader, now: int) -> dict[str, int]:
    """Count the repos that wait to be fetched whole: those due now, and those that failed."""
    row = await db.one(
        """
        select coalesce(sum(resync_due_at <= :now), 0) as due,
               coalesce(sum(resync_error is not null), 0) as failing
        from repos where sync <> 'synchronized' and hosting = 'active'
        """,
        {"now": now},
    )
    return {"due": row["due"], "failing": row["failing"]} if row else {}
