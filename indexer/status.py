"""What an operator wants to know at a glance, read from the database alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

from indexer.lexicon.syntax import parse_datetime
from indexer.lock import is_running
from indexer.records import KINDS
from indexer.store import (
    backfills,
    cursors,
    daemon,
    invites,
    outbox,
    pause,
    repos,
    resyncs,
    sessions,
    spaces,
    tombstones,
    verifications,
)
from indexer.store.backfills import ALL_REPOS
from indexer.store.cursors import Cursor
from indexer.store.db import Located, Row

PACE_LASTS = 15.0  # seconds since the cursor moved: then nothing comes, and no pace is true
_ALL = "*"  # the search through all repos, where the relay can't search by collection


async def gather(db: Located, relay: str, now: int) -> dict[str, Any]:
    """Return the status as one JSON value; `now` is Unix ms, `relay` a host of the settings."""
    running = is_running(db.path)
    last = await daemon.load(db)
    # The daemon knows which relay it reads; the settings of this shell may name another.
    relay = last["relay"] if running and last else relay
    cursor = await cursors.load(db, relay)
    buried = await tombstones.count_by_kind(db)
    waiting = await outbox.count_by_state(db)
    return {
        "daemon": {
            "running": running,
            "pid": last["pid"] if running and last else None,
            "version": last["version"] if last else None,
            "started_at": _iso(last["started_at"]) if last else None,
        },
        "cursor": {
            "relay": relay,
            "seq": cursor.seq if cursor else None,
            "time": cursor.time if cursor else None,
        },
        "lag_seconds": _lag(cursor.time, now) if cursor else None,
        "pace": _pace(last, cursor, now) if running else None,
        "records": {
            "space": await spaces.count_live(db),
            "invite": await invites.count_live(db),
            "verification": await verifications.count_live(db),
        },
        "tombstones": {kind: buried.get(kind, 0) for kind in KINDS},
        "repos": await repos.count_by_state(db),
        "resync": await resyncs.queue(db, now),
        "resynced": await daemon.resyncs_by_way(db),
        "backfill": {
            _ALL if search.collection == ALL_REPOS else search.collection: {
                "found": search.found,
                "done": search.done,
            }
            for search in await backfills.load(db, relay)
        },
        "publishing_paused": paused.reason if (paused := await pause.load(db)) else None,
        "outbox": {state: waiting.get(state, 0) for state in outbox.STATES},
        "sessions": [
            {"did": session.did, "handle": session.handle, "refused": session.refused}
            for session in await sessions.listing(db)
        ],
        "skipped": await daemon.counters(db, "skipped"),
        "rejected": await daemon.counters(db, "rejected"),
        "noted": await daemon.counters(db, "noted"),
    }


def render(status: dict[str, Any]) -> str:
    """Return the status for a person, a line a thing."""
    running, cursor = status["daemon"], status["cursor"]
    lag = status["lag_seconds"]
    lines = [
        f"daemon      running, pid {running['pid']}, since {running['started_at']}"
        if running["running"]
        else "daemon      not running",
        f"relay       {cursor['relay']}",
        f"cursor      {cursor['seq']} of {cursor['time']}, {lag:,.0f} s ago"
        if lag is not None
        else f"cursor      {'none yet' if cursor['seq'] is None else cursor['seq']}",
    ]
    if status["pace"] is not None:
        lines.append(f"pace        {_pace_words(status['pace'])}")
    for name in ("records", "tombstones", "repos", "outbox", "skipped", "rejected", "noted"):
        counts = "  ".join(f"{key} {value}" for key, value in status[name].items())
        lines.append(f"{name:<12}{counts or 'none'}")
        if name == "repos":
            due, failing = status["resync"]["due"], status["resync"]["failing"]
            lines.append(f"resync      {due} due now, {failing} failing")
            lines += [
                f"resynced    by {way}: {done['repos']:,} repos, {done['bytes'] / 1000:,.1f} kB, "
                f"{done['requests']:,} requests"
                for way, done in status["resynced"].items()
            ]
            lines += _searches(status["backfill"])
    if status["publishing_paused"] is not None:
        lines.append(f"publishing  paused ({status['publishing_paused']}): rescind outbox resume")
    for session in status["sessions"]:
        state = session["refused"] or "works"
        lines.append(f"session     {session['did']} ({session['handle']}): {state}")
    if not status["sessions"]:
        lines.append("session     none: deletions of revoked records stay blocked")
    return "\n".join(lines)


def _searches(found: dict[str, Any]) -> list[str]:
    if _ALL in found:
        found = {"all repos": found[_ALL]}  # it stands for those by collection
    return [
        f"backfill    {name}: {search['found']} found, {'done' if search['done'] else 'under way'}"
        for name, search in found.items()
    ] or ["backfill    not begun"]


def _lag(time: str | None, now: int) -> float | None:
    """Return the age in seconds of the newest applied frame; None if it had no valid time."""
    try:
        return max(0.0, (now - parse_datetime(time or "")) / 1000)
    except ValueError:
        return None


def _pace(last: Row | None, cursor: Cursor | None, now: int) -> dict[str, Any] | None:
    """Return how fast the stream is read and when it is caught up; None while nothing comes."""
    if last is None or last["rate"] is None or cursor is None:
        return None
    if now - cursor.applied_at > PACE_LASTS * 1000:
        return None
    left = last["seconds_left"]
    return {
        "events_per_second": round(last["rate"], 1),
        "catching_up": bool(last["is_behind"]),
        "seconds_left": None if left is None else round(left, 1),
    }


def _pace_words(pace: dict[str, Any]) -> str:
    words, left = f"{pace['events_per_second']:,.0f} events/s", pace["seconds_left"]
    if not pace["catching_up"]:
        return f"{words}, live"
    time = "time left unknown" if left is None else f"{timedelta(seconds=round(left))} left"
    return f"{words}, catching up, {time}"


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
