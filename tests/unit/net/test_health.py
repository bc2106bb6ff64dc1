"""A PDS that fails is left alone, longer each time, and the others are not."""

import asyncio
import random

import pytest

from indexer.net import health as module
from indexer.net.health import FIRST_DELAY, MAX_CALLS, MAX_DELAY, HostHealth


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def is_well(health: HostHealth, host: str, *, insist: bool = False) -> bool:
    async with health.turn(host, insist=insist) as well:
        return well


async def test_a_host_that_failed_is_left_alone_until_its_time_has_come() -> None:
    clock = Clock()
    health = HostHealth(clock, lambda: 1.0)
    assert await is_well(health, "a")

    health.failed("a", "HTTP 503", None)

    assert not await is_well(health, "a")
    assert await is_well(health, "b")
    assert (health.error("a"), health.until("a")) == ("HTTP 503", 1000 + FIRST_DELAY)
    clock.now += FIRST_DELAY
    assert await is_well(health, "a")


async def test_a_clock_that_is_set_back_makes_no_pause_longer() -> None:
    clock = Clock()
    health = HostHealth(clock, lambda: 1.0)
    health.failed("a", "HTTP 503", 3_600)
    clock.now -= 1
    assert await is_well(health, "a")


async def test_each_failure_doubles_the_pause_up_to_an_hour() -> None:
    clock = Clock()
    health = HostHealth(clock, lambda: 1.0)
    pauses = []
    for _ in range(100):
        health.failed("a", "", None)
        pauses.append(health.until("a") - clock.now)
    assert pauses[:4] == [2, 4, 8, 16]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_DELAY


async def test_one_success_makes_a_host_well() -> None:
    clock = Clock()
    health = HostHealth(clock, lambda: 1.0)
    for _ in range(5):
        health.failed("a", "down", 600.0)
    health.succeeded("a")
    assert await is_well(health, "a")
    assert health.error("a") == ""
    health.failed("a", "", None)
    assert health.until("a") - clock.now == FIRST_DELAY


def test_delays_are_spread_over_half_of_their_length() -> None:
    rng = random.Random(1)
    health = HostHealth(Clock(), rng.random)
    delays = [health.delay(5) for _ in range(1000)]
    assert min(delays) >= 16
    assert max(delays) <= 32
    assert min(delays) < 17
    assert max(delays) > 31


@pytest.mark.parametrize("attempts", [0, -1, 1])
def test_a_delay_is_never_nothing(attempts: int) -> None:
    assert HostHealth(Clock(), lambda: 0.0).delay(attempts) == FIRST_DELAY / 2


def test_a_million_attempts_are_no_harm() -> None:
    assert HostHealth(Clock(), lambda: 1.0).delay(10**6) == MAX_DELAY


async def test_a_time_that_the_host_named_counts_as_it_is() -> None:
    clock = Clock()
    health = HostHealth(clock, lambda: 1.0)
    health.failed("a", "", 120.0)
    assert health.until("a") == 1120
    health.failed("a", "", 0.0)
    assert await is_well(health, "a")


async def test_who_insists_is_let_through_unless_the_host_named_the_time() -> None:
    health = HostHealth(Clock(), lambda: 1.0)
    health.failed("a", "down", None)
    assert await is_well(health, "a", insist=True)
    health.failed("a", "busy", 60.0)
    assert not await is_well(health, "a", insist=True)
    health.succeeded("a")
    health.failed("a", "down", None)
    assert await is_well(health, "a", insist=True)


async def test_a_host_is_asked_by_few_at_once_and_waits_for_no_other() -> None:
    health = HostHealth(Clock())
    gate, inside = asyncio.Event(), 0

    async def call(host: str) -> None:
        nonlocal inside
        async with health.turn(host):
            inside += 1
            await gate.wait()

    calls = [asyncio.create_task(call("a")) for _ in range(10)]
    await asyncio.sleep(0.01)
    assert inside == MAX_CALLS
    calls.append(asyncio.create_task(call("b")))
    await asyncio.sleep(0.01)
    assert inside == MAX_CALLS + 1
    for task in calls[:2]:  # who gives up makes room
        task.cancel()
    await asyncio.sleep(0.01)
    assert inside == 2 * MAX_CALLS + 1
    gate.set()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_no_more_hosts_are_remembered_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_HOSTS", 3)
    health = HostHealth(Clock())
    for host in "abc":
        health.failed(host, "down", None)
    assert not await is_well(health, "a")  # used now, so "b" is the longest unused
    health.failed("d", "down", None)
    assert len(health._hosts) == 3
    assert not await is_well(health, "a")
    assert await is_well(health, "b")
