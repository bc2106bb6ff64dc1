"""Tokens are renewed, moved accounts followed, and who must log in again is waited for."""

import asyncio
import socket

import pytest

from tests.support.fake_pds import DELETE, REFRESH, says, waiting
from tests.support.publishing import granted, is_state, state, world
from tests.support.xrpc_world import ALICE, VERIFICATION, World, eventually
from xrpc.publishing.sessions import KEEP_ALIVE, Session

__all__ = ["world"]  # fixtures

YEAR = 365 * 86_400  # seconds


# --- sessions ---


async def test_a_token_that_has_run_out_is_renewed_once_for_all(world: World) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 3)
    world.pds.expire()

    await asyncio.gather(*(world.publisher.publish_repo(ALICE) for _ in range(5)))

    assert len(world.pds.of(REFRESH)) == 1
    assert {await state(world, uri) for uri in uris} == {"sent"}


@pytest.mark.parametrize(
    "refusal", [(400, "ExpiredToken"), (400, "InvalidToken"), (401, "AuthMissing")]
)
async def test_a_token_that_is_refused_is_renewed_and_the_new_one_stored(
    world: World, refusal: tuple[int, str]
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, says(*refusal))

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"
    # Each refresh token is used once, so the stored one must be the one that is still good.
    assert (await world.sessions.get(ALICE)).refresh in world.pds.refresh


async def test_a_session_that_is_refused_blocks_the_rows_and_a_login_takes_them_up(
    world: World,
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 2)
    world.pds.expire()
    world.pds.refresh.clear()  # the app password was withdrawn

    await world.publisher.publish_repo(ALICE)

    rows = [await world.row(uri) for uri in uris]
    assert {row.state for row in rows} == {"blocked"}
    assert f"rescind login {ALICE}" in (rows[0].error or "")
    assert "app password withdrawn?" in (rows[0].error or "")
    async with world.publishing():
        await world.log_in(ALICE, world.pds)
        await eventually(lambda: is_state(world, uris[0], "sent"))
    assert world.pds.repos[ALICE] == {}


async def test_a_login_while_the_session_is_being_refused_is_not_missed(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    gate = asyncio.Event()
    world.pds.expire()
    world.pds.refresh.clear()  # the app password was withdrawn
    world.pds.fail(REFRESH, waiting(gate))
    task = asyncio.create_task(world.publisher.publish_repo(ALICE))
    async with asyncio.timeout(5):
        while not world.pds.of(REFRESH):
            await asyncio.sleep(0.01)
    await world.log_in(ALICE, world.pds)
    gate.set()
    await task

    assert await state(world, uri) == "sent"
    assert world.pds.repos[ALICE] == {}


async def test_a_login_after_no_session_was_found_is_not_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.account(ALICE, session=False)
    [uri] = await granted(world, ALICE)
    get = world.sessions.get

    async def get_and_log_in(did: str) -> Session:
        monkeypatch.setattr(world.sessions, "get", get)
        try:
            return await get(did)
        finally:
            await world.log_in(ALICE, world.pds)

    monkeypatch.setattr(world.sessions, "get", get_and_log_in)
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"


async def test_without_a_session_the_rows_are_blocked_and_the_pds_is_left_alone(
    world: World,
) -> None:
    await world.account(ALICE, session=False)
    [uri] = await granted(world, ALICE)

    await world.publisher.publish_repo(ALICE)

    row = await world.row(uri)
    assert (row.state, row.error) == (
        "blocked",
        f"no session for {ALICE}: run `rescind login {ALICE}`",
    )
    assert world.pds.calls == []


async def test_a_refresh_that_fails_for_now_does_not_block(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.expire()
    world.pds.fail(REFRESH, says(503))

    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "pending"

    world.clock.now += 10
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"


async def test_what_was_put_off_is_published_although_the_clock_is_set_back_by_a_year(
    world: World,
) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.clock.now += YEAR
    world.pds.fail(DELETE, says(503))
    async with world.publishing():
        await eventually(lambda: has_failed(world, uri))
        world.clock.now -= YEAR
        await eventually(lambda: is_sent(world, uri))


async def has_failed(world: World, uri: str) -> bool:
    return (await world.row(uri)).error is not None


async def is_sent(world: World, uri: str) -> bool:
    return await state(world, uri) == "sent"


async def test_a_session_that_is_seldom_used_is_refreshed_before_it_ends(world: World) -> None:
    await world.account(ALICE)
    before = await world.sessions.get(ALICE)
    world.clock.now += KEEP_ALIVE + 1

    async with world.publishing():
        await eventually(lambda: has_other_tokens(world, before.refresh))

    assert len(world.pds.of(REFRESH)) == 1


async def has_other_tokens(world: World, refresh: str) -> bool:
    return (await world.sessions.get(ALICE)).refresh != refresh


# --- accounts that move ---


async def move(world: World, *, tokens_too: bool = False) -> tuple[str, str]:
    """Move Alice's repo to another PDS; return her row's URI and the new PDS's URL."""
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    old, new = world.pds, await world.add_pds()
    new.add(ALICE, "the-new-one")
    new.repos[ALICE], new.revs[ALICE] = old.repos.pop(ALICE), old.revs[ALICE]
    if tokens_too:
        new.access, new.refresh = old.access, old.refresh
    await world.resolver.resolve(ALICE)  # the old document, still fresh for minutes
    handle = world.plc.documents
    handle[ALICE] = {
        **handle[ALICE],
        "service": [{**handle[ALICE]["service"][0], "serviceEndpoint": new.url}],
    }
    world.pds = new
    return uri, old.url


async def test_a_moved_account_is_followed_and_its_session_is_asked_for(world: World) -> None:
    uri, _ = await move(world)
    new = world.pds

    await world.publisher.publish_repo(ALICE)

    row = await world.row(uri)
    assert row.state == "blocked"
    assert row.error == (
        f"{ALICE} has moved to {new.url}, where its session is not taken; "
        f"run `rescind login {ALICE}`"
    )
    async with world.publishing():
        await world.log_in(ALICE, new)
        await eventually(lambda: is_state(world, uri, "sent"))
    assert new.repos[ALICE] == {}
    assert new.commits[0].deleted == (f"{VERIFICATION}/key0",)


async def test_a_session_that_the_new_pds_takes_goes_on_there(world: World) -> None:
    uri, _ = await move(world, tokens_too=True)

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"
    assert world.pds.repos[ALICE] == {}


async def test_an_account_that_left_a_dead_pds_is_followed(world: World) -> None:
    uri, _ = await move(world, tokens_too=True)
    old = (await world.resolver.resolve(ALICE)).pds
    assert old is not None
    # What answers there now is nothing at all.
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    document = world.plc.documents[ALICE]
    world.plc.documents[ALICE] = {
        **document,
        "service": [{**document["service"][0], "serviceEndpoint": dead}],
    }
    world.resolver.forget(ALICE)
    await world.resolver.resolve(ALICE)
    world.plc.documents[ALICE] = document

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"


async def test_a_did_that_is_not_resolved_is_tried_again(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    kept = world.plc.documents.pop(ALICE)
    world.resolver.forget(ALICE)

    await world.publisher.publish_repo(ALICE)
    row = await world.row(uri)
    assert row.state == "pending"
    assert "can't be resolved" in (row.error or "")

    world.plc.documents[ALICE] = kept
    world.resolver.forget(ALICE)
    world.clock.now = row.due_at / 1000 + 1
    await world.publisher.publish_repo(ALICE)
    assert await state(world, uri) == "sent"
