"""A stretch of the stream, played again into the index, beside the daemon or without it.

It writes through the same door as the live stream, so what is known already changes nothing.
It stores no cursor, and what was deleted from a repo before is not asked for again.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from indexer.consumer import Consumer
from indexer.lexicon.syntax import parse_datetime
from indexer.prover import Prover
from indexer.records import Scope
from indexer.store import cursors
from indexer.store.cursors import Cursor
from indexer.store.db import Database, Transaction
from indexer.stream.decode import MAX_SEQ
from indexer.stream.firehose import Firehose
from indexer.stream.recording import Recording

REPORT_EVERY = 1.0  # seconds
IDLE_AFTER = 5.0  # seconds without a frame: the stream has no more to give
# Seconds in which the relay lets nobody in, or gives nothing to those it lets in: a restart is over
# by then, and whoever began the replay may not be there to end it.
GONE_AFTER = 300.0
LIVE_LOOKS = 3  # reports in a row: a single frame's time is a stranger's word


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is."""

    frames: int
    rate: float  # frames a second, over the whole replay
    seq: int | None  # None before the first frame
    last: int | None  # the seq to end at, if it is known
    left: float | None  # seconds, if that can be told
    rejected: Mapping[str, int]  # events and records that were not taken, by reason


class ReplayError(Exception):
    """The stretch can't be played; the text says why."""


async def replay(
    db: Database,
    scope: Scope,
    prover: Prover,
    *,
    source: Firehose | Recording,
    relay: str,
    first: int,
    last: int | None,
    report: Callable[[Progress], None],
    clock: Callable[[], float] = time.time,
) -> Progress:
    """Play the frames of a relay from `first` to `last`, both included; return how it went.

    Without a `last` a recording is played to its end, and a relay's stream to where the daemon's
    cursor stands when it begins, or, if there is none, to the live end; in any case a stream ends
    when no more comes. `report` is called about once a second, and at the end. Raises
    `ReplayError` if not all of the stretch could be had; what could be is in the index.
    """
    recording = source if isinstance(source, Recording) else None
    if last is None and recording is None:
        cursor = await cursors.load(db, relay)
        last = cursor.seq if cursor else None
    consumer = Consumer(
        db,
        scope,
        prover,
        source=source,
        relay=relay,
        start=max(first - 1, 0),
        checkpoint=_keep_no_cursor,
        is_replay=True,
        last=MAX_SEQ if last is None else last,
        clock=clock,
    )
    started = clock()
    first_seq: int | None = None
    frames, quiet_since, moved_at, live = 0, started, started, 0
    is_gone = False

    def progress() -> Progress:
        seconds = clock() - started
        done = _share_done(_seq(consumer), first_seq, last, recording)
        left = seconds * (1 - done) / done if done else None
        rate = consumer.stats.frames / max(seconds, 0.001)
        seq = _seq(consumer) if consumer.stats.frames else None
        return Progress(consumer.stats.frames, rate, seq, last, left, dict(consumer.stats.rejected))

    consuming = asyncio.create_task(consumer.run())
    try:
        while not consuming.done():
            await asyncio.wait({consuming}, timeout=REPORT_EVERY)
            now = clock()
            is_quiet = consumer.stats.frames == frames and consumer.is_settled
            if not is_quiet:
                moved_at = now
            if not is_quiet or not consumer.is_connected:
                frames, quiet_since = consumer.stats.frames, now
            if first_seq is None and frames:
                first_seq = _seq(consumer)
            live = live + 1 if last is None and _is_live(consumer, started) else 0
            is_over = last is not None and (_seq(consumer) or 0) >= last
            has_ended = live >= LIVE_LOOKS or now - quiet_since >= IDLE_AFTER
            is_gone = recording is None and now - moved_at >= GONE_AFTER
            if is_over or is_gone or (has_ended and recording is None):
                consumer.finish()
            report(progress())
        consuming.result()
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    if consumer.error is not None:
        reason = consumer.error.message or "no reason given"
        raise ReplayError(f"the relay refuses: {consumer.error.name} ({reason})")
    if is_gone:
        minutes = f"{GONE_AFTER / 60:.0f} minutes"
        raise ReplayError(f"the relay has not been there for {minutes}; {_reached(progress())}")
    if recording is not None and recording.problem is not None:
        raise ReplayError(f"{recording.problem}; {_reached(progress())}")
    return progress()


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


def _share_done(
    seq: int | None, first: int | None, last: int | None, recording: Recording | None
) -> float | None:
    """Return what is played of the whole, from 0 to 1; None if that can't be told."""
    if last is None:
        # One that is still being written is longer by now than it was.
        return min(1.0, recording.played / recording.size) if recording else None
    if first is None or seq is None or seq <= first:
        return None
    return min(1.0, (seq - first) / (last - first))


def _reached(progress: Progress) -> str:
    if progress.seq is None:
        return "nothing of it was played"
    return f"it was played up to seq {progress.seq} ({progress.frames:,} events)"
