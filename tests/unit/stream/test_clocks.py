"""A clock that differs from the relay's by a minute is said, once; not a stream that is behind."""

import pytest

from indexer.stream.clocks import LOOKS, Clocks
from indexer.stream.pace import Look

NOW = 1_800_000_000.0


def told(apart: list[float | None], *, is_waiting: bool = True) -> list[float]:
    clocks, said = Clocks(), []
    for number, seconds in enumerate(apart, 1):
        sent = None if seconds is None else NOW + number + seconds
        found = clocks.seen(Look(NOW + number, number, sent, is_waiting))
        said += [] if found is None else [found]
    return said


@pytest.mark.parametrize("apart", [61.0, -61.0, 3_600.0, -86_400.0])
def test_a_clock_that_is_a_minute_off_is_said_once(apart: float) -> None:
    assert told([apart] * 5 * LOOKS) == [apart]


@pytest.mark.parametrize("apart", [59.0, 0.0, -59.0])
def test_less_than_a_minute_is_not(apart: float) -> None:
    assert told([apart] * 5 * LOOKS) == []


def test_what_some_hosts_say_is_not_taken_for_the_relays_clock() -> None:
    few = [3_600.0 if number % 3 == 0 else -1.0 for number in range(5 * LOOKS)]
    assert told(few) == []


def test_a_stream_that_is_behind_and_catches_up_is_not_a_clock() -> None:
    behind = [-600.0 + number * 0.2 for number in range(LOOKS * 2)]
    assert told(behind) == []
    assert told([-600.0] * 5 * LOOKS, is_waiting=False) == []


def test_frames_without_a_time_and_a_quiet_stream_say_nothing() -> None:
    assert told([None] * 5 * LOOKS) == []
    clocks = Clocks()
    assert {clocks.seen(Look(NOW + n, 7, NOW - 900, True)) for n in range(5 * LOOKS)} == {None}
