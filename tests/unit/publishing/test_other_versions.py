"""What is deleted is what was revoked: not another token, nor a grant that came later."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.lexicon.syntax import tid_at, tid_time
from indexer.store import repos
from tests.support.fake_pds import DELETE
from tests.support.frames import ALICE as OWNER
from tests.support.frames import NOW, VERIFICATION, hash_of, tid, verification
from tests.support.index_file import Repo, opened
from tests.support.xrpc_world import ALICE, INVITE, REVOKE_INVITE, World, eventually, make_world

CHECK = f"{VERIFICATION}/3k"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        await made.account(ALICE)
        yield made


async def revoked(world: World, space: str, token: str) -> None:
    body = {"spaceUri": space, "tokenHash": hash_of(token)}
    async with world.serving():
        assert (await world.call(ALICE, REVOKE_INVITE, body)).status_code == 200

        async def is_done() -> bool:
            states = await world.states()
            return not states.get("pending") and bool(world.pds.of(DELETE))

        await eventually(is_done)


async def test_an_invite_with_another_token_that_stands_there_unseen_is_not_deleted(
    world: World,
) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, hash_of("old"))
    await world.invite(space, hash_of("new"), indexed=False)  # its owner wrote over it
    await revoked(world, space, "old")
    assert f"{INVITE}/one" in world.pds.repos[ALICE]
    assert (await world.row(uri)).state == "confirmed"  # the token is in the repo no more


async def test_an_invite_is_deleted_whichever_of_its_revoked_versions_stands_there(
    world: World,
) -> None:
    space = await world.space(ALICE)
    uri = await world.invite(space, hash_of("token"))
    await world.invite(space, hash_of("token"), note="once more")
    await revoked(world, space, "token")
    assert f"{INVITE}/one" not in world.pds.repos[ALICE]
    assert (await world.row(uri)).state == "sent"


async def test_a_version_in_flight_falls_under_a_deletion_that_was_given_up(
    tmp_path: Path,
) -> None:
    repo = Repo()
    async with opened(tmp_path) as index:
        await index.apply(repo.commit({CHECK: verification()}))
        await index.revoke(repo.uri(CHECK))
        in_flight = repo.commit({CHECK: verification(displayName="Caroline")})
        await index.drop(repo.uri(CHECK))
        await index.apply(in_flight)
        assert not await index.is_live("verifications", repo.uri(CHECK))
        deletion = await index.deletion(repo.uri(CHECK))
        assert deletion is not None
        assert deletion["state"] == "dropped"  # nobody is asked to delete it
        later = repo.commit({CHECK: verification(displayName="Carola")}, rev=tid(1, NOW + 1))
        await index.apply(later)
        assert await index.is_live("verifications", repo.uri(CHECK))


def test_a_moment_has_its_first_tid() -> None:
    assert tid_time(tid_at(NOW)) == NOW * 1000
    assert tid_at(NOW) == tid(0, NOW)


@pytest.mark.parametrize("ahead", [86_400_000 * 365, 400_000])
async def test_a_repo_tracked_while_our_clock_was_ahead_is_heard_of_again(
    tmp_path: Path, ahead: int
) -> None:
    repo = Repo()
    async with opened(tmp_path) as index:
        async with index.db.transaction() as tx:
            await repos.track(tx, [OWNER], index.now + ahead)
        await index.apply(repo.account(False, "takendown"))
        assert (await index.repo())["hosting"] == "takendown"
        # And from then on the stream's own order counts.
        await index.apply(repo.account(True))
        assert (await index.repo())["hosting"] == "active"
