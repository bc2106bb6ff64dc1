"""How far the search for repos with records of ours is, at each relay host.

A search is settled when it has ended and what was known then has been fetched, or tried: then what
is claimed in the network is known here, as far as hosts answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from indexer.store.db import Reader, Transaction, json_list

PATIENCE = 3  # times that a repo may be put off untried before a search is settled without it
ALL_REPOS = ""  # the key of a search through all repos of a relay that can't tell by collection


@dataclass(frozen=True, slots=True)
class Search:
    """The search for the repos that have records of one collection, or for all repos."""

    collection: str  # or ALL_REPOS
    page_cursor: str | None  # where the next page begins; None at the beginning
    found: int
    done: bool


async def begin(tx: Transaction, relay: str, collections: Iterable[str]) -> set[str]:
    """Note the searches to make at this relay; those that are noted already stay as they are.

    Returns the collections that were searched for at no relay before. One that is not named any
    more is forgotten: what is written to it now is missed, so later it will be a new one.
    """
    wanted = {"relay": relay, "collections": json_list(sorted(collections))}
    known = {row["collection"] for row in await tx.all("select collection from backfills")}
    await tx.execute(
        """
        delete from backfills where collection <> ''
            and collection not in (select value from json_each(:collections))
        """,
        wanted,
    )
    await tx.execute(
        """
        insert into backfills (relay, collection)
        select :relay, value from json_each(:collections) where true
        on conflict (relay, collection) do nothing
        """,
        wanted,
    )
    return set(collections) - known


async def collections(db: Reader) -> set[str]:
    """Return the collections that the index is kept for; none before a daemon has begun."""
    rows = await db.all("select distinct collection from backfills where collection <> ''")
    return {row["collection"] for row in rows}


async def unsettle(tx: Transaction, relay: str) -> None:
    """Let nothing be decided by what this relay shows until its searches have ended anew.

    For when events were missed: who claimed what meanwhile is not known.
    """
    await tx.execute("update backfills set settled = 0 where relay = :relay", {"relay": relay})


async def is_settled(db: Reader, relay: str) -> bool:
    """Whether what is claimed in the network is known here, as far as this relay can tell."""
    row = await db.one(
        """
        select min(settled) as settled from backfills where relay = :relay and collection <> ''
        """,
        {"relay": relay},
    )
    return row is not None and row["settled"] == 1


async def has_come_to_an_end(db: Reader, relay: str) -> bool:
    """Whether the searches at this relay are to be settled now: no repo that they found is left."""
    row = await db.one(
        """
        select min(settled) as settled, count(*) = count(done_at) as done
        from backfills where relay = :relay and collection <> ''
        """,
        {"relay": relay},
    )
    if row is None or row["settled"] != 0 or not row["done"]:
        return False
    left = await db.one(
        """
        select 1 from repos indexed by repos_awaited
        where awaited > 0 and sync <> 'synchronized' and hosting = 'active' limit 1
        """
    )
    return left is None


async def settle(tx: Transaction, relay: str) -> None:
    """Note that the searches at this relay have come to their end, with all that they found."""
    await tx.execute("update backfills set settled = 1 where relay = :relay", {"relay": relay})


async def reset(tx: Transaction, relay: str) -> None:
    """Let every search at this relay begin again: repos may have been missed."""
    await tx.execute(
        "delete from backfills where relay = :relay and collection = ''", {"relay": relay}
    )
    await tx.execute(
        "update backfills set page_cursor = null, found = 0, done_at = null where relay = :relay",
        {"relay": relay},
    )


async def load(db: Reader, relay: str) -> list[Search]:
    """Return the searches at this relay, that for all repos first."""
    rows = await db.all(
        """
        select collection, page_cursor, found, done_at is not null as done
        from backfills where relay = :relay order by collection
        """,
        {"relay": relay},
    )
    return [
        Search(row["collection"], row["page_cursor"], row["found"], bool(row["done"]))
        for row in rows
    ]


async def advance(
    tx: Transaction, relay: str, search: Search, page_cursor: str | None, found: int, now: int
) -> bool:
    """Note that a page was taken, and where the next one begins; None: that was the last.

    Returns False, and notes nothing, if the search was begun anew since the page was asked for.
    """
    count = await tx.execute(
        """
        update backfills set page_cursor = :next, found = found + :found,
            done_at = case when :next is null then :now end
        where relay = :relay and collection = :collection
            and page_cursor is :asked and done_at is null
        """,
        {
            "relay": relay,
            "collection": search.collection,
            "asked": search.page_cursor,
            "next": page_cursor,
            "found": found,
            "now": now,
        },
    )
    if count and page_cursor is None and search.collection == ALL_REPOS:
        await tx.execute(
            "update backfills set done_at = :now where relay = :relay and done_at is null",
            {"relay": relay, "now": now},
        )
    if count and page_cursor is None:
        # Those that failed lately were tried: a host that is down holds up nobody but itself.
        await tx.execute(
            """
            update repos set awaited = :patience
            where sync <> 'synchronized' and hosting = 'active'
                and (resync_error is null or resync_attempts = 0)
            """,
            {"patience": PATIENCE},
        )
    return count > 0


async def rewind(tx: Transaction, relay: str, search: Search) -> None:
    """Let this search begin again, unless it went on since."""
    await tx.execute(
        """
        update backfills set page_cursor = null, found = 0
        where relay = :relay and collection = :collection
            and page_cursor is :asked and done_at is null
        """,
        {"relay": relay, "collection": search.collection, "asked": search.page_cursor},
    )


async def search_all(tx: Transaction, relay: str) -> None:
    """Search through all repos of this relay, in place of collection by collection."""
    await tx.execute(
        """
        insert into backfills (relay, collection) values (:relay, '')
        on conflict (relay, collection) do update set page_cursor = null, found = 0, done_at = null
        """,
        {"relay": relay},
    )
