"""The tracked repos."""

from collections.abc import Iterable
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
    sends_prev_data: bool = False


_COLUMNS = """
    did, rev, data, sync, hosting, hosting_relay, hosting_seq, hosting_time, whole_rev, stretch,
    sends_prev_data
"""


# `:now` as hosts write it: times of frames are compared as text.
_TIME = "strftime('%Y-%m-%dT%H:%M:%fZ', :now / 1000.0, 'unixepoch')"


async def load(db: Reader, dids: Iterable[str]) -> dict[str, Repo]:
    """Return those of the DIDs that are tracked."""
    rows = await db.all(
        f"select {_COLUMNS} from json_each(:dids) cross join repos on did = value",  # noqa: S608
        {"dids": json_list(dids)},
    )
    return {
        row["did"]: Repo(*row)._replace(sends_prev_data=bool(row["sends_prev_data"]))
        for row in rows
    }


async def whole_rev(db: Reader, did: str) -> str | None:
    """Return the revision up to which all of a repo is known; None if it is not tracked."""
    row = await db.one("select whole_rev from repos where did = :did", {"did": did})
    return row["whole_rev"] if row else None


async def save(tx: Transaction, repos: Iterable[Repo]) -> None:
    await tx.execute_many(
        f"""
        insert into repos ({_COLUMNS})
        values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        on conflict (did) do update set
            -- What has just gone out of step is fetched at once, whatever failed before.
            resync_due_at = case when sync = 'synchronized' then 0 else resync_due_at end,
            resync_attempts = case when sync = 'synchronized' then 0 else resync_attempts end,
            whole_rev = excluded.whole_rev, stretch = excluded.stretch,
            rev = excluded.rev, data = excluded.data, sync = excluded.sync,
            hosting = excluded.hosting, hosting_relay = excluded.hosting_relay,
            hosting_seq = excluded.hosting_seq, hosting_time = excluded.hosting_time,
            sends_prev_data = excluded.sends_prev_data
        """,  # noqa: S608
        list(repos),
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


async def sample(db: Reader, count: int) -> list[str]:
    """Return as many tracked repos as asked for, if there are, chosen at random from the active."""
    rows = await db.all(
        "select did from repos where hosting = 'active' order by random() limit :count",
        {"count": count},
    )
    return [row["did"] for row in rows]


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


async def forget_contents(tx: Transaction, did: str) -> None:
    """Have a repo fetched whole if it comes back, since what it held is not here any more."""
    await tx.execute(
        "update repos set whole_rev = null, stretch = rev where did = :did", {"did": did}
    )


async def set_hosting(tx: Transaction, did: str, hosting: str, time: str | None) -> None:
    """Note what a repo's own host says of the account when it is asked; `time` dates it anew."""
    await tx.execute(
        """
        update repos set hosting = :hosting, hosting_time = coalesce(:time, hosting_time)
        where did = :did
        """,
        {"did": did, "hosting": hosting, "time": time},
    )
