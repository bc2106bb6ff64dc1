"""A stretch of the stream, played again into the index, beside the daemon or without it.

It writes through the same door as the live stream, so what is known already changes nothing.
It stores no cursor, and what was deleted from a repo before is not asked for again.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from indexer.consumer import Consumer
from indexer.decode import MAX_SEQ
from indexer.prove import Prover
from indexer.records import Scope
from indexer.store import cursors
from indexer.store.cursors import Cursor
from indexer.store.db import Database, Transaction
from indexer.syntax import parse_datetime

REPORT_EVERY = 1.0  # seconds
IDLE_AFTER = 5.0  # seconds without a frame: the stream has no more to give
LIVE_LOOKS = 3  # reports in a row: a single frame's time is a stranger's word


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is."""

    frames: int
    rate: float  # frames a second, over the whole replay
    seq: int | None  # None before the first frame
    last: int | None  # the seq to end at, if it is known
    left: float | None  # seconds, if that can be told


class ReplayError(Exception):
    """The stretch can't be played; the text says why."""


async def replay(
    db: Database,
    scope: Scope,
    prover: Prover,
    *,
    relay_url: str,
    relay: str,
    first: int,
    last: int | None,
    report: Callable[[Progress], None],
    clock: Callable[[], float] = time.time,
) -> Progress:
    """Play the frames from `first` to `last`, both included, and return how it went.

    Without a `last` it ends where the daemon's cursor stands when it begins, or, if there is
    none, at the live end; in any case when no more comes. `report` is called about once a
    second. Raises `ReplayError` if the relay does not have the stretch.
    """
    if last is None:
        cursor = await cursors.load(db, relay)
        last = cursor.seq if cursor else None
    consumer = Consumer(
        db,
        scope,
        prover,
        relay_url=relay_url,
        relay=relay,
        start=max(first - 1, 0),
        checkpoint=_keep_no_cursor,
        is_replay=True,
        last=MAX_SEQ if last is None else last,
        clock=clock,
    )
    started = clock()
    first_seq: int | None = None
    frames, quiet_since, live = 0, started, 0
    consuming = asyncio.create_task(consumer.run())
    try:
        while not consuming.done():
            await asyncio.wait({consuming}, timeout=REPORT_EVERY)
            now = clock()
            is_quiet = consumer.stats.frames == frames and consumer.is_settled
            if not is_quiet or not consumer.is_connected:
                frames, quiet_since = consumer.stats.frames, now
            if first_seq is None and frames:
                first_seq = _seq(consumer)
            live = live + 1 if last is None and _is_live(consumer, started) else 0
            is_over = last is not None and (_seq(consumer) or 0) >= last
            if is_over or live >= LIVE_LOOKS or now - quiet_since >= IDLE_AFTER:
                consumer.finish()
            report(_progress(consumer, first_seq, last, now - started))
        consuming.result()
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    if consumer.error is not None:
        reason = consumer.error.message or "no reason given"
        raise ReplayError(f"the relay refuses: {consumer.error.name} ({reason})")
    return _progress(consumer, first_seq, last, clock() - started)


async def _keep_no_cursor(_: Transaction, __: Cursor | None) -> None:
    """A replay moves the live cursor nowhere."""


def _seq(consumer: Consumer) -> int | None:
    return consumer.position.seq if consumer.position else None


def _is_live(consumer: Consumer, started: float) -> bool:
    """Whether the newest frame was sent after the replay began: there is no more to catch up."""
    try:
        sent = parse_datetime((consumer.position and consumer.position.time) or "")
    except ValueError:
        return False
    return sent > started * 1000


def _progress(consumer: Consumer, first: int | None, last: int | None, seconds: float) -> Progress:
    seq, frames = _seq(consumer), consumer.stats.frames
    left = None
    if first is not None and last is not None and seq is not None and seq > first:
        left = max(last - seq, 0) * seconds / (seq - first)
    return Progress(frames, frames / max(seconds, 0.001), seq if frames else None, last, left)
