"""A load balancer learns at once whether the index is alive and up to date, and if not, why."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from indexer.store.cursors import Cursor
from indexer.stream.stats import Stats
from tests.support.xrpc_world import NOW, FakeStream, World, make_world
from xrpc.serving.health import examine, lag

MAX_LAG = 60.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path, max_lag=MAX_LAG) as made, made.serving():
        yield made


def at(seconds_ago: float, seq: int = 7) -> Cursor:
    sent = datetime.fromtimestamp(NOW - seconds_ago, UTC)
    return Cursor(seq, sent.isoformat().replace("+00:00", "Z"))


def stream(sent_ago: float | None = None, *, connected: bool = True, **ago: float) -> FakeStream:
    """Return an indexer whose newest frame, and other moments, are so many seconds ago."""
    cursor = None if sent_ago is None else at(sent_ago)
    stats = Stats()
    for name, seconds in {"beat_at": 0.5, **ago}.items():
        setattr(stats, name, NOW - seconds)
    return FakeStream(connected, cursor, cursor, stats)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (stream(2, moved_at=1), 2),  # frames come: the age of the newest
        (stream(7_200, moved_at=1), 7_200),  # they come from long ago: it catches up
        (stream(7_200, moved_at=10), 0.5),  # none come any more: a quiet stream
        (stream(None), 0.5),  # connected, and nothing has ever happened
        (stream(-3, moved_at=1), 0.5),  # a relay whose clock is ahead
        (stream(2, moved_at=90, beat_at=90), 90),  # nothing is applied any more
        (stream(20, connected=False, moved_at=19, left_at=18), 20),
        (stream(7_200, connected=False, moved_at=100, left_at=18), 18),
        (stream(None, connected=False), None),
        (stream(None, beat_at=NOW), None),
    ],
)
def test_the_lag_is_how_far_the_index_is_behind_the_relay(
    made: FakeStream, expected: float | None
) -> None:
    assert lag(made, NOW) == (None if expected is None else pytest.approx(expected))


def test_a_relay_that_does_not_date_its_frames_is_believed_to_send_them_at_once() -> None:
    made = stream(None, moved_at=2)
    made.position = made.applied = Cursor(7, "yesterday")
    assert lag(made, NOW) == pytest.approx(2)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (stream(None), None),
        (stream(7_200, moved_at=10), None),
        (stream(MAX_LAG, moved_at=1), None),
        (stream(20, connected=False, moved_at=19, left_at=18), None),  # it will be back
        (stream(None, connected=False), "the relay has not been reached"),
        (stream(None, beat_at=NOW), "just started"),
        (stream(MAX_LAG + 1, moved_at=1), "61 s behind the relay"),
        (stream(2, moved_at=90, beat_at=90), "applied nothing for 90 s"),
        (stream(2, connected=False, moved_at=40, left_at=31), "no connection to the relay for 31"),
        (stream(90, connected=False, moved_at=12, left_at=10), "90 s behind the relay"),
    ],
)
def test_what_is_wrong_is_said(made: FakeStream, problem: str | None) -> None:
    found = examine(made, NOW, MAX_LAG).problem
    assert found is None if problem is None else problem in (found or "")


async def health(world: World, method: str = "GET") -> tuple[int, dict[str, Any]]:
    answer = await world.request(method, "/xrpc/_health")
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json() if method == "GET" else {}


async def test_a_well_indexer_is_shown_with_its_version(world: World) -> None:
    world.stream.position = world.stream.applied = at(0)
    status, body = await health(world)
    assert status == 200
    assert body == {"version": body["version"], "connected": True, "seq": 7, "lagSeconds": 0}
    assert body["version"].count(".") == 2
    assert (await health(world, "HEAD"))[0] == 200


async def test_an_indexer_that_is_not_well_is_refused_with_the_reason(world: World) -> None:
    world.stream.is_connected = False
    world.stream.stats.left_at = NOW - 100
    status, body = await health(world)
    assert status == 503
    assert body.pop("version")
    assert body == {
        "error": "Unhealthy",
        "message": "there has been no connection to the relay for 100 s",
        "connected": False,
        "seq": None,
        "lagSeconds": 100,
    }


async def test_health_is_no_method(world: World) -> None:
    answer = await world.request("POST", "/xrpc/_health", json={})
    assert (answer.status_code, answer.json()["error"]) == (405, "MethodNotAllowed")
