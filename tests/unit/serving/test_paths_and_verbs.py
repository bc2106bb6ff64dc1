"""Paths are taken as clients write them, and every verb is told which one is right."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.xrpc_world import ALICE, REVOKE_VERIFICATIONS, World, make_world
from xrpc.methods.table import METHODS

LIST_SPACES = "rsvp.atmo.space.listSpaces"
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "DISPATCH")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE, session=False)
        yield made


def bearer(world: World, nsid: str) -> dict[str, str]:
    return {"authorization": f"Bearer {world.token(ALICE, nsid)}"}


async def test_one_slash_at_the_end_of_a_method_is_tolerated(world: World) -> None:
    answer = await world.request(
        "POST",
        f"/xrpc/{REVOKE_VERIFICATIONS}/",
        json={"uris": []},
        headers=bearer(world, REVOKE_VERIFICATIONS),
    )
    assert answer.json() == {"revokedVerifications": [], "failedRevocations": []}
    answer = await world.request(
        "GET", f"/xrpc/{LIST_SPACES}/?limit=1", headers=bearer(world, LIST_SPACES)
    )
    assert answer.json() == {"spaces": []}
    assert (await world.request("GET", "/xrpc/_health/")).status_code == 200
    assert world.counts.calls[LIST_SPACES, 200] == 1


@pytest.mark.parametrize("end", ["//", "/x", "/%2f"])
async def test_more_than_a_slash_is_another_path(world: World, end: str) -> None:
    for path in (f"/xrpc/{LIST_SPACES}", "/xrpc/_health"):
        answer = await world.request("GET", path + end, headers=bearer(world, LIST_SPACES))
        assert answer.json()["error"] in ("NotFound", "MethodNotImplemented")


async def test_an_unknown_method_is_not_implemented_with_a_slash_either(world: World) -> None:
    answer = await world.request("GET", "/xrpc/com.example.unknown/")
    assert (answer.status_code, answer.json()["error"]) == (501, "MethodNotImplemented")


@pytest.mark.parametrize("end", ["", "/"])
async def test_health_is_asked_with_get_only(world: World, end: str) -> None:
    for verb in VERBS:
        answer = await world.request(verb, f"/xrpc/_health{end}")
        if verb == "GET":
            assert answer.status_code == 200
            continue
        assert (answer.status_code, answer.json()["error"]) == (405, "MethodNotAllowed")
        assert answer.headers["allow"] == "GET, HEAD"
    assert (await world.request("HEAD", f"/xrpc/_health{end}")).status_code == 200


@pytest.mark.parametrize("nsid", METHODS)
async def test_every_verb_is_told_the_one_of_the_method(world: World, nsid: str) -> None:
    allowed = {(await world.request(verb, f"/xrpc/{nsid}")).headers.get("allow") for verb in VERBS}
    assert allowed in ({None, "GET"}, {None, "POST"})


async def test_an_empty_cursor_is_none(world: World) -> None:
    for key in ("one", "two"):
        await world.space(ALICE, key)

    async def page(query: str) -> dict[str, object]:
        path = f"/xrpc/{LIST_SPACES}?{query}"
        answer = await world.request("GET", path, headers=bearer(world, LIST_SPACES))
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    whole = await page("limit=1")
    for query in (
        "limit=1&cursor=",
        "cursor=&limit=1",
        "limit=1&cursor",
        "cursor=&cursor=&limit=1",
    ):
        assert await page(query) == whole
    second = await page(f"limit=1&cursor={whole['cursor']}")
    assert await page(f"limit=1&cursor=&cursor={whole['cursor']}") == second


async def test_an_empty_cursor_is_none_for_verifications_too(world: World) -> None:
    nsid = "tools.ozone.verification.listVerifications"
    uri = await world.verification(ALICE)
    answer = await world.ask(ALICE, nsid, issuers=ALICE, cursor="")
    assert [view["uri"] for view in answer.json()["verifications"]] == [uri]


async def test_no_other_parameter_may_be_empty(world: World) -> None:
    for query in ("limit=", "type=", "cursor=%20"):
        path = f"/xrpc/{LIST_SPACES}?{query}"
        answer = await world.request("GET", path, headers=bearer(world, LIST_SPACES))
        assert (answer.status_code, answer.json()["error"]) == (400, "InvalidRequest")
