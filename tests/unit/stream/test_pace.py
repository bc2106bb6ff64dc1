"""How fast it reads and when it will be live, from looks at the stream and nothing else."""

import pytest

from indexer.stream.pace import BEHIND, LIVE, LOOKS, QUIET, WINDOW, Look, Pace

NOW = 1_800_000_000.0  # Unix seconds
EVERY = 0.5  # seconds


class Stream:
    """A stream that goes by at a speed and a rate, looked at twice a second."""

    def __init__(self, lag: float) -> None:
        self.now, self.sent, self.frames = NOW, NOW - lag, 0
        self.pace = Pace()

    def goes_on(
        self,
        seconds: float,
        speed: float = 1.0,
        rate: float = 1000.0,
        *,
        sent: float | None = None,
        is_waiting: bool = True,
    ) -> Pace:
        for _ in range(round(seconds / EVERY)):
            self.now += EVERY
            self.sent += speed * EVERY
            self.frames += round(rate * EVERY)
            self.look(self.sent if sent is None else sent, is_waiting=is_waiting)
        return self.pace

    def look(self, sent: float | None, *, is_waiting: bool = True) -> Pace:
        self.pace = self.pace.seen(Look(self.now, self.frames, sent, is_waiting))
        return self.pace


def test_nothing_is_known_at_first() -> None:
    assert (Pace().rate, Pace().lag, Pace().left, Pace().is_behind) == (0, None, 0, False)
    once = Pace().seen(Look(NOW, 10, NOW, True))
    assert (once.rate, once.left) == (0, 0)


def test_the_time_left_is_the_lag_at_the_speed_that_is_gained() -> None:
    pace = Stream(lag=10_000).goes_on(8, speed=101, rate=90_000)
    assert pace.is_behind
    assert pace.rate == pytest.approx(90_000)
    assert pace.lag == pytest.approx(9_200, abs=150)
    assert pace.left == pytest.approx(92, abs=2)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    stream = Stream(lag=0)
    stream.goes_on(100, rate=50)
    stream.goes_on(WINDOW, rate=1000)
    assert stream.pace.rate == pytest.approx(1000)
    assert stream.goes_on(WINDOW, rate=0).rate == 0
    assert len(stream.pace.looks) <= WINDOW / EVERY + 1


def test_it_is_live_again_when_the_frames_are_young() -> None:
    stream = Stream(lag=BEHIND + 60)
    assert stream.goes_on(2, speed=11).is_behind
    assert stream.goes_on(3, speed=11).is_behind
    pace = stream.goes_on(5, speed=11)
    assert (pace.is_behind, pace.left) == (False, 0)


def test_what_lies_between_live_and_behind_changes_nothing() -> None:
    between = (BEHIND + LIVE) / 2
    assert not Stream(between).goes_on(60).is_behind
    stream = Stream(between + 60)
    assert stream.goes_on(5).is_behind
    stream.sent += 60
    assert stream.goes_on(60).is_behind


def test_a_machine_that_takes_long_over_each_batch_is_behind_and_live_like_others() -> None:
    stream = Stream(lag=100)
    for _ in range(LOOKS):
        assert not stream.pace.is_behind
        stream.goes_on(EVERY, speed=11)
        stream.goes_on(3 * EVERY, speed=11, rate=0, is_waiting=False)
    assert stream.pace.is_behind
    for _ in range(LOOKS):
        assert stream.pace.is_behind
        stream.sent = stream.now
        stream.goes_on(EVERY)
        stream.goes_on(3 * EVERY, rate=0, is_waiting=False)
    assert not stream.pace.is_behind


def test_one_that_is_too_slow_sees_no_end() -> None:
    for speed in (0.5, 1.0, 1.001):
        pace = Stream(lag=1_000).goes_on(8, speed=speed)
        assert (pace.is_behind, pace.left) == (True, None)


@pytest.mark.parametrize("lag", [10_000, -10_000])
def test_the_clock_of_a_stranger_changes_nothing(lag: float) -> None:
    live, late = Stream(0), Stream(5_000)
    live.goes_on(5)
    late.goes_on(5, speed=50)
    for _ in range(20):
        for stream in (live, late):
            stream.frames += 1
            stream.now += 0.01
            stream.look(stream.now - lag)
        assert not live.goes_on(1).is_behind
        pace = late.goes_on(1, speed=50)
        assert pace.is_behind
        assert pace.left == pytest.approx((late.now - late.sent) / 49, rel=0.2)


def test_a_stream_without_times_has_a_rate_and_no_lag() -> None:
    stream = Stream(0)
    for _ in range(20):
        stream.frames += 100
        stream.now += EVERY
        pace = stream.look(None)
    assert (pace.rate, pace.lag, pace.is_behind) == (200, None, False)


def test_old_frames_after_which_nothing_comes_are_not_behind() -> None:
    stream = Stream(lag=100_000)
    stream.goes_on(EVERY, rate=100)  # a small host: that was all
    assert not stream.goes_on(60, rate=0, speed=0).is_behind


def test_who_has_all_that_there_is_has_caught_up() -> None:
    stream = Stream(lag=100_000)
    assert stream.goes_on(8).is_behind
    assert stream.goes_on(QUIET - 1, rate=0, speed=0).is_behind  # it may be a pause
    pace = stream.goes_on(2, rate=0, speed=0)
    assert (pace.is_behind, pace.left) == (False, 0)


def test_a_relay_that_hangs_for_a_while_is_not_the_end_of_its_stream() -> None:
    stream = Stream(lag=259_200)
    stream.goes_on(20, speed=3)
    for _ in range(5):
        pace = stream.goes_on(QUIET - 1, rate=0, speed=0)
        assert (pace.is_behind, pace.left) == (True, None)
        assert stream.goes_on(EVERY, speed=3).is_behind


def test_while_nothing_is_waited_for_it_stays_behind_and_sees_no_end() -> None:
    """There is no relay, or what has come is not applied, so that no more is read."""
    stream = Stream(lag=100_000)
    stream.goes_on(8, speed=50)
    pace = stream.goes_on(600, rate=0, speed=0, is_waiting=False)
    assert (pace.is_behind, pace.left, pace.rate) == (True, None, 0)
    assert stream.goes_on(QUIET - 1, rate=0, speed=0).is_behind  # it has just come back
    assert stream.goes_on(8, speed=50).left is not None


def test_a_clock_that_is_set_back_begins_anew() -> None:
    stream = Stream(lag=10_000)
    stream.goes_on(8, speed=50)
    stream.now -= 3_600
    pace = stream.goes_on(EVERY, speed=50)
    assert (len(pace.looks), pace.rate, pace.left, pace.is_behind) == (1, 0, None, True)
    assert stream.goes_on(8, speed=50).rate == pytest.approx(1000)
    stream.goes_on(QUIET / 2, rate=0, speed=0)
    stream.now -= 3_600
    assert stream.goes_on(QUIET, rate=0, speed=0).is_behind
    assert not stream.goes_on(1, rate=0, speed=0).is_behind


def test_it_takes_several_looks_to_be_behind() -> None:
    stream = Stream(lag=10_000)
    assert [stream.goes_on(EVERY).is_behind for _ in range(LOOKS)] == [False] * (LOOKS - 1) + [True]
