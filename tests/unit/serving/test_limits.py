"""Nobody can ask without end, and what strangers ask keeps nobody else from asking."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.config.settings import Settings
from tests.support.guests import LIST_SPACES
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    NOW,
    OPERATOR,
    REVOKE_INVITE,
    REVOKE_VERIFICATIONS,
    STRANGER,
    World,
    eventually,
    make_world,
)
from xrpc.errors import AuthRequiredError, NotEnoughResourcesError, RateLimitExceededError
from xrpc.methods.table import METHODS, Method
from xrpc.serving.addresses import Addresses
from xrpc.serving.limits import Buckets, Limits, Rate

EMPTY: dict[str, Any] = {"revokedVerifications": [], "failedRevocations": []}
PATH = f"/xrpc/{REVOKE_VERIFICATIONS}"


def refused(buckets: Buckets, caller: str, now: float) -> RateLimitExceededError:
    with pytest.raises(RateLimitExceededError) as caught:
        buckets.take(caller, now)
    return caught.value


# --- buckets ---


def test_a_bucket_is_full_at_first_and_fills_again_with_time() -> None:
    buckets = Buckets(Rate(3, 60))
    assert [buckets.take("a", 0).tokens for _ in range(3)] == [2, 1, 0]
    refused(buckets, "a", 19.9)  # a third of the window a call
    assert buckets.take("a", 20).tokens == 0
    assert buckets.take("a", 1_000).tokens == 2  # it holds no more than at first


def test_a_bucket_is_of_one_caller() -> None:
    buckets = Buckets(Rate(1, 60))
    buckets.take("a", 0)
    refused(buckets, "a", 0)
    assert buckets.take("b", 0).tokens == 0


def test_a_clock_that_is_set_back_takes_nothing_away() -> None:
    buckets = Buckets(Rate(2, 60))
    buckets.take("a", 1_000)
    assert buckets.take("a", 10).tokens == 0
    assert buckets.take("a", 40).tokens == 0  # and from there on time counts


def test_headers_say_what_is_left_and_when_to_come_again() -> None:
    buckets = Buckets(Rate(10, 60))
    assert buckets.take("a", NOW).headers() == {
        "ratelimit-limit": "10",
        "ratelimit-remaining": "9",
        "ratelimit-reset": str(int(NOW) + 6),
        "ratelimit-policy": "10;w=60",
    }
    for _ in range(9):
        buckets.take("a", NOW)
    error = refused(buckets, "a", NOW)
    assert error.headers is not None
    assert error.headers["ratelimit-remaining"] == "0"
    assert error.headers["ratelimit-reset"] == str(int(NOW) + 60)
    assert error.headers["retry-after"] == "6"
    assert buckets.take("a", NOW + 6)


def test_buckets_do_not_grow_without_end_and_the_longest_unused_goes_first() -> None:
    buckets = Buckets(Rate(2, 60), size=3)
    for caller in ("a", "b", "c", "a", "d", "e"):
        buckets.take(caller, 0)
    assert len(buckets) == 3
    assert [caller for caller in "abcde" if caller in buckets] == ["a", "d", "e"]


def test_looking_takes_no_room() -> None:
    buckets = Buckets(Rate(2, 60))
    buckets.look("a", 0)
    assert len(buckets) == 0


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 10), st.integers(1, 30))
def test_nobody_gets_more_than_the_rate(pauses: list[float], limit: int, window: int) -> None:
    buckets, now, taken = Buckets(Rate(limit, window)), 0.0, 0
    for pause in pauses:
        now += pause
        try:
            buckets.take("a", now)
        except RateLimitExceededError:
            # The wait that is told is enough, and not a second too long.
            wait = int((refused(buckets, "a", now).headers or {})["retry-after"])
            assert not buckets.look("a", now + wait).is_empty
            assert wait == 1 or buckets.look("a", now + wait - 1).tokens < 1
        else:
            taken += 1
    assert taken <= limit + now * limit / window + 1e-3


# --- whose bucket ---


def limits(**settings: Any) -> Limits:
    return Limits(Settings.load({"rate_limit": 2, "rate_limit_address": 1, **settings}))


def fail(limits: Limits, address: str) -> None:
    with limits.turn(address, NOW):
        raise AuthRequiredError("no")


def test_an_address_pays_for_what_proves_nobody() -> None:
    made = limits()
    with pytest.raises(AuthRequiredError):
        fail(made, "a")
    with pytest.raises(RateLimitExceededError):
        fail(made, "a")
    with pytest.raises(AuthRequiredError):
        fail(made, "b")


def test_an_address_does_not_pay_for_a_proven_caller() -> None:
    made = limits()
    for _ in range(5):
        with made.turn("a", NOW) as turn:
            turn.admit(ALICE)


def test_an_address_with_nothing_left_may_not_have_more_keys_looked_up() -> None:
    made = limits()
    with pytest.raises(AuthRequiredError):
        fail(made, "a")
    with pytest.raises(RateLimitExceededError), made.turn("a", NOW) as turn:
        turn.admit(ALICE)


def test_who_proved_himself_lately_is_let_try_whatever_others_do_at_his_address() -> None:
    made = limits()
    with made.turn("a", NOW) as turn:
        turn.call(ALICE)
    with pytest.raises(AuthRequiredError):
        fail(made, "a")
    with made.turn("a", NOW) as turn:
        turn.admit(ALICE)
        with pytest.raises(RateLimitExceededError):
            turn.admit(BOB)


def test_a_caller_may_have_a_quarter_of_all_calls_under_way() -> None:
    made = limits(max_requests=8, rate_limit=100)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(made.turn("a", NOW)).call(ALICE)
        with pytest.raises(RateLimitExceededError), made.turn("a", NOW) as turn:
            turn.call(ALICE)
        stack.enter_context(made.turn("a", NOW)).call(BOB)
    with made.turn("a", NOW) as turn:
        turn.call(ALICE)


def test_an_address_may_have_as_many_callers_that_are_not_proven_yet() -> None:
    made = limits(max_requests=8)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(made.turn("a", NOW)).admit(ALICE)
        with pytest.raises(RateLimitExceededError), made.turn("a", NOW) as turn:
            turn.admit(ALICE)
        with made.turn("b", NOW) as turn:
            turn.admit(ALICE)


def test_strangers_have_half_of_all_calls_however_many_addresses_they_have() -> None:
    made = limits(max_requests=8)
    with made.turn("a", NOW) as turn:
        turn.call(BOB)
    with ExitStack() as stack:
        for address in ("a", "b", "c"):
            stack.enter_context(made.turn(address, NOW)).admit(ALICE)
        stack.enter_context(made.turn("d", NOW)).call_openly()
        with pytest.raises(NotEnoughResourcesError), made.turn("e", NOW) as turn:
            turn.admit(ALICE)
        with pytest.raises(NotEnoughResourcesError), made.turn("f", NOW) as turn:
            turn.call_openly()
        with made.turn("e", NOW) as turn:
            turn.admit(BOB)  # who was here before
    with made.turn("e", NOW) as turn:
        turn.admit(ALICE)


# --- addresses ---


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "caller"),
    [
        ([], "192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # nobody is believed unless named
        (["192.0.2.1"], "192.0.2.1", ["198.51.100.7"], "198.51.100.7"),
        (["192.0.2.1"], "192.0.2.2", ["198.51.100.7"], "192.0.2.2"),
        (["192.0.2.0/24"], "192.0.2.1", ["198.51.100.7, 192.0.2.9"], "198.51.100.7"),
        (["192.0.2.0/24"], "192.0.2.1", ["198.51.100.7", "192.0.2.9"], "198.51.100.7"),
        # What the caller wrote himself is to the left of what the proxy added.
        (["192.0.2.1"], "192.0.2.1", ["203.0.113.1, 198.51.100.7"], "198.51.100.7"),
        (["192.0.2.1"], "192.0.2.1", ["203.0.113.1, nonsense"], "192.0.2.1"),
        (["192.0.2.1"], "192.0.2.1", [], "192.0.2.1"),
        (["192.0.2.1"], "192.0.2.1", [""], "192.0.2.1"),
        (["192.0.2.1"], "::ffff:192.0.2.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        (["::1"], "::1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        ([], "2001:db8:1:2:ffff::1", [], "2001:db8:1:2::/64"),
        ([], "::1", [], "::/64"),
        ([], "fe80::1%eth0", [], "fe80::/64"),
        ([], None, [], ""),
    ],
)
def test_the_caller_s_address(
    trusted: list[str], peer: str | None, forwarded: list[str], caller: str
) -> None:
    assert Addresses(trusted).caller(peer, forwarded) == caller


def test_a_header_of_many_hops_is_not_read_to_its_end() -> None:
    trusted = Addresses(["10.0.0.0/8"])
    assert trusted.caller("10.0.0.1", ["198.51.100.7" + ", 10.0.0.2" * 50]) == "10.0.0.2"


# --- over HTTP ---


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(
        tmp_path, rate_limit=4, rate_limit_address=3, max_requests=8, max_params=100,
        request_timeout=0.5, trusted_proxies="127.0.0.1",
    ) as made, made.serving():  # fmt: skip
        for caller in (ALICE, BOB, CAROL):
            await made.account(caller, session=False)
        yield made


async def stranger(world: World, address: str = "198.51.100.7", **headers: str) -> httpx.Response:
    """Call as nobody in particular, from this address."""
    return await world.request(
        "POST", PATH, json={"uris": []}, headers={"x-forwarded-for": address, **headers}
    )


async def test_a_caller_sees_what_is_left_and_is_refused_when_nothing_is(world: World) -> None:
    for left in ("3", "2", "1", "0"):
        answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
        assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (200, left)
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    assert (answer.status_code, answer.json()["error"]) == (429, "RateLimitExceeded")
    assert answer.headers["retry-after"] == "75"
    assert answer.headers["ratelimit-policy"] == "4;w=300"

    assert (await world.call(BOB, REVOKE_VERIFICATIONS, {"uris": []})).status_code == 200
    world.clock.now += 75
    assert (await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})).status_code == 200


async def test_calls_that_fail_count_too_and_say_what_is_left(world: World) -> None:
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {})
    assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (400, "3")


async def test_failed_authentications_are_charged_to_the_address(world: World) -> None:
    for _ in range(3):
        assert (await stranger(world)).status_code == 401
    answer = await stranger(world)
    assert (answer.status_code, answer.json()["error"]) == (429, "RateLimitExceeded")
    assert answer.headers["ratelimit-limit"] == "3"
    assert (await stranger(world, "203.0.113.9")).status_code == 401


async def test_a_drained_address_costs_no_key_lookups(world: World) -> None:
    for _ in range(3):
        await stranger(world)
    asked = len(world.plc_host.paths)
    token = world.token("did:plc:" + "b" * 24, REVOKE_VERIFICATIONS)
    answer = await stranger(world, authorization=f"Bearer {token}")
    assert answer.status_code == 429
    assert len(world.plc_host.paths) == asked


async def test_an_owner_revokes_while_strangers_drain_the_address_that_he_shares(
    world: World,
) -> None:
    space = await world.space(ALICE)
    await world.invite(space, "ab" * 32)
    await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    for _ in range(20):
        await world.request("POST", PATH, json={})
    assert (await world.request("POST", PATH, json={})).status_code == 429
    body = {"spaceUri": space, "tokenHash": "ab" * 32}
    answer = await world.call(ALICE, REVOKE_INVITE, body)
    assert answer.json() == {"ok": True}


async def test_what_costs_nothing_is_not_charged(world: World) -> None:
    for path in ("/", "/xrpc/_health", "/.well-known/did.json", "/xrpc/com.example.unknown", "/x"):
        for _ in range(5):
            assert (await world.request("GET", path)).status_code != 429
    assert (await world.request("POST", PATH, json={})).status_code == 401


async def test_an_open_call_is_charged_to_the_address(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(*_: object) -> dict[str, Any]:
        return EMPTY

    monkeypatch.setitem(METHODS, REVOKE_VERIFICATIONS, Method(answer, is_open=True))
    found = [await stranger(world) for _ in range(4)]
    assert [one.status_code for one in found] == [200, 200, 200, 429]
    assert found[0].headers["ratelimit-limit"] == "3"


class Gate:
    """A handler that waits until it is let go."""

    def __init__(self) -> None:
        self.waiting = 0
        self.cancelled = 0
        self.open = asyncio.Event()

    async def __call__(self, *_: object) -> dict[str, Any]:
        self.waiting += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return EMPTY

    async def has(self, count: int) -> None:
        async def are_there() -> bool:
            return self.waiting >= count

        await eventually(are_there)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    monkeypatch.setitem(METHODS, REVOKE_VERIFICATIONS, Method(made))
    return made


async def test_one_caller_can_not_have_all_calls(world: World, gate: Gate) -> None:
    async with asyncio.TaskGroup() as tasks:
        calls = [
            tasks.create_task(world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []}))
            for _ in range(2)
        ]
        await gate.has(2)
        third = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
        assert (third.status_code, third.json()["error"]) == (429, "RateLimitExceeded")
        assert third.headers["retry-after"] == "1"
        calls.append(tasks.create_task(world.call(BOB, REVOKE_VERIFICATIONS, {"uris": []})))
        await gate.has(3)
        gate.open.set()
    assert [call.result().status_code for call in calls] == [200] * 3


async def test_too_many_calls_at_once_are_refused_as_json(
    world: World, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrpc.serving.limits.PARTS", 1)
    async with world.serving():
        async with asyncio.TaskGroup() as tasks:
            for caller, calls in ((ALICE, 3), (BOB, 3), (CAROL, 2)):
                await world.ask(caller, LIST_SPACES, scope="owner")  # no stranger from then on
                for _ in range(calls):
                    tasks.create_task(world.call(caller, REVOKE_VERIFICATIONS, {"uris": []}))
            await gate.has(8)
            answer = await world.request("POST", PATH, json={}, headers={"origin": "https://x.y"})
            assert (answer.status_code, answer.json()["error"]) == (503, "NotEnoughResources")
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["access-control-allow-origin"] == "*"
            assert (await world.request("GET", "/xrpc/_health")).status_code == 200
            gate.open.set()
        assert (await world.request("POST", PATH, json={})).status_code == 401


async def test_calls_whose_bodies_do_not_come_keep_nobody_from_calling(world: World) -> None:
    slow = []
    for caller in (ALICE, BOB, CAROL, OPERATOR):  # each has its quarter
        await world.ask(caller, LIST_SPACES, scope="owner")
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(world.url).port)
            head = [
                f"POST {PATH} HTTP/1.1", "Host: x", "Content-Type: application/json",
                f"Authorization: Bearer {world.token(caller, REVOKE_VERIFICATIONS)}",
                "Content-Length: 99", "", "",
            ]  # fmt: skip
            writer.write("\r\n".join(head).encode())
            slow.append((reader, writer))
    await asyncio.sleep(0.1)
    assert (await world.call(STRANGER, REVOKE_VERIFICATIONS, {"uris": []})).status_code == 200
    for reader, writer in slow:
        assert (await reader.readline()).startswith(b"HTTP/1.1 504")
        writer.close()


async def test_a_call_that_overruns_is_given_up_and_told_so(world: World, gate: Gate) -> None:
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    assert (answer.status_code, answer.json()["error"]) == (504, "UpstreamTimeout")
    assert "0.5 s" in answer.json()["message"]
    assert gate.cancelled == 1


async def test_a_time_out_of_a_method_s_own_is_our_own_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> dict[str, Any]:
        raise TimeoutError

    monkeypatch.setitem(METHODS, REVOKE_VERIFICATIONS, Method(fail))
    answer = await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    assert (answer.status_code, answer.json()["error"]) == (500, "InternalServerError")


@pytest.mark.parametrize(("size", "status"), [(100, 401), (101, 400)])
async def test_parameters_may_be_as_long_as_the_limit(world: World, size: int, status: int) -> None:
    answer = await world.request("POST", f"{PATH}?{'x' * size}", json={})
    assert answer.status_code == status
    if status == 400:
        assert answer.json() == {
            "error": "InvalidRequest",
            "message": "the parameters must be at most 100 bytes",
        }


async def test_pages_of_other_origins_may_read_the_headers(world: World) -> None:
    answer = await stranger(world, origin="https://x.y")
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"ratelimit-remaining", "retry-after", "atproto-repo-rev"} <= set(exposed)
