"""What the running (or last) daemon says of itself, for `rescind status`."""

from collections.abc import Mapping

from indexer.store.db import Reader, Row, Transaction


async def start(tx: Transaction, *, pid: int, version: str, relay: str, now: int) -> None:
    """Note a new daemon; its counters begin at nothing."""
    await tx.execute(
        """
        insert into daemon (id, pid, version, relay, started_at)
        values (1, :pid, :version, :relay, :now)
        on conflict (id) do update set
            pid = excluded.pid, version = excluded.version, relay = excluded.relay,
            started_at = excluded.started_at, rate = null, is_behind = null, seconds_left = null
        """,
        {"pid": pid, "version": version, "relay": relay, "now": now},
    )
    await tx.execute("delete from counters")


async def load(db: Reader) -> Row | None:
    return await db.one(
        "select pid, version, relay, started_at, rate, is_behind, seconds_left from daemon"
    )


async def save_pace(tx: Transaction, *, rate: float, is_behind: bool, left: float | None) -> None:
    """Store how fast it reads, in frames a second, and when it will be live again, in seconds."""
    await tx.execute(
        "update daemon set rate = :rate, is_behind = :is_behind, seconds_left = :left",
        {"rate": rate, "is_behind": is_behind, "left": left},
    )


async def save_counters(tx: Transaction, kind: str, counts: Mapping[str, int]) -> None:
    """Store totals by reason."""
    await tx.execute_many(
        """
        insert into counters (kind, reason, count) values (:kind, :reason, :count)
        on conflict (kind, reason) do update set count = excluded.count
        """,
        [{"kind": kind, "reason": reason, "count": count} for reason, count in counts.items()],
    )


async def count_resync(tx: Transaction, way: str, size: int, requests: int) -> None:
    """Count one more repo that was proven in this way, in so many bytes and requests."""
    counts = {"resynced": 1, "resync_bytes": size, "resync_requests": requests}
    await tx.execute_many(
        """
        insert into counters (kind, reason, count) values (:kind, :way, :count)
        on conflict (kind, reason) do update set count = count + excluded.count
        """,
        [{"kind": kind, "way": way, "count": count} for kind, count in counts.items()],
    )


async def counters(db: Reader, kind: str) -> dict[str, int]:
    rows = await db.all(
        "select reason, count from counters where kind = :kind order by reason", {"kind": kind}
    )
    return {row["reason"]: row["count"] for row in rows}


async def resyncs_by_way(db: Reader) -> dict[str, dict[str, int]]:
    """Return by which ways repos were proven since the start: repos, bytes and requests of each."""
    rows = await db.all(
        """
        select kind, reason, count from counters
        where kind in ('resynced', 'resync_bytes', 'resync_requests')
        """
    )
    names = {"resynced": "repos", "resync_bytes": "bytes", "resync_requests": "requests"}
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        way = found.setdefault(row["reason"], dict.fromkeys(names.values(), 0))
        way[names[row["kind"]]] = row["count"]
    return dict(sorted(found.items()))
