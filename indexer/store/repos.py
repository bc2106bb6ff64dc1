"""The tracked repos."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from indexer.store.db import Reader, Transaction, json_list

HOSTING = frozenset(("active", "deactivated", "suspended", "takendown", "deleted", "inactive"))


def hosting_of(active: bool, status: object) -> str:
    """Return what it amounts to that a host says this of an account: `active` decides."""
    if active:
        return "active"
    return status if isinstance(status, str) and status in HOSTING - {"active"} else "inactive"


class Repo(NamedTuple):
    """What is known of a tracked repo. The fields are explained in `schema.sql`."""

    did: str
    rev: str | None = None
    data: str | None = None
    sync: str = "pending"
    hosting: str = "active"
    hosting_relay: str | None = None
    hosting_seq: int | None = None
    hosting_time: str | None = None
    whole_rev: str | None = None
    stretch: str | None = None


_COLUMNS = """
    did, rev, data, sync, hosting, hosting_relay, hosting_seq, hosting_time, whole_rev, stretch
"""


# `:now` as hosts write it: times of frames are compared as text.
_TIME = "strftime('%Y-%m-%dT%H:%M:%fZ', :now / 1000.0, 'unixepoch')"


async def load(db: Reader, dids: Iterable[str]) -> dict[str, Repo]:
    """Return those of the DIDs that are tracked."""
    rows = await db.all(
        f"""
        select {_COLUMNS} from repos where did in (select value from json_each(:dids))
        """,  # noqa: S608
        {"dids": json_list(dids)},
    )
    return {row["did"]: Repo(*row) for row in rows}


async def whole_rev(db: Reader, did: str) -> str | None:
    """Return the revision up to which all of a repo is known; None if it is not tracked."""
    row = await db.one("select whole_rev from repos where did = :did", {"did": did})
    return row["whole_rev"] if row else None


async def save(tx: Transaction, repos: Iterable[Repo]) -> None:
    await tx.execute_many(
        f"""
        insert into repos ({_COLUMNS})
        values (:did, :rev, :data, :sync, :hosting, :hosting_relay, :hosting_seq, :hosting_time,
                :whole_rev, :stretch)
        on conflict (did) do update set
            -- What has just gone out of step is fetched at once, whatever failed before.
            resync_due_at = case when sync = 'synchronized' then 0 else resync_due_at end,
            resync_attempts = case when sync = 'synchronized' then 0 else resync_attempts end,
            whole_rev = excluded.whole_rev, stretch = excluded.stretch,
            rev = excluded.rev, data = excluded.data, sync = excluded.sync,
            hosting = excluded.hosting, hosting_relay = excluded.hosting_relay,
            hosting_seq = excluded.hosting_seq, hosting_time = excluded.hosting_time
        """,  # noqa: S608
        [repo._asdict() for repo in repos],
    )


async def newcomers(db: Reader, after: int) -> tuple[int, list[str]]:
    """Return the DIDs tracked since an `id`, and the id to ask from next time."""
    rows = await db.all("select id, did from repos where id > :after order by id", {"after": after})
    return (rows[-1]["id"] if rows else after), [row["did"] for row in rows]


async def desynchronize_all(tx: Transaction) -> int:
    """Mark every repo as to be checked again; return how many that concerned."""
    return await tx.execute(
        "update repos set sync = 'desynchronized', stretch = rev where hosting <> 'deleted'"
    )


async def forget_hosting_seqs(tx: Transaction, relay: str) -> None:
    """Let what this relay said of accounts be dated by its time alone: it numbers anew."""
    await tx.execute(
        "update repos set hosting_relay = null, hosting_seq = null where hosting_relay = :relay",
        {"relay": relay},
    )


async def count_by_state(db: Reader) -> dict[str, int]:
    """Count the repos: by their hosting, and the active ones by how well we know them."""
    rows = await db.all(
        """
        select case hosting when 'active' then sync else hosting end as state, count(*) as count
        from repos group by state
        """
    )
    return {row["state"]: row["count"] for row in rows}


async def track(tx: Transaction, dids: Iterable[str], now: int | None = None) -> int:
    """Track these repos, to be fetched whole; return how many were new.

    Their hosts will be asked from `now` on (Unix ms): what a frame from before says of an account
    is outdated then.
    """
    return await tx.execute(
        f"""
        insert into repos (did, hosting_time) select value, {_TIME} from json_each(:dids) where true
        on conflict (did) do nothing
        """,  # noqa: S608
        {"dids": json_list(dids), "now": now},
    )


async def due_resyncs(db: Reader, now: int, limit: int) -> list[str]:
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


async def claim_resync(tx: Transaction, did: str, until: int) -> int:
    """Take a repo up until `until` (Unix ms); return which attempt this is.

    It is `pending` then. If it is not any more when its copy has come, something was missed since
    that may not be in there.
    """
    rows = await tx.all(
        """
        update repos set sync = 'pending', resync_due_at = :until,
                         resync_attempts = resync_attempts + 1
        where did = :did returning resync_attempts
        """,
        {"did": did, "until": until},
    )
    return int(rows[0]["resync_attempts"]) if rows else 1


async def put_off_resync(tx: Transaction, did: str, error: str, retry_at: int) -> None:
    await tx.execute(
        """
        update repos set
            sync = case when sync = 'pending' and (whole_rev is not null or hosting <> 'active')
                        then 'desynchronized' else sync end,
            resync_due_at = :retry_at, resync_error = :error
        where did = :did
        """,
        {"did": did, "error": error, "retry_at": retry_at},
    )


async def end_resync(tx: Transaction, did: str, *, again: bool = False) -> None:
    """The repo was fetched, or is not served any more: forget what was tried.

    With `again` it is to be fetched once more.
    """
    await tx.execute(
        """
        update repos set sync = case when :again then 'desynchronized' else sync end,
                         resync_due_at = 0, resync_attempts = 0, resync_error = null
        where did = :did
        """,
        {"did": did, "again": again},
    )


async def release_resyncs(tx: Transaction, now: int) -> None:
    """Give back all claims: a daemon that starts anew tries at once."""
    await tx.execute(
        "update repos set resync_due_at = :now where resync_due_at > :now", {"now": now}
    )


async def ask_resync(tx: Transaction, did: str, now: int | None = None) -> None:
    """Have a repo fetched whole, whatever is known of it; track it if it is not (see `track`)."""
    await tx.execute(
        f"""
        insert into repos (did, hosting_time) values (:did, {_TIME})
        on conflict (did) do update set
            sync = case sync when 'synchronized' then 'desynchronized' else sync end,
            whole_rev = null, resync_due_at = 0, resync_attempts = 0, resync_error = null
        """,  # noqa: S608
        {"did": did, "now": now},
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


async def retry_resyncs(tx: Transaction) -> None:
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


async def resync(db: Reader, did: str) -> Resync | None:
    """Return how the fetching of a repo stands; None if it is not tracked."""
    row = await db.one(
        """
        select did, sync, hosting, rev, resync_attempts, resync_due_at, resync_error
        from repos where did = :did
        """,
        {"did": did},
    )
    return Resync(*row) if row else None


async def count_resyncs(
    db: Reader, dids: Iterable[str] | None, retries: int
) -> tuple[int, int, int]:
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


async def resync_queue(db: Reader, now: int) -> dict[str, int]:
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


async def mark_whole(tx: Transaction, did: str, rev: str) -> None:
    """The repo's host had nothing newer than `rev`, up to which all was known here."""
    await tx.execute(
        """
        update repos set sync = 'synchronized'
        where did = :did and sync = 'pending' and rev >= :rev and whole_rev = rev
        """,
        {"did": did, "rev": rev},
    )


async def set_hosting(tx: Transaction, did: str, hosting: str) -> None:
    """Note what a repo's own host says of the account when it is asked."""
    await tx.execute(
        "update repos set hosting = :hosting where did = :did", {"did": did, "hosting": hosting}
    )
