"""The tracked repos."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from indexer.store.db import Reader, Transaction, json_list

HOSTING = frozenset(("active", "deactivated", "suspended", "takendown", "deleted", "inactive"))


@dataclass(frozen=True, slots=True)
class Repo:
    """What is known of a tracked repo. The fields are explained in `schema.sql`."""

    did: str
    rev: str | None = None
    data: str | None = None
    sync: str = "pending"
    hosting: str = "active"
    hosting_relay: str | None = None
    hosting_seq: int | None = None
    hosting_time: str | None = None


async def load(db: Reader, dids: Iterable[str]) -> dict[str, Repo]:
    """Return those of the DIDs that are tracked."""
    rows = await db.all(
        """
        select did, rev, data, sync, hosting, hosting_relay, hosting_seq, hosting_time
        from repos where did in (select value from json_each(:dids))
        """,
        {"dids": json_list(dids)},
    )
    return {row["did"]: Repo(*row) for row in rows}


async def save(tx: Transaction, repos: Iterable[Repo]) -> None:
    await tx.execute_many(
        """
        insert into repos (did, rev, data, sync, hosting, hosting_relay, hosting_seq, hosting_time)
        values (:did, :rev, :data, :sync, :hosting, :hosting_relay, :hosting_seq, :hosting_time)
        on conflict (did) do update set
            rev = excluded.rev, data = excluded.data, sync = excluded.sync,
            hosting = excluded.hosting, hosting_relay = excluded.hosting_relay,
            hosting_seq = excluded.hosting_seq, hosting_time = excluded.hosting_time
        """,
        [asdict(repo) for repo in repos],
    )


async def newcomers(db: Reader, after: int) -> tuple[int, list[str]]:
    """Return the DIDs tracked since an `id`, and the id to ask from next time."""
    rows = await db.all("select id, did from repos where id > :after order by id", {"after": after})
    return (rows[-1]["id"] if rows else after), [row["did"] for row in rows]


async def desynchronize_all(tx: Transaction) -> int:
    """Mark every repo as to be checked again; return how many that concerned."""
    return await tx.execute("update repos set sync = 'desynchronized' where hosting <> 'deleted'")


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
