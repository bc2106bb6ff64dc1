"""A 401 is about the token or the password whatever its body is, as millipds writes it."""

import pytest

from indexer import status
from tests.support.fake_pds import DELETE, LOG_IN, REFRESH, Fault, raw, says
from tests.support.publishing import granted, state, world
from tests.support.xrpc_world import ALICE, BOB, World
from xrpc.publishing.pds import PdsRefusedError

__all__ = ["world"]  # fixtures

PLAIN = raw(401, b"401: Unauthorized", "Content-Type: text/plain")
NAMED = says(401, "AuthMissing")


@pytest.mark.parametrize("refusal", [PLAIN, raw(401, b""), raw(401, b"[]")])
async def test_a_401_without_a_name_renews_the_token(world: World, refusal: Fault) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, refusal)

    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"
    assert len(world.pds.of(REFRESH)) == 1


@pytest.mark.parametrize("refusal", [PLAIN, NAMED])
async def test_who_is_refused_with_a_new_token_too_is_blocked_and_told_in_words(
    world: World, refusal: Fault
) -> None:
    await world.account(ALICE)
    uris = await granted(world, ALICE, 2)
    world.pds.always["com.atproto.repo.applyWrites"] = world.pds.always[DELETE] = refusal

    await world.publisher.publish_repo(ALICE)

    assert [await state(world, uri) for uri in uris] == ["blocked"] * 2
    assert len(world.pds.of(REFRESH)) == 1
    calls = len(world.pds.calls)
    await world.publisher.publish_repo(ALICE)
    assert len(world.pds.calls) == calls
    shown = status.render(await status.gather(world.db, "relay.test", world.now))
    assert "the PDS refuses also the token that it has just renewed" in shown
    assert f"rescind login {ALICE}" in shown


async def test_a_refresh_that_is_refused_without_a_name_blocks(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, PLAIN)
    world.pds.fail(REFRESH, PLAIN)

    await world.publisher.publish_repo(ALICE)

    row = await world.row(uri)
    assert row.state == "blocked"
    assert "HTTP 401" in (row.error or "")
    assert "app password withdrawn?" in (row.error or "")


async def test_the_other_accounts_of_that_host_go_on(world: World) -> None:
    await world.account(ALICE)
    await world.account(BOB)
    [blocked], [sent] = await granted(world, ALICE), await granted(world, BOB)
    world.pds.fail(DELETE, PLAIN, PLAIN)

    await world.publisher.publish_repo(ALICE)
    await world.publisher.publish_repo(BOB)

    assert (await state(world, blocked), await state(world, sent)) == ("blocked", "sent")


async def test_a_login_takes_up_what_was_blocked_by_that(world: World) -> None:
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.fail(DELETE, PLAIN, PLAIN)
    await world.publisher.publish_repo(ALICE)

    await world.log_in(ALICE, world.pds)
    await world.publisher.publish_repo(ALICE)

    assert await state(world, uri) == "sent"


async def test_a_password_that_is_refused_without_a_name_is_told_in_words(world: World) -> None:
    await world.account(ALICE, session=False)
    world.pds.fail(LOG_IN, PLAIN)

    with pytest.raises(PdsRefusedError) as caught:
        await world.log_in(ALICE, world.pds)

    assert str(caught.value) == f"HTTP 401: {world.pds.url} does not take this app password"


@pytest.mark.parametrize("nsid", [DELETE, REFRESH])
async def test_an_account_that_is_not_active_keeps_its_session_and_waits(
    world: World, nsid: str
) -> None:
    """Its PDS says 401 as well, but no new login would help, and none is needed after it."""
    await world.account(ALICE)
    [uri] = await granted(world, ALICE)
    world.pds.expire()
    world.pds.always[nsid] = says(401, "AccountTakedown", "Account has been taken down")

    await world.publisher.publish_repo(ALICE)

    row = await world.row(uri)
    assert row.state == "pending"
    assert "AccountTakedown" in (row.error or "")
    assert await world.sessions.is_usable(world.db, ALICE)
