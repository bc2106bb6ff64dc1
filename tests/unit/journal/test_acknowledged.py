"""Who is told that something is revoked has a line in the journal, or is told nothing."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.journal.lines import Entry
from indexer.journal.reader import read
from indexer.journal.writer import Journal
from tests.support.command import last_line, rescind
from tests.support.fake_pds import APPLY, DELETE, says
from tests.support.frames import hash_of
from tests.support.running_daemon import running
from tests.support.xrpc_world import (
    ALICE,
    REVOKE_INVITE,
    World,
    make_world,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        make_world(tmp_path) as made,
        Journal.open(made.settings.journal_file, 90, made.clock) as journal,
    ):
        made.services = replace(made.services, journal=journal)
        await made.account(ALICE)
        yield made


def kept(world: World) -> list[Entry]:
    assert world.settings.journal_file is not None
    return list(read(world.settings.journal_file))


async def test_an_invite_is_kept_with_its_space_and_hash_and_who_asked(world: World) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, hash_of("token"))
    body = {"spaceUri": space, "tokenHash": hash_of("token")}
    async with world.serving():
        assert (await world.call(ALICE, REVOKE_INVITE, body)).status_code == 200
        [entry] = kept(world)
        assert (entry.uri, entry.space_uri, entry.token_hash) == (uri, space, hash_of("token"))
        assert (entry.actor, entry.at, entry.reason) == (ALICE, world.now, None)
        world.clock.now += 60
        assert (await world.call(ALICE, REVOKE_INVITE, body)).status_code == 200
    assert kept(world) == [entry]


async def test_one_that_was_revoked_before_is_kept_when_it_is_acknowledged_again(
    world: World,
) -> None:
    """Its first answer may have been an error, because its line could not be written."""
    space = await world.space(ALICE)
    await world.invite(space, hash_of("token"))
    body = {"spaceUri": space, "tokenHash": hash_of("token")}
    verification = await world.verification(ALICE)
    async with world.serving():
        await world.call(ALICE, REVOKE_INVITE, body)
        await world.revoke(ALICE, verification, reason="left")
        before = kept(world)
        assert world.settings.journal_file is not None
        world.settings.journal_file.unlink()
        world.services.journal._known.clear()  # as in a process that was started since
        await world.call(ALICE, REVOKE_INVITE, body)
        await world.verification(ALICE)  # put back: the same record
        await world.revoke(ALICE, verification, reason="another one")
    # Their rev is that of the deletion by now: up to there nothing lives.
    assert [replace(entry, rev="") for entry in kept(world)] == [
        replace(entry, rev="") for entry in before
    ]
    assert [entry.reason for entry in before] == [None, "left"]


async def test_one_whose_deletion_waits_is_kept_too(world: World) -> None:
    uri = await world.verification(ALICE)
    for nsid in (APPLY, DELETE):
        world.pds.always[nsid] = says(503)
    async with world.serving():
        revoked, failed = await world.revoke(ALICE, uri, reason="an impostor")
    assert (revoked, list(failed)) == ([], [uri])
    [entry] = kept(world)
    assert (entry.uri, entry.reason, entry.actor) == (uri, "an impostor", ALICE)


async def test_without_its_line_no_revocation_is_acknowledged(world: World) -> None:
    space = await world.space(ALICE)
    uri = await world.verification(ALICE)
    await world.invite(space, hash_of("token"))
    body = {"spaceUri": space, "tokenHash": hash_of("token")}
    assert world.services.journal.path is not None
    world.services.journal.path.unlink()
    world.services.journal.path.symlink_to("/dev/full")  # it takes no byte, as a full disk
    async with world.serving():
        assert (await world.call(ALICE, REVOKE_INVITE, body)).status_code == 500
        body = {"uris": [uri]}
        assert (
            await world.call(ALICE, "tools.ozone.verification.revokeVerifications", body)
        ).status_code == 500


async def test_the_daemon_ends_with_the_disk_of_its_journal(world: World, tmp_path: Path) -> None:
    uri = await world.verification(ALICE)
    journal = tmp_path / "journal"
    async with running(world, JOURNAL=str(journal)) as daemon:
        journal.unlink()
        journal.symlink_to("/dev/full")
        assert (await daemon.call(uri)).status_code == 500
        assert await daemon.end() == 1
    assert f"the journal {journal} can't be written" in last_line(daemon.err.decode())


async def test_what_is_revoked_at_a_terminal_is_kept(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, hash_of("token"))
    uri = await world.verification(ALICE)
    assert (await rescind(world, "invites", "revoke", space, hash_of("token")))[0] == 0
    assert (await rescind(world, "verifications", "revoke", uri, "--reason", "left"))[0] == 0
    assert [(entry.token_hash, entry.reason) for entry in kept(world)] == [
        (hash_of("token"), None), (None, "left"),
    ]  # fmt: skip


async def test_off_is_off(world: World, tmp_path: Path) -> None:
    uri = await world.verification(ALICE)
    before = kept(world)
    async with running(world, JOURNAL="off") as daemon:
        assert (await daemon.call(uri)).status_code == 200
    assert kept(world) == before
