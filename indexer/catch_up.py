"""Looks at the stream now and then: its pace is for whoever asks, its catching up for the log."""

import asyncio
import time
from collections.abc import Callable

from indexer import log
from indexer.consumer import Consumer
from indexer.lexicon.syntax import parse_datetime
from indexer.stream.clocks import Clocks
from indexer.stream.pace import Look, Pace

LOOK_EVERY = 0.5  # seconds
TELL_EVERY = 10.0  # seconds

_log = log.get("catch_up")


async def watch(consumer: Consumer, clock: Callable[[], float] = time.time) -> None:
    """Keep `consumer.stats.pace` up to date for ever; while the index is behind, tell the log.

    A daemon that is live has nothing to tell, but that its clock is not the relay's.
    """
    stats, clocks = consumer.stats, Clocks()
    began = told = 0.0
    frames = 0  # when it began
    while True:
        now, was_behind = clock(), stats.pace.is_behind
        sent = _sent_at(consumer)
        is_waiting = consumer.is_connected and consumer.is_settled
        look = Look(now, stats.frames, sent, is_waiting)
        stats.pace = pace = stats.pace.seen(look)
        if (apart := clocks.seen(look)) is not None:
            _log.error(
                "clock.differs",
                relay_ahead_s=round(apart),
                action="set the clock of this machine, or tell who runs the relay",
            )
        seq = consumer.position.seq if consumer.position else None
        if pace.is_behind and not was_behind:
            began, frames, told = now, stats.frames, now
            _tell("began", seq, pace)
        elif pace.is_behind and consumer.is_connected and now - told >= TELL_EVERY:
            told = now
            _tell("advanced", seq, pace)
        elif was_behind and not pace.is_behind:
            _log.info(
                "catch_up.ended", seq=seq, events=stats.frames - frames, seconds=round(now - began)
            )
        await asyncio.sleep(LOOK_EVERY)


def _tell(what: str, seq: int | None, pace: Pace) -> None:
    _log.info(
        f"catch_up.{what}",
        seq=seq,
        lag_seconds=_rounded(pace.lag),
        events_per_second=round(pace.rate),
        seconds_left=_rounded(pace.left),
    )


def _sent_at(consumer: Consumer) -> float | None:
    """Return when the relay sent the newest frame, in Unix seconds; None if it did not say."""
    try:
        return parse_datetime((consumer.position and consumer.position.time) or "") / 1000
    except ValueError:
        return None


def _rounded(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)
