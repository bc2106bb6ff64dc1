"""Over HTTP: who is charged for which token, how often one is taken, and what a 401 brings."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.guests import LIST_SPACES
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    CAROL,
    OPERATOR,
    REVOKE_VERIFICATIONS,
    STRANGER,
    World,
    make_world,
)
from xrpc.methods.table import METHODS, Method

HOUR = 3_600
NOTHING: dict[str, Any] = {"revokedVerifications": [], "failedRevocations": []}
Serve = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def make(**settings: Any) -> AsyncIterator[World]:
        async with make_world(tmp_path, **settings) as world, world.serving():
            for caller in (ALICE, BOB, CAROL):
                await world.account(caller, session=False)
            yield world

    return make


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the procedure do nothing but to answer: these tests are about what comes before."""

    async def do_nothing(*_: object) -> dict[str, Any]:
        return NOTHING

    monkeypatch.setitem(METHODS, REVOKE_VERIFICATIONS, Method(do_nothing))


def bearer(world: World, caller: str, nsid: str = REVOKE_VERIFICATIONS, **claims: Any) -> str:
    return f"Bearer {world.token(caller, nsid, **claims)}"


async def post(world: World, *authorizations: str) -> httpx.Response:
    headers = [("authorization", each) for each in authorizations]
    path = f"/xrpc/{REVOKE_VERIFICATIONS}"
    return await world.request("POST", path, json={"uris": []}, headers=headers)


async def get(world: World, *authorizations: str) -> httpx.Response:
    headers = [("authorization", each) for each in authorizations]
    path = f"/xrpc/{LIST_SPACES}?scope=owner"
    return await world.request("GET", path, headers=headers)


def said(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error")


# --- how often ---


async def test_a_query_takes_a_token_until_it_ends_and_a_procedure_takes_it_once(
    serve: Serve,
) -> None:
    async with serve() as world:
        for_query, for_procedure = bearer(world, ALICE, LIST_SPACES), bearer(world, ALICE)
        assert [(await get(world, for_query)).status_code for _ in range(3)] == [200] * 3
        assert await world.db.all("select * from used_tokens") == []
        assert said(await post(world, for_procedure)) == (200, None)
        assert said(await post(world, for_procedure)) == (401, "JwtReplayed")
        world.clock.now += 120
        assert said(await get(world, for_query)) == (200, None)
        world.clock.now += 1
        assert said(await get(world, for_query)) == (401, "JwtExpired")


async def test_a_query_s_token_without_a_jti_is_taken_as_often(serve: Serve) -> None:
    async with serve() as world:
        token = bearer(world, ALICE, LIST_SPACES, jti=None)
        assert [(await get(world, token)).status_code for _ in range(3)] == [200] * 3


async def test_queries_take_no_room_of_procedures(serve: Serve, idle: None) -> None:
    async with serve() as world:
        later = int(world.clock()) + HOUR
        for _ in range(60):
            answer = await get(world, bearer(world, ALICE, LIST_SPACES, exp=later))
            assert answer.status_code == 200
        assert said(await post(world, bearer(world, ALICE, exp=later))) == (200, None)


# --- whom it costs ---


async def test_an_account_gets_all_the_calls_that_are_promised_within_a_minute(
    serve: Serve, idle: None
) -> None:
    limit = 1_200  # more than were once remembered of an account
    async with (
        serve(rate_limit=limit, rate_limit_address=3) as world,
        httpx.AsyncClient(trust_env=False, timeout=20) as client,
    ):
        url = f"{world.url}/xrpc/{REVOKE_VERIFICATIONS}"
        for number in range(limit + 1):
            headers = {"authorization": bearer(world, ALICE)}
            answer = await client.post(url, json={"uris": []}, headers=headers)
            assert answer.status_code == (200 if number < limit else 429), number
        assert answer.json() == {
            "error": "RateLimitExceeded", "message": "too many calls; try again in 1 s",
        }  # fmt: skip
        assert answer.headers["retry-after"] == "1"
        # Accounts that were never seen, behind the same address as its PDS's.
        for fresh in (BOB, CAROL, OPERATOR, STRANGER):
            assert said(await post(world, bearer(world, fresh))) == (200, None)


async def test_who_uses_too_many_long_tokens_is_charged_for_himself_and_told_when(
    serve: Serve, idle: None
) -> None:
    async with serve(rate_limit=100, rate_limit_address=3) as world:
        later = int(world.clock()) + HOUR
        for _ in range(50):
            assert said(await post(world, bearer(world, ALICE, exp=later))) == (200, None)
        for _ in range(5):
            refused = await post(world, bearer(world, ALICE, exp=later))
            assert refused.json() == {
                "error": "RateLimitExceeded",
                "message": "too many of your tokens that live long are in use; use tokens of a "
                "minute, or try again in 3661 s",
            }
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "3661"
        assert said(await post(world, bearer(world, BOB))) == (200, None)
        world.clock.now += 3_661
        assert said(await post(world, bearer(world, ALICE))) == (200, None)


async def test_who_shows_used_tokens_pays_himself_and_not_for_all_of_his_pds(
    serve: Serve, idle: None
) -> None:
    async with serve(rate_limit=8, rate_limit_address=2) as world:
        used = bearer(world, ALICE, jti=None)  # as some PDSes make several in a second
        assert said(await post(world, used)) == (200, None)
        for _ in range(5):
            refused = await post(world, used)
            assert said(refused) == (401, "JwtReplayed")
        assert said(await post(world, bearer(world, BOB))) == (200, None)
        answer = await post(world, bearer(world, ALICE))
        assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (200, "1")


async def test_a_429_uses_no_token_up(serve: Serve, idle: None) -> None:
    async with serve(rate_limit=1, rate_window=30) as world:
        assert said(await post(world, bearer(world, ALICE))) == (200, None)
        token = bearer(world, ALICE)
        refused = await post(world, token)
        assert said(refused) == (429, "RateLimitExceeded")
        world.clock.now += int(refused.headers["retry-after"])
        assert said(await post(world, token)) == (200, None)


async def test_a_token_that_proves_nobody_is_still_charged_to_the_address(serve: Serve) -> None:
    async with serve(rate_limit_address=2) as world:
        for wrong in (bearer(world, ALICE, aud="did:web:x.y"), bearer(world, ALICE, exp=1)):
            assert (await post(world, wrong)).status_code == 401
        assert said(await post(world, bearer(world, BOB))) == (429, "RateLimitExceeded")


# --- headers ---

Ask = Callable[..., Awaitable[httpx.Response]]


@pytest.mark.parametrize("ask", [get, post])
async def test_a_401_says_how_to_prove_oneself(serve: Serve, ask: Ask) -> None:
    async with serve() as world:
        assert (await ask(world)).headers["www-authenticate"] == 'Bearer realm="atproto"'
        answer = await ask(world, bearer(world, ALICE, "com.example.other"))
        assert answer.headers["www-authenticate"] == (
            'Bearer realm="atproto", error="invalid_token"'
        )
        nsid = REVOKE_VERIFICATIONS if ask is post else LIST_SPACES
        assert answer.json()["message"] == (
            "lxm: the token is for another method; com.atproto.server.getServiceAuth of your PDS "
            f"gives the right token, with aud=did:web:rescind.test and lxm={nsid}"
        )


async def test_an_open_method_that_lacks_a_token_says_so_too(serve: Serve) -> None:
    async with serve() as world:
        uri = f"at://{ALICE}/rsvp.atmo.space/party"
        answer = await world.ask(None, "rsvp.atmo.space.getSpace", uri=uri)
        assert said(answer) == (401, "AuthMissing")
        assert answer.headers["www-authenticate"] == 'Bearer realm="atproto"'
        assert "com.atproto.server.getServiceAuth" in answer.json()["message"]
        assert "aud=did:web:rescind.test" in answer.json()["message"]


@pytest.mark.parametrize("ask", [get, post])
async def test_two_authorization_headers_are_refused(serve: Serve, ask: Ask) -> None:
    nsid = REVOKE_VERIFICATIONS if ask is post else LIST_SPACES
    async with serve() as world:
        good, other = bearer(world, ALICE, nsid), bearer(world, BOB, nsid)
        assert said(await ask(world, good, other)) == (401, "BadJwt")
        assert said(await ask(world, good, good)) == (401, "BadJwt")
        assert said(await ask(world, good, "")) == (401, "BadJwt")
        assert said(await ask(world, "", good)) == (401, "AuthMissing")
        assert said(await ask(world, "Basic YTpi", good)) == (401, "AuthMissing")
        assert said(await ask(world, good)) == (200, None)
