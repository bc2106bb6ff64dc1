"""The deletions to publish: a queue whose claims are leases.

A row is `pending`, then `sent`, then `confirmed`; or `blocked`, or `dropped` by an operator.
Every step is guarded by the state that it comes from: the firehose may confirm a deletion
before the PDS has answered, and the later answer then changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from indexer.lexicon.syntax import parse_at_uri, tid_at
from indexer.store.db import Reader, Transaction, json_list

STATES = ("pending", "sent", "confirmed", "blocked", "dropped")
UNDONE = ("pending", "sent", "blocked")

_COLUMNS = """
    uri, did, collection, rkey, state, record_rev, commit_rev, attempts, due_at, error, created_at,
    updated_at
"""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A row of the outbox. The fields are explained in `schema.sql`."""

    uri: str
    did: str
    collection: str
    rkey: str
    state: str
    record_rev: str
    commit_rev: str | None
    attempts: int
    due_at: int  # Unix ms
    error: str | None
    created_at: int  # Unix ms
    updated_at: int  # Unix ms


async def load(db: Reader, uris: Iterable[str]) -> dict[str, Deletion]:
    """Return the rows of these URIs, by URI."""
    rows = await db.all(
        f"select {_COLUMNS} from json_each(:uris) cross join outbox on uri = value",  # noqa: S608
        {"uris": json_list(uris)},
    )
    return {row["uri"]: Deletion(*row) for row in rows}


async def enqueue(tx: Transaction, records: Iterable[tuple[str, str]], now: int) -> None:
    """Ask for the deletion of each (URI, rev of the version to delete).

    A row that is under way goes on; one that was done, or that a person dropped, begins anew.
    """
    rows = []
    for uri, rev in records:
        parts = parse_at_uri(uri)
        rows.append(
            {
                "uri": uri,
                "did": parts.authority,
                "collection": parts.collection,
                "rkey": parts.rkey,
                "rev": rev,
                "now": now,
            }
        )
    await tx.execute_many(
        """
        insert into outbox (uri, did, collection, rkey, record_rev, due_at, created_at, updated_at)
        values (:uri, :did, :collection, :rkey, :rev, :now, :now, :now)
        on conflict (uri) do update set
            record_rev = max(record_rev, excluded.record_rev),
            state = case when state in ('pending', 'blocked') then state else 'pending' end,
            attempts = case when state in ('pending', 'blocked') then attempts else 0 end,
            commit_rev = case when state in ('pending', 'blocked') then commit_rev end,
            error = case when state in ('pending', 'blocked') then error end,
            created_at = case when state in ('pending', 'blocked') then created_at
                              else excluded.created_at end,
            due_at = min(due_at, excluded.due_at),
            updated_at = excluded.updated_at
        """,
        rows,
    )


async def due_repos(db: Reader, now: int, limit: int) -> list[str]:
    """Return the repos that have something to do, the longest waiting first."""
    rows = await db.all(
        """
        -- Left to itself, SQLite goes through all that wait, also those that were put off.
        select did from outbox indexed by outbox_due
        where state in ('pending', 'sent') and due_at <= :now
        group by did order by min(due_at) limit :limit
        """,
        {"now": now, "limit": limit},
    )
    return [row["did"] for row in rows]


async def is_due(db: Reader, did: str, state: str, now: int) -> bool:
    """Whether a repo has a row in this state to claim."""
    row = await db.one(
        "select 1 from outbox where did = :did and state = :state and due_at <= :now limit 1",
        {"did": did, "state": state, "now": now},
    )
    return row is not None


async def claim(
    tx: Transaction, did: str, state: str, *, now: int, until: int, limit: int
) -> list[Deletion]:
    """Take due rows of a repo: until `until` (Unix ms) nobody else gets them."""
    rows = await tx.all(
        f"""
        update outbox set due_at = :until, attempts = attempts + 1, updated_at = :now
        where id in (
            select id from outbox where did = :did and state = :state and due_at <= :now
            order by due_at, id limit :limit
        )
        returning {_COLUMNS}
        """,  # noqa: S608
        {"did": did, "state": state, "now": now, "until": until, "limit": limit},
    )
    return [Deletion(*row) for row in rows]


async def release(tx: Transaction, now: int) -> None:
    """Give back all claims: a daemon that starts anew tries at once."""
    await tx.execute(
        "update outbox set due_at = :now where state = 'pending' and due_at > :now", {"now": now}
    )


async def mark_sent(
    tx: Transaction, uris: Iterable[str], commit_rev: str, *, now: int, check_at: int
) -> None:
    """The PDS acknowledged. If the firehose does not show it, look again at `check_at`.

    What was put back since that commit is still to be deleted.
    """
    await tx.execute_many(
        """
        update outbox set state = 'sent', commit_rev = :rev, attempts = 0, error = null,
                          due_at = :check_at, updated_at = :now
        where uri = :uri and +state in ('pending', 'blocked') and :rev > record_rev
        """,
        [{"uri": uri, "rev": commit_rev, "check_at": check_at, "now": now} for uri in uris],
    )


async def mark_confirmed(tx: Transaction, deletions: Iterable[tuple[str, str]], now: int) -> None:
    """The deletion of each (URI, rev) is seen: on the stream, or by asking the PDS.

    A deletion that is older than the version we want gone confirms nothing.
    """
    await tx.execute_many(
        """
        update outbox set state = 'confirmed', error = null, updated_at = :now,
                          commit_rev = max(coalesce(commit_rev, ''), :rev)
        where uri = :uri and +state in ('pending', 'sent', 'blocked') and :rev > record_rev
        """,
        [{"uri": uri, "rev": rev, "now": now} for uri, rev in deletions],
    )


async def mark_gone(tx: Transaction, uri: str, record_rev: str, now: int) -> bool:
    """The PDS says that there is no such record; return whether a row is confirmed by that.

    `record_rev` is the row's before the PDS was asked: what was put back since, maybe behind the
    PDS's answer, is still to be deleted.
    """
    changed = await tx.execute(
        """
        update outbox set state = 'confirmed', error = null, updated_at = :now
        where uri = :uri and +state in ('pending', 'sent', 'blocked') and record_rev = :record_rev
        """,
        {"uri": uri, "record_rev": record_rev, "now": now},
    )
    return changed > 0


async def mark_failed(
    tx: Transaction, uris: Iterable[str], error: str, *, now: int, retry_at: int, until: int = 0
) -> None:
    """Put off what was claimed up to `until`; what was made due since is tried again at once."""
    await tx.execute_many(
        """
        update outbox set due_at = case when due_at < :until then due_at else :retry_at end,
                          error = :error, updated_at = :now
        where uri = :uri and +state in ('pending', 'sent')
        """,
        [
            {"uri": uri, "until": until, "error": error, "retry_at": retry_at, "now": now}
            for uri in uris
        ],
    )


async def postpone(tx: Transaction, did: str, error: str, *, now: int, retry_at: int) -> int:
    """Put off what is due of a repo that can't even be tried; return how many rows."""
    return await tx.execute(
        """
        update outbox set due_at = :retry_at, error = :error, updated_at = :now
        where did = :did and +state in ('pending', 'sent') and due_at <= :now
        """,
        {"did": did, "error": error, "retry_at": retry_at, "now": now},
    )


async def block_repo(tx: Transaction, did: str, reason: str, now: int) -> int:
    """Put a repo's pending rows aside until a person acts; return how many."""
    return await tx.execute(
        """
        update outbox set state = 'blocked', error = :reason, updated_at = :now
        where did = :did and state = 'pending'
        """,
        {"did": did, "reason": reason, "now": now},
    )


async def unblock_repo(tx: Transaction, did: str, now: int) -> int:
    """Take up a repo's blocked rows again; return how many."""
    return await tx.execute(
        """
        update outbox set state = 'pending', attempts = 0, error = null, due_at = :now,
                          updated_at = :now
        where did = :did and state = 'blocked'
        """,
        {"did": did, "now": now},
    )


async def hasten(tx: Transaction, dids: Iterable[str], now: int) -> int:
    """Make due at once what was put off of accounts that may be back; return how many rows.

    What is `sent` and did not fail goes on waiting for the firehose.
    """
    return await tx.execute(
        """
        update outbox set due_at = :now, attempts = 0, updated_at = :now
        where did in (select value from json_each(:dids)) and state in ('pending', 'sent')
            and due_at > :now and (state = 'pending' or error is not null)
        """,
        {"dids": json_list(dids), "now": now},
    )


async def retry(tx: Transaction, uris: Sequence[str] | None, now: int) -> int:
    """Make rows due at once: these, or all that wait; return how many."""
    chosen = "true" if uris is None else "uri in (select value from json_each(:uris))"
    return await tx.execute(
        f"""
        update outbox set state = case when state = 'sent' then state else 'pending' end,
                          attempts = 0, due_at = :now, updated_at = :now
        -- Not by the state: that would be all that wait, however few are chosen.
        where {chosen} and +state in ('pending', 'sent', 'blocked')
        """,  # noqa: S608
        {"now": now, "uris": json_list(uris or ())},
    )


async def retry_now(tx: Transaction, uris: Sequence[str] | None, now: int) -> int:
    """As `retry`, by order of an operator: their host is asked whatever time it named.

    They are due at 0 until they are claimed, and `updated_at` is when that was.
    """
    count = await retry(tx, uris, now)
    chosen = "true" if uris is None else "uri in (select value from json_each(:uris))"
    await tx.execute(
        f"""
        update outbox set due_at = 0
        where {chosen} and +state in ('pending', 'sent')
        """,  # noqa: S608
        {"uris": json_list(uris or ())},
    )
    return count


async def ordered_at(db: Reader, did: str) -> int | None:
    """Return when an operator last ordered what is due of a repo, in Unix ms; None if nobody."""
    row = await db.one(
        """
        select max(updated_at) as at from outbox
        where did = :did and state in ('pending', 'sent') and due_at = 0
        """,
        {"did": did},
    )
    return row["at"] if row else None


async def drop(tx: Transaction, uri: str, reason: str, now: int) -> bool:
    """Give a deletion up; return whether there was one to give up.

    What was written before that falls under the revocation, also where it is still on its way.
    """
    changed = await tx.execute(
        """
        update outbox set state = 'dropped', error = :reason, updated_at = :now,
                          commit_rev = :rev
        where uri = :uri and +state in ('pending', 'sent', 'blocked')
        """,
        {"uri": uri, "reason": reason, "now": now, "rev": tid_at(now)},
    )
    return changed > 0


async def forget_undone(tx: Transaction) -> int:
    """Forget what is still to be asked of a PDS; return how many rows that were.

    For an index that is older than what was done since: whether these versions still stand in their
    repos, a copy of each tells.
    """
    return await tx.execute("delete from outbox where state in ('pending', 'blocked')")


async def listing(db: Reader, states: Sequence[str], limit: int) -> list[Deletion]:
    """Return the rows in these states, the oldest first."""
    rows = await db.all(
        f"""
        select {_COLUMNS} from outbox where state in (select value from json_each(:states))
        order by id limit :limit
        """,  # noqa: S608
        {"states": json_list(states), "limit": limit},
    )
    return [Deletion(*row) for row in rows]


async def count_by_state(db: Reader) -> dict[str, int]:
    rows = await db.all("select state, count(*) as count from outbox group by state")
    return {row["state"]: row["count"] for row in rows}


async def oldest_by_state(db: Reader) -> dict[str, int]:
    """Return when the oldest row of each state was made, in Unix ms, for those not done."""
    rows = await db.all(
        """
        select value as state,
               (select min(created_at) from outbox where state = value) as created_at
        from json_each(:states) where created_at is not null
        """,
        {"states": json_list(UNDONE)},
    )
    return {row["state"]: row["created_at"] for row in rows}
