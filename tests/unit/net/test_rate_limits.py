"""A host that says how much it may be asked is left alone before it has to refuse."""

import pytest

from indexer.net.rate_limits import MAX_PAUSE, Bucket

NOW = 1_790_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def limit(left: int, reset: float, limit: int = 3_000) -> dict[str, str]:
    return {
        "ratelimit-limit": str(limit),
        "ratelimit-remaining": str(left),
        "ratelimit-reset": str(int(reset)),
        "ratelimit-policy": f"{limit};w=300",
    }


@pytest.mark.parametrize("reset", [NOW + 200, 200])  # a moment, or seconds from now
def test_it_is_closed_while_a_tenth_is_left_and_open_again_with_the_next_window(
    reset: float,
) -> None:
    clock = Clock()
    bucket = Bucket(clock)
    bucket.heard(200, limit(301, reset))
    assert bucket.is_open()
    bucket.heard(200, limit(300, reset))
    assert not bucket.is_open()
    assert bucket.until == NOW + 200
    clock.now += 199
    assert not bucket.is_open()
    clock.now += 1
    assert bucket.is_open()


def test_a_refusal_closes_it_for_as_long_as_it_says() -> None:
    clock = Clock()
    for headers, seconds in (
        ({"retry-after": "7"}, 7),
        (limit(2_000, NOW + 30), 30),
        ({"retry-after": "9", **limit(0, NOW + 30)}, 9),
        ({"retry-after": "99999999"}, MAX_PAUSE),
        (limit(0, 99_999_999_999), MAX_PAUSE),
    ):
        bucket = Bucket(clock)
        bucket.heard(429, headers)
        assert bucket.until == NOW + seconds
        assert not bucket.is_open()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ratelimit-remaining": "0"},
        {"ratelimit-limit": "3000", "ratelimit-remaining": "-1", "ratelimit-reset": "9"},
        {"ratelimit-limit": "x", "ratelimit-remaining": "0", "ratelimit-reset": "9"},
        {"ratelimit-limit": "3000", "ratelimit-remaining": "0"},
        {"ratelimit-limit": "3000", "ratelimit-remaining": "0", "ratelimit-reset": "nan"},
        {"ratelimit-limit": "3000", "ratelimit-remaining": "0", "ratelimit-reset": "9" * 400},
        {"ratelimit-limit": "3000", "ratelimit-remaining": "0", "ratelimit-reset": "1000000001"},
    ],
)
def test_what_makes_no_sense_closes_nothing(headers: dict[str, str]) -> None:
    bucket = Bucket(Clock())
    bucket.heard(200, headers)
    assert bucket.is_open()


def test_it_is_open_when_the_clock_was_set_back() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    bucket.heard(429, {"retry-after": "300"})
    clock.now -= 86_400
    assert bucket.is_open()


def test_an_answer_that_comes_late_does_not_open_it() -> None:
    bucket = Bucket(Clock())
    bucket.heard(429, {"retry-after": "300"})
    bucket.heard(200, limit(2_500, NOW + 100))
    bucket.heard(200, limit(10, NOW + 100))
    assert bucket.until == NOW + 300
