"""Used tokens are remembered until they end, in bounded room that nobody fills for the others."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.config.settings import Settings
from xrpc.auth.refusals import Refused
from xrpc.auth.service_jwt import ServiceJwt
from xrpc.auth.used_tokens import FEW, HOUR, LEEWAY, MAX_USED, MINUTE, UsedTokens

NOW = 1_000_000.0
DEFAULT = Settings()


def jwt(
    issuer: str, jti: str | None, life: float = 60, *, now: float = NOW, iat: float = 0
) -> ServiceJwt:
    """Return a token that ends `life` seconds from now; `iat` is as many seconds ahead."""
    return ServiceJwt(
        alg="", iss=issuer, aud="", lxm="", jti=jti, exp=now + life, iat=now + iat, nbf=None,
        signed=f"{issuer}{life}".encode(), signature=b"",
    )  # fmt: skip


def take(used: UsedTokens, token: ServiceJwt, now: float = NOW) -> str | int:
    """Return `taken`, or the reason, or the seconds to wait."""
    try:
        used.add(token, now)
    except Refused as refused:
        return refused.wait or refused.reason
    return "taken"


def use(used: UsedTokens, issuer: str, count: int, life: float = 60, now: float = NOW) -> int:
    """Use new tokens of an issuer; return how many were taken, until one was not."""
    for number in range(count):
        if take(used, jt := jwt(issuer, f"{now} {number} {life}", life, now=now), now) != "taken":
            assert take(used, jt, now) != "replayed"
            return number
    return count


@pytest.fixture
def used() -> UsedTokens:
    return UsedTokens.at_rate(DEFAULT.rate_limit, DEFAULT.rate_window)


def test_a_token_is_remembered_for_as_long_as_a_clock_behind_would_take_it(
    used: UsedTokens,
) -> None:
    token = jwt("a", "1")
    assert take(used, token) == "taken"
    for later in (0, 60, 119.9, 120):
        assert take(used, token, NOW + later) == "replayed"
    assert take(used, token, NOW + 120.1) == "expired"
    assert take(used, jwt("b", "1", now=NOW + 121), NOW + 121) == "taken"
    assert len(used) == 1
    assert set(used._issuers) == {"b"}


def test_a_token_is_told_by_issuer_and_jti(used: UsedTokens) -> None:
    assert take(used, jwt("a", "1")) == "taken"
    assert take(used, jwt("b", "1")) == "taken"
    assert take(used, jwt("a", "1", 61)) == "replayed"


def test_without_a_jti_it_is_told_by_issuer_and_what_is_signed(used: UsedTokens) -> None:
    token = jwt("a", None)
    assert take(used, token) == "taken"
    assert take(used, token._replace(signature=b"the other s")) == "replayed"
    assert take(used, token._replace(iss="b")) == "taken"
    assert take(used, token._replace(signed=b"of the next second")) == "taken"


def test_no_jti_can_be_taken_for_what_is_signed(used: UsedTokens) -> None:
    token = jwt("a", None)
    assert take(used, token) == "taken"
    for jti in (token.signed.decode(), f"signed {token.signed.decode()}"):
        assert take(used, token._replace(jti=jti)) == "taken"


@pytest.mark.parametrize("ahead", [-60, 0, 60])
def test_an_account_uses_as_many_tokens_of_a_minute_as_it_may_make_calls(
    used: UsedTokens, ahead: int
) -> None:
    rate = DEFAULT.rate_limit / DEFAULT.rate_window
    calls = [NOW] * DEFAULT.rate_limit + [NOW + n / rate for n in range(int(300 * rate))]
    for number, now in enumerate(calls):
        token = jwt("a", f"{number}", 60 + ahead, now=now, iat=ahead)
        assert take(used, token, now) == "taken", number


@pytest.mark.parametrize(("limit", "window"), [(1, 3_600), (3, 1), (20_000, 300)])
def test_so_it_is_at_whatever_rate_is_set(limit: int, window: int) -> None:
    used = UsedTokens.at_rate(limit, window)
    assert use(used, "a", limit) == limit
    later = int(limit * 60 / window)
    assert use(used, "a", later, now=NOW + 60) == later


def test_tokens_that_live_long_are_few_and_the_wait_that_is_told_is_enough(
    used: UsedTokens,
) -> None:
    count = use(used, "a", 100_000, HOUR)
    assert 50 <= count < 500
    wait = take(used, jwt("a", "more", HOUR))
    assert isinstance(wait, int)
    assert wait == HOUR + LEEWAY + 1
    assert take(used, jwt("a", "more", HOUR, now=NOW + wait - 2), NOW + wait - 2) != "taken"
    assert take(used, jwt("a", "more", HOUR, now=NOW + wait), NOW + wait) == "taken"
    assert take(used, jwt("b", "more", HOUR)) == "taken"


def test_the_wait_is_for_as_many_short_ones_as_make_room_for_a_long_one() -> None:
    used = UsedTokens(2)
    for number in range(1_500):
        assert take(used, jwt("a", f"{number}", 60 + number / 1_500)) == "taken"
    token = jwt("a", "long", HOUR)
    wait = take(used, token)
    assert isinstance(wait, int)
    assert 120 < wait <= 122
    assert take(used, token, NOW + wait) == "taken"


@pytest.mark.parametrize("life", [60, 120, HOUR])
def test_three_accounts_do_not_fill_the_room_for_all(used: UsedTokens, life: int) -> None:
    for issuer in ("x", "y", "z"):
        use(used, issuer, MAX_USED, life)
    assert use(used, "a", DEFAULT.rate_limit) == DEFAULT.rate_limit
    assert take(used, jwt("a", "long", HOUR)) == "taken"


def test_half_of_the_room_is_for_tokens_of_a_minute(used: UsedTokens) -> None:
    taken = sum(use(used, f"x{issuer}", 1_000, HOUR) for issuer in range(5_000))
    assert taken == MAX_USED // 2 == len(used)
    assert take(used, jwt("new", "61", 61)) == 121 + HOUR - MINUTE
    assert use(used, "a", DEFAULT.rate_limit) == DEFAULT.rate_limit


def test_however_many_accounts_try_who_comes_late_finds_room(used: UsedTokens) -> None:
    taken = [use(used, f"x{issuer}", MAX_USED) for issuer in range(1_000)]
    assert MAX_USED * 3 // 4 < sum(taken) == len(used) < MAX_USED
    assert use(used, "late", 10) == FEW


def test_a_full_room_refuses_and_forgets_nothing() -> None:
    used = UsedTokens(1, size=16)
    assert use(used, "a", 9) == FEW
    for number in range(16 - FEW):
        assert take(used, jwt(f"{number}", "1")) == "taken"
    assert take(used, jwt("late", "1")) == 121
    assert take(used, jwt("0", "1")) == "replayed"
    assert len(used) == 16
    assert take(used, jwt("late", "1", now=NOW + 121), NOW + 121) == "taken"


def test_what_was_used_before_a_restart_is_remembered_as_before(used: UsedTokens) -> None:
    tokens = [jwt("a", f"{number}", life) for number, life in enumerate((30, 60, 120, HOUR))]
    after = UsedTokens(1_000)
    for written in [used.add(token, NOW) for token in tokens]:
        for _ in range(2):
            after.restore(written.issuer, written.key, written.ends_at, NOW + 20)
    assert [take(after, token, NOW + 20) for token in tokens] == ["replayed"] * 4
    assert take(after, jwt("b", "1", HOUR, now=NOW + 10_000), NOW + 10_000) == "taken"
    assert (len(after), after._long, set(after._issuers)) == (1, 1, {"b"})


lives = st.sampled_from([-59.5, 0, 1, 59.5, 60, 61, 600, HOUR])
uses = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), lives, st.floats(0, 90)))


@given(uses)
def test_whatever_comes_none_is_taken_twice_and_the_room_is_bounded(
    steps: Iterable[tuple[str, int, float, float]],
) -> None:
    used, taken, now = UsedTokens(1, size=20), dict[tuple[str, str], float](), NOW
    for issuer, jti, life, pause in steps:
        now += pause
        token = jwt(issuer, str(jti), life, now=now)
        alive = {key for key, end in taken.items() if end >= now}
        answer = take(used, token, now)
        if (issuer, str(jti)) in alive:
            assert answer == "replayed"
        elif answer == "taken":
            alive.add((issuer, str(jti)))
            taken[issuer, str(jti)] = token.exp + LEEWAY
        else:
            assert isinstance(answer, int)
            assert answer >= 1
        assert len(used) == len(alive) <= 20
        assert used._long <= 10
