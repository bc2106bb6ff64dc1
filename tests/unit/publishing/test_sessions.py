"""Sessions are for the publisher alone: sealed at rest, refreshed once, told apart from newer."""

import asyncio
import base64
import multiprocessing
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from indexer.config.settings import Settings
from indexer.identity.model import IdentityError
from tests.support.fake_pds import LOG_IN, LOG_OUT, REFRESH, Fault, raw, says, waiting
from tests.support.xrpc_world import ALICE, BOB, World, eventually, make_world
from xrpc.publishing import sessions as module
from xrpc.publishing.pds import PdsClient, PdsRefusedError, PdsUnavailableError, Tokens
from xrpc.publishing.sessions import NoSessionError, Sessions, Vault


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        await made.account(ALICE)
        yield made


# --- at rest ---


async def test_no_byte_of_a_token_or_password_is_in_the_files(world: World, tmp_path: Path) -> None:
    session = await world.sessions.get(ALICE)
    await world.sessions.renew(session, world.pds.url)
    renewed = await world.sessions.get(ALICE)

    content = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))

    assert ALICE.encode() in content  # it is the right file
    for secret in (session.access, session.refresh, renewed.access, renewed.refresh):
        for part in secret.split("."):
            for form in (part.encode(), base64.b64encode(part.encode()).rstrip(b"=")):
                assert form not in content
    assert world.pds.passwords[ALICE].encode() not in content


async def test_another_key_is_told_with_what_to_do(world: World) -> None:
    other = Sessions(world.db, Vault(b"x" * 32), PdsClient(world.client))
    with pytest.raises(NoSessionError, match=r"sealed with another key.*rescind login"):
        await other.get(ALICE)
    assert await other.exists(ALICE)


def test_what_was_changed_at_rest_is_not_taken() -> None:
    vault = Vault(b"k" * 32)
    sealed = vault.seal(Tokens(ALICE, None, "a", "r"))
    assert vault.unseal(sealed) == ("a", "r")
    for broken in (b"", sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:], b"nonsense"):
        with pytest.raises(NoSessionError):
            vault.unseal(broken)


async def test_a_session_is_not_shown(world: World) -> None:
    session = await world.sessions.get(ALICE)
    assert session.access not in repr(session)
    assert session.refresh not in f"{session}"


# --- the key file ---


def settings(folder: Path, **more: str) -> Settings:
    return Settings.load({"db": folder / "rescind.db", **more})


def test_the_key_file_is_made_once_for_its_owner_s_eyes_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        sealed = Vault.open(settings(tmp_path)).seal(Tokens(ALICE, None, "a", "r"))
    finally:
        os.umask(old)

    key_file = tmp_path / "rescind.db.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert len(key_file.read_text()) == 65
    assert Vault.open(settings(tmp_path)).unseal(sealed) == ("a", "r")
    assert [path.name for path in tmp_path.iterdir()] == ["rescind.db.key"]


def test_a_key_of_the_settings_needs_no_file(tmp_path: Path) -> None:
    key = "ab" * 32
    sealed = Vault.open(settings(tmp_path, secret_key=key)).seal(Tokens(ALICE, None, "a", "r"))
    assert Vault(bytes.fromhex(key)).unseal(sealed) == ("a", "r")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"abc", b"g" * 64, b"a" * 65, b"\xff" * 64])
def test_a_key_file_with_something_else_in_it_is_named_and_kept(
    tmp_path: Path, content: bytes
) -> None:
    key_file = tmp_path / "rescind.db.key"
    key_file.write_bytes(content)
    with pytest.raises(NoSessionError, match=r"rescind\.db\.key does not hold 64 hex digits"):
        Vault.open(settings(tmp_path))
    assert key_file.read_bytes() == content


def test_a_key_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "rescind.db.key").mkdir()
    with pytest.raises(NoSessionError, match=r"rescind\.db\.key can't be used"):
        Vault.open(settings(tmp_path))
    with pytest.raises(NoSessionError, match="can't be used"):
        Vault.open(settings(tmp_path / "missing"))


def _seal(folder: Path, gate: "multiprocessing.synchronize.Barrier", name: str) -> None:
    gate.wait(30)
    for number in range(50):
        place = folder / str(number)
        sealed = Vault.open(settings(place)).seal(Tokens(ALICE, None, "a", "r"))
        (place / name).write_bytes(sealed)


def test_two_processes_that_start_at_once_use_one_key(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).mkdir()
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(2)
    processes = [
        context.Process(target=_seal, args=(tmp_path, gate, name)) for name in ("one", "two")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    for number in range(50):
        place = tmp_path / str(number)
        vault = Vault.open(settings(place))
        for name in ("one", "two"):
            assert vault.unseal((place / name).read_bytes()) == ("a", "r")


# --- refreshed ---


async def test_many_who_need_new_tokens_at_once_make_one_call(world: World) -> None:
    session = await world.sessions.get(ALICE)
    renewed = await asyncio.gather(
        *(world.sessions.renew(session, world.pds.url) for _ in range(20))
    )
    assert len(world.pds.of(REFRESH)) == 1
    assert {each.access for each in renewed} == {(await world.sessions.get(ALICE)).access}


async def test_two_accounts_do_not_wait_for_each_other(world: World) -> None:
    await world.account(BOB)
    gate = asyncio.Event()
    world.pds.fail(REFRESH, waiting(gate))
    alice = asyncio.create_task(
        world.sessions.renew(await world.sessions.get(ALICE), world.pds.url)
    )
    await eventually(lambda: is_refreshing(world))
    async with asyncio.timeout(1):
        await world.sessions.renew(await world.sessions.get(BOB), world.pds.url)
    gate.set()
    await alice


async def is_refreshing(world: World) -> bool:
    return world.pds.busy[REFRESH] > 0


async def test_a_cancelled_refresh_is_finished_so_that_the_session_is_not_lost(
    world: World,
) -> None:
    session = await world.sessions.get(ALICE)
    gate = asyncio.Event()
    world.pds.fail(REFRESH, waiting(gate))
    task = asyncio.create_task(world.sessions.renew(session, world.pds.url))
    await eventually(lambda: is_refreshing(world))
    asyncio.get_running_loop().call_later(0.05, gate.set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    # The task has ended only now that the new tokens are on the disk.
    stored = await world.sessions.get(ALICE)
    assert stored.refresh != session.refresh
    assert stored.refresh in world.pds.refresh


async def test_a_refresh_that_never_ends_does_not_keep_the_daemon_from_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FINISH_WITHIN", 0.1)
    session = await world.sessions.get(ALICE)
    gate = asyncio.Event()
    world.pds.fail(REFRESH, waiting(gate))
    task = asyncio.create_task(world.sessions.renew(session, world.pds.url))
    await eventually(lambda: is_refreshing(world))
    task.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await task
    gate.set()
    await eventually(lambda: is_stored(world))


async def is_stored(world: World) -> bool:
    return (await world.sessions.get(ALICE)).refresh in world.pds.refresh


async def test_a_login_during_a_refresh_is_not_overwritten(world: World) -> None:
    session = await world.sessions.get(ALICE)
    gate = asyncio.Event()
    world.pds.fail(REFRESH, waiting(gate))
    task = asyncio.create_task(world.sessions.renew(session, world.pds.url))
    await eventually(lambda: is_refreshing(world))
    await world.log_in(ALICE, world.pds)
    newest = await world.sessions.get(ALICE)
    gate.set()

    assert (await task).refresh == newest.refresh
    assert (await world.sessions.get(ALICE)).refresh == newest.refresh


async def test_a_refusal_of_old_tokens_says_nothing_of_newer_ones(world: World) -> None:
    session = await world.sessions.get(ALICE)
    gate = asyncio.Event()
    world.pds.refresh.clear()
    world.pds.fail(REFRESH, waiting(gate))
    task = asyncio.create_task(world.sessions.renew(session, world.pds.url))
    await eventually(lambda: is_refreshing(world))
    await world.log_in(ALICE, world.pds)
    gate.set()

    assert (await task).refresh in world.pds.refresh
    assert (await world.sessions.get(ALICE)).refresh in world.pds.refresh


async def test_a_refused_session_stays_refused_until_a_login(world: World) -> None:
    world.pds.refresh.clear()
    session = await world.sessions.get(ALICE)
    for _ in range(2):
        with pytest.raises(NoSessionError, match=r"app password withdrawn.*rescind login"):
            await world.sessions.renew(session, world.pds.url)
    assert len(world.pds.of(REFRESH)) == 1
    with pytest.raises(NoSessionError):
        await world.sessions.get(ALICE)

    await world.log_in(ALICE, world.pds)
    await world.sessions.get(ALICE)


@pytest.mark.parametrize(
    "fault", [says(503), says(429, "RateLimitExceeded"), raw(403, b"<html>"), raw(200, b"{}")]
)
async def test_a_pds_that_is_out_of_order_does_not_end_a_session(
    world: World, fault: Fault
) -> None:
    session = await world.sessions.get(ALICE)
    world.pds.fail(REFRESH, fault)
    with pytest.raises(PdsUnavailableError):
        await world.sessions.renew(session, world.pds.url)
    await world.sessions.renew(await world.sessions.get(ALICE), world.pds.url)


# --- log in, log out ---


async def test_a_login_is_made_at_the_account_s_own_pds_by_did_or_handle(world: World) -> None:
    world.name(ALICE, world.pds.url, "alice.test")
    for name in (ALICE, "alice.test", "Alice.Test"):
        tokens = await world.sessions.log_in(world.resolver, name, world.pds.passwords[ALICE])
        assert tokens.did == ALICE
        assert world.pds.of(LOG_IN)[-1].input["identifier"] == ALICE
    rows = await world.db.all("select actor, action, subject from audit")
    assert {tuple(row) for row in rows} == {("operator", "login", ALICE)}


async def test_a_wrong_password_changes_nothing_and_is_not_repeated(world: World) -> None:
    before = await world.sessions.get(ALICE)
    with capture_logs() as entries, pytest.raises(PdsRefusedError) as caught:
        await world.sessions.log_in(world.resolver, ALICE, "wron-gpas-swor-dxxx")
    assert "wron" not in str(caught.value) + repr(caught.value) + repr(entries)
    assert await world.sessions.get(ALICE) == before


async def test_a_session_of_another_account_is_not_taken(world: World) -> None:
    world.pds.add(BOB)
    world.name(BOB, world.pds.url)
    body = world.pds._tokens_of(ALICE)
    world.pds.fail(LOG_IN, raw(200, str(body).replace("'", '"').encode()))
    with pytest.raises(NoSessionError, match="another account"):
        await world.sessions.log_in(world.resolver, BOB, "x")
    assert not await world.sessions.exists(BOB)


@pytest.mark.parametrize("name", ["did:plc:nobody", "did:", "nobody.test", "no handle", ""])
async def test_an_account_that_is_none_can_not_log_in(world: World, name: str) -> None:
    with pytest.raises(IdentityError):
        await world.sessions.log_in(world.resolver, name, "x")


async def test_an_account_without_a_pds_can_not_log_in(world: World) -> None:
    world.plc.documents[BOB] = {"id": BOB}
    with pytest.raises(NoSessionError, match="names no PDS"):
        await world.sessions.log_in(world.resolver, BOB, "x")


async def test_a_logout_ends_the_session_here_and_there(world: World) -> None:
    session = await world.sessions.get(ALICE)
    assert await world.sessions.log_out(ALICE)
    assert session.refresh not in world.pds.refresh
    assert not await world.sessions.exists(ALICE)
    assert not await world.sessions.log_out(ALICE)


@pytest.mark.parametrize("trouble", ["down", "another key", "refused"])
async def test_a_logout_works_here_whatever_the_pds_does(world: World, trouble: str) -> None:
    sessions = world.sessions
    if trouble == "down":
        world.pds.fail(LOG_OUT, says(503))
    elif trouble == "refused":
        world.pds.refresh.clear()
        with pytest.raises(NoSessionError):
            await sessions.renew(await sessions.get(ALICE), world.pds.url)
    else:
        sessions = Sessions(world.db, Vault(b"x" * 32), PdsClient(world.client))
    assert await sessions.log_out(ALICE)
    assert not await world.sessions.exists(ALICE)
