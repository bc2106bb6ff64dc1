"""The real PDS proves what is ours by a few blocks; an operator can hold that against its CAR."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    CREATED_AT,
    VERIFICATION,
    create_invite,
    create_space,
    create_verifications,
)
from tests.localnet import LocalNetwork
from tests.localnet.account import Account

pytestmark = pytest.mark.asyncio(loop_scope="session")

POSTS = 600


async def busy(network: LocalNetwork, name: str) -> Account:
    """Return an account with many posts."""
    account = await network.pds.create_account(network.handle(name))
    post = "app.bsky.feed.post"
    for _ in range(POSTS // 200):
        value = {"$type": post, "text": "hello", "createdAt": CREATED_AT}
        write = {"$type": "com.atproto.repo.applyWrites#create", "collection": post, "value": value}
        await account.apply_writes([write] * 200)
    return account


def resynced(daemon: Daemon, did: str) -> list[dict[str, Any]]:
    return [e for e in daemon.logged() if e["event"] == "repo.resynced" and e["did"] == did]


async def test_a_first_start_takes_kilobytes_and_gives_what_the_cars_give(
    network: LocalNetwork, tmp_path: Path
) -> None:
    alice = await busy(network, "alice")
    space = await create_space(alice)
    for _ in range(3):
        await create_invite(alice, space)
    await create_verifications(alice, alice, 5)
    daemon = Daemon.on(network, tmp_path / "rescind")

    await daemon.start()
    await daemon.sees(
        "select 1 from repos where did = ? and sync = 'synchronized'", alice.did, within=30
    )
    await daemon.sees("select 1 from backfills where settled = 1", within=30)  # whose tokens are
    await daemon.settles()

    [told] = resynced(daemon, alice.did)
    assert told["way"] == "proof"
    assert told["records"] == 9
    assert told["requests"] <= 7
    assert told["bytes"] < 20_000
    by_parts = daemon.index()
    assert "synchronized" in await daemon.ok("resync", "--whole", alice.did)
    whole = resynced(daemon, alice.did)[-1]
    assert whole["way"] == "whole"
    assert whole["bytes"] > 5 * told["bytes"]
    assert daemon.changed_since(by_parts) == [] or all(
        table == "audit" for table, _, _ in daemon.changed_since(by_parts)
    )
    status = await daemon.status()
    assert status["resynced"]["whole"]["repos"] >= 1
    assert status["resynced"]["proof"]["requests"] >= told["requests"]
    assert "resynced    by proof: " in await daemon.ok("status")
    await daemon.stop()


async def test_what_is_written_while_a_repo_is_walked_is_not_lost(
    network: LocalNetwork, tmp_path: Path
) -> None:
    alice = await busy(network, "alice")
    daemon = Daemon.on(network, tmp_path / "rescind")
    await daemon.start()
    await daemon.settles()
    async with daemon.spawned("resync", alice.did) as process:
        for number in range(20):
            space = await create_space(alice, f"s{number}")
        await process.communicate()
    assert process.returncode == 0
    await daemon.sees("select 1 from spaces where uri = ?", space)
    assert len(daemon.rows("select 1 from spaces where did = ?", alice.did)) == 20
    await daemon.stop()


async def test_an_operator_checks_the_index_against_the_repos(
    network: LocalNetwork, tmp_path: Path
) -> None:
    alice = await busy(network, "alice")
    [one, two] = await create_verifications(alice, alice, 2)
    daemon = Daemon.on(network, tmp_path / "rescind")
    await daemon.ok("backfill")
    before = daemon.index()

    out = await daemon.ok("check", alice.did)
    assert out.startswith(f"{alice.did} is as it should be, at rev ")
    assert "(by proof: " in out
    assert out.endswith("1 as they should be, 0 differ, 0 not checked\n")
    assert "0 differ, 0 not checked" in await daemon.ok("check", "--sample", "3")
    assert daemon.index() == before

    with closing(sqlite3.connect(daemon.db)) as db, db:
        db.execute("delete from verifications where uri = ?", (one,))
    status, out, _ = await daemon.command("check", alice.did)
    assert status == 1
    assert f"{alice.did} differs, at rev " in out
    assert f"  {one} is in the repo (" in out
    assert two not in out
    await daemon.ok("resync", alice.did)
    await daemon.ok("check", alice.did)

    await alice.delete_record(VERIFICATION, two.rpartition("/")[2])
    status, out, err = await daemon.command("check", alice.did)
    assert status == 3
    assert "could not be checked: the index is at rev " in err
    await network.pds.stop()
    try:
        status, out, err = await daemon.command("check", alice.did)
        assert status == 3
        assert "0 as they should be, 0 differ, 1 not checked" in out
    finally:
        await network.pds.start()
    status, _, err = await daemon.command("check")
    assert status == 2
    assert "name a DID, or give --sample N" in err


async def test_a_deactivated_repo_and_one_that_is_back_are_told_by_the_real_pds(
    network: LocalNetwork, tmp_path: Path
) -> None:
    alice = await busy(network, "alice")
    space = await create_space(alice)
    daemon = Daemon.on(network, tmp_path / "rescind")
    await daemon.ok("resync", alice.did)
    await alice.deactivate()
    status, _, err = await daemon.command("resync", alice.did)
    assert status == 1
    assert f"{alice.did} is deactivated" in err
    await alice.activate()
    await daemon.start()
    await daemon.ok("resync", alice.did)
    assert daemon.rows("select uri from spaces where did = ?", alice.did) == [{"uri": space}]
    await daemon.stop()
