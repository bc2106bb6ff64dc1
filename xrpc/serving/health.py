"""Whether the indexer is alive and up to date, from what it shows of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from indexer.lexicon.syntax import parse_datetime
from indexer.store.cursors import Cursor
from indexer.stream.stats import Stats
from xrpc.errors import XrpcError

QUIET = 5.0  # seconds without a frame, after which a connected stream has nothing more for us
RECENT = 30.0  # seconds without a connection that are no reason for alarm


class Stream(Protocol):
    """What the indexer shows of the stream that it reads: its `Consumer` is one."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def position(self) -> Cursor | None:
        """Up to where frames have been received; None before the first."""

    @property
    def applied(self) -> Cursor | None:
        """Up to where they are in the index."""

    @property
    def stats(self) -> Stats: ...


class UnhealthyError(XrpcError):
    """The indexer is not alive, or too far behind: what is served may be out of date."""

    status = 503
    error = "Unhealthy"


@dataclass(frozen=True, slots=True)
class Health:
    """`lag` is in seconds, None while it can't be known; `problem` is None if all is well."""

    is_connected: bool
    seq: int | None  # of the newest applied frame
    lag: float | None
    problem: str | None

    def fields(self) -> Mapping[str, Any]:
        return {
            "connected": self.is_connected,
            "seq": self.seq,
            "lagSeconds": None if self.lag is None else round(self.lag, 1),
        }


def examine(stream: Stream, now: float, max_lag: float) -> Health:
    """Judge the indexer; `now` is in Unix seconds, `max_lag` in seconds."""
    behind = lag(stream, now)
    seq = stream.applied.seq if stream.applied else None
    return Health(stream.is_connected, seq, behind, _problem(stream, behind, now, max_lag))


def lag(stream: Stream, now: float) -> float | None:
    """Return how many seconds the index is behind the relay; None if it was never reached.

    While frames come, that is the age of the newest. When none come any more the index has all
    that there is, however old the newest is, until the connection ends. Frames that wait here to
    be applied count as well.
    """
    stats = stream.stats
    in_touch_at = now if stream.is_connected else stats.left_at
    if not in_touch_at or not stats.beat_at:
        return None
    complete_at = in_touch_at
    if in_touch_at - stats.moved_at <= QUIET:
        complete_at = min(in_touch_at, _sent_at(stream.position) or stats.moved_at)
    return max(0.0, now - complete_at, now - stats.beat_at)


def _sent_at(position: Cursor | None) -> float | None:
    """Return when the relay sent a frame, in Unix seconds; None if it did not say."""
    try:
        return parse_datetime(position.time or "") / 1000 if position else None
    except ValueError:
        return None


def _problem(stream: Stream, behind: float | None, now: float, max_lag: float) -> str | None:
    stats = stream.stats
    if not stream.is_connected and not stats.left_at:
        return "the relay has not been reached since the start"
    if behind is None:
        return "the indexer has just started"
    if now - stats.beat_at > max_lag:
        return f"the indexer has applied nothing for {now - stats.beat_at:.0f} s"
    if not stream.is_connected and now - stats.left_at > RECENT:
        return f"there has been no connection to the relay for {now - stats.left_at:.0f} s"
    if behind > max_lag:
        return f"the index is {behind:.0f} s behind the relay, which is more than {max_lag:g} s"
    return None
