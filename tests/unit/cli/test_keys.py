"""One key seals all sessions; one that is wrong, missing or open to others is said at the start."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.store import sessions
from tests.support.command import KEY, PASSWORD, free_address, last_line, rescind, rescind_run
from tests.support.fake_pds import LOG_OUT
from tests.support.running_daemon import running
from tests.support.xrpc_world import ALICE, BOB, World, make_world
from xrpc.publishing import keys
from xrpc.publishing.sessions import Vault

OTHER = "ab" * 32


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        for did in (ALICE, BOB):
            await made.account(did)
        yield made


def key_file(world: World, key: str = KEY, mode: int = 0o600) -> Path:
    path = world.settings.key_file
    path.write_text(key)
    path.chmod(mode)
    return path


async def test_a_daemon_with_another_key_says_how_many_sessions_it_can_not_open_and_ends(
    world: World,
) -> None:
    sealed = Vault(bytes.fromhex(OTHER)).seal(await world.log_in(BOB, world.pds))
    async with world.db.transaction() as tx:
        stored = await sessions.load(tx, BOB)
        assert stored is not None
        await sessions.reseal(tx, BOB, stored.sealed, sealed)
    status, _, err = await rescind_run(world, BIND=free_address())
    assert status == 1
    assert "1 of 2 stored sessions are sealed with another key" in last_line(err)
    assert f"({BOB})" in last_line(err)
    assert "rescind logout DID" in last_line(err)


async def test_no_new_key_is_made_beside_sessions_of_another(world: World) -> None:
    for status, _, err in (
        await rescind_run(world, SECRET_KEY="", BIND=free_address()),
        await rescind(world, "login", ALICE, stdin=PASSWORD, SECRET_KEY=""),
        await rescind(world, "key", "rotate", SECRET_KEY=""),
    ):
        assert status == 1
        assert "rescind.db.key is missing, and 2 of 2 stored sessions" in last_line(err)
    assert not world.settings.key_file.exists()


async def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(
    world: World,
) -> None:
    path = key_file(world, mode=0o640)
    for status, _, err in (
        await rescind_run(world, SECRET_KEY="", BIND=free_address()),
        await rescind(world, "login", ALICE, stdin=PASSWORD, SECRET_KEY=""),
    ):
        assert (status, f"run `chmod 600 {path}`" in last_line(err)) == (1, True)
    path.chmod(0o600)
    async with running(world, SECRET_KEY=""):
        pass


async def test_the_status_says_which_sessions_the_key_does_not_open(world: World) -> None:
    async def refused(**given: str) -> list[str | None]:
        status, out, _ = await rescind(world, "status", "--json", **given)
        assert status == 0
        return [session["refused"] for session in json.loads(out)["sessions"]]

    assert await refused() == [None, None]
    problem = "it was sealed with another key than RESCIND_SECRET_KEY"
    assert await refused(SECRET_KEY=OTHER) == [problem, problem]
    found = await refused(SECRET_KEY="")
    assert all(text is not None and "rescind.db.key is missing" in text for text in found)
    assert not world.settings.key_file.exists()


async def test_a_logout_without_the_key_says_that_the_pds_was_not_told(world: World) -> None:
    status, out, _ = await rescind(world, "logout", ALICE, SECRET_KEY=OTHER)
    assert status == 0
    assert f"The session of {ALICE} is forgotten here, but its PDS was not told: " in out
    assert "withdraw the app password" in out
    assert await rescind(world, "logout", BOB) == (0, f"Logged out {BOB}.\n", "")
    assert len(world.pds.of(LOG_OUT)) == 1
    assert not world.settings.key_file.exists()


async def test_a_rotation_seals_all_sessions_with_a_new_key(world: World) -> None:
    path = key_file(world)
    before = [await world.sessions.get(did) for did in (ALICE, BOB)]
    status, out, _ = await rescind(world, "key", "rotate", SECRET_KEY="")
    assert (status, "2 sessions are sealed with the new key" in out) == (0, True)
    new = keys.read(path)
    assert new is not None
    assert new.hex() != KEY
    vault = Vault(new)
    for session, stored in zip(before, await sessions.listing(world.db), strict=True):
        assert vault.unseal(stored.sealed) == (session.access, session.refresh)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not keys.next_file(world.settings).exists()
    async with running(world, SECRET_KEY=""):
        status, _, err = await rescind(world, "key", "rotate", SECRET_KEY="")
        assert (status, "another daemon is running" in err) == (1, True)


async def test_a_key_of_the_settings_is_rotated_to_the_one_that_is_given(world: World) -> None:
    status, _, err = await rescind(world, "key", "rotate")
    assert (status, "give the new one as RESCIND_NEW_SECRET_KEY" in err) == (1, True)
    status, out, _ = await rescind(world, "key", "rotate", NEW_SECRET_KEY=OTHER)
    assert (status, OTHER in out) == (0, False)
    assert "set it as RESCIND_SECRET_KEY" in out
    status, _, err = await rescind_run(world, BIND=free_address())
    assert (status, "2 of 2 stored sessions" in err) == (1, True)
    async with running(world, SECRET_KEY=OTHER):
        pass


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_rotation_that_was_killed_is_finished_or_never_was(
    world: World, sealed: bool
) -> None:
    path = key_file(world)
    new = keys.make(keys.next_file(world.settings))
    if sealed:
        async with world.db.transaction() as tx:
            await Vault(bytes.fromhex(KEY)).reseal_all(tx, Vault(new))
    async with running(world, SECRET_KEY=""):
        assert (keys.read(path) == new) is sealed
    assert (await rescind(world, "key", "rotate", SECRET_KEY=""))[0] == 0
