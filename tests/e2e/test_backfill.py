"""What was written before we looked, or while we could not, is found and made right."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    CREATED_AT,
    INVITE,
    VERIFICATION,
    create_invite,
    create_space,
    create_verifications,
)
from tests.e2e.relay import HoldingRelay
from tests.localnet import LocalNetwork

pytestmark = pytest.mark.asyncio(loop_scope="session")

PARTY = "rsvp.atmo.party"


def events(daemon: Daemon) -> list[str]:
    return [entry["event"] for entry in daemon.logged()]


@pytest.mark.parametrize("arguments", [[], ["--cursor", "live"]])
async def test_records_from_before_the_first_start_are_found_and_live_ones_flow_meanwhile(
    network: LocalNetwork, tmp_path: Path, arguments: list[str]
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    space = await create_space(alice)
    invite = await create_invite(alice, space)
    gone = await create_invite(alice, space)
    [verification] = await create_verifications(alice, alice, 1)
    await alice.delete_record(INVITE, gone.rkey)
    daemon = Daemon.on(network, tmp_path / "rescind")

    await daemon.start(*arguments)
    live = await create_invite(alice, space)

    await daemon.sees("select 1 from spaces where uri = ?", space, within=30)
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)
    await daemon.sees("select 1 from invites where uri = ?", live.uri)
    await daemon.sees("select 1 from verifications where uri = ?", verification)
    assert daemon.rows("select 1 from invites where uri = ?", gone.uri) == []
    await daemon.settles()
    status = await daemon.status()
    assert status["backfill"]["*"]["done"]  # a PDS has no directory of collections
    assert status["backfill"]["*"]["found"] >= 1
    assert status["resync"] == {"due": 0, "failing": 0}
    # It is a first start: nothing was known that could have changed.
    assert {"relay.changed", "cursor.missing", "stream.skipped"}.isdisjoint(events(daemon))
    await daemon.stop()


async def test_what_was_deleted_while_we_were_away_and_lost_our_cursor_is_gone_here_too(
    network: LocalNetwork, tmp_path: Path
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    bob = await network.pds.create_account(network.handle("bob"))
    daemon = Daemon.on(network, tmp_path / "rescind")
    await daemon.start()
    space = await create_space(alice)
    kept, deleted = [await create_invite(alice, space) for _ in range(2)]
    await create_space(bob)
    await daemon.sees("select 1 from spaces where did = ?", bob.did)
    await daemon.settles()
    await daemon.stop()

    await alice.delete_record(INVITE, deleted.rkey)
    carol = await network.pds.create_account(network.handle("carol"))
    missed = await create_space(carol)
    with closing(sqlite3.connect(daemon.db)) as db, db:
        db.execute("delete from cursors")
    await daemon.start()

    await daemon.sees(
        "select 1 from tombstones where uri = ? and cause = 'deleted'", deleted.uri, within=30
    )
    await daemon.sees("select 1 from spaces where uri = ?", missed)
    await daemon.settles()
    assert daemon.rows("select uri from invites where did = ?", alice.did) == [{"uri": kept.uri}]
    assert events(daemon).count("cursor.missing") == 1
    # Where nothing had changed, a look was enough. (A second one is due to everybody: the stream
    # was joined at its live end after the first had begun.)
    begun = events(daemon).index("cursor.missing")
    first: dict[str, str] = {}
    for entry in daemon.logged()[begun:]:
        if entry["event"] in ("repo.checked", "repo.resynced"):
            first.setdefault(entry["did"], entry["event"])
    assert (first[bob.did], first[alice.did]) == ("repo.checked", "repo.resynced")
    await daemon.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def relay(network: LocalNetwork) -> AsyncIterator[HoldingRelay]:
    relay = await HoldingRelay(network.pds.port).start()
    yield relay
    await relay.stop()


async def test_at_another_relay_everything_is_checked_and_warned_of_once(
    network: LocalNetwork, relay: HoldingRelay, tmp_path: Path
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    directory = tmp_path / "rescind"
    daemon = Daemon.on(network, directory)
    await daemon.start()
    [kept, deleted] = await create_verifications(alice, alice, 2)
    await daemon.sees("select 1 from verifications where uri = ?", deleted)
    await daemon.settles()
    await daemon.stop()
    await alice.delete_record(VERIFICATION, deleted.rpartition("/")[2])

    daemon = Daemon.on(network, directory, RELAY=relay.ws_url)
    await daemon.start()
    await daemon.sees("select 1 from tombstones where uri = ?", deleted, within=30)
    await create_verifications(alice, alice, 1)
    await daemon.sees("select count(*) from verifications where did = ? having count(*) = 2",
                      alice.did)  # fmt: skip
    await daemon.settles()
    await daemon.stop()
    await daemon.start()
    await daemon.stop()

    assert len(daemon.rows("select 1 from verifications where uri = ?", kept)) == 1
    [warning] = [e for e in daemon.logged() if e["event"] == "relay.changed"]
    assert warning["before"] == f"localhost:{network.pds.port}"
    assert warning["repos_to_check"] >= 1


async def test_for_a_collection_that_is_new_repos_that_are_whole_are_fetched_again(
    network: LocalNetwork, tmp_path: Path
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    directory = tmp_path / "rescind"
    await alice.create_record(PARTY, {"createdAt": CREATED_AT}, "big")
    daemon = Daemon.on(network, directory)
    await daemon.start()
    space = await create_space(alice)
    await daemon.sees("select 1 from spaces where uri = ?", space)
    await daemon.settles()
    await daemon.stop()
    assert len(daemon.rows("select 1 from spaces where did = ?", alice.did)) == 1

    daemon = Daemon.on(network, directory, SPACE_COLLECTIONS=f"rsvp.atmo.space,{PARTY}")
    await daemon.start()
    await daemon.sees("select 1 from spaces where uri = ?", f"at://{alice.did}/{PARTY}/big",
                      within=30)  # fmt: skip
    await daemon.stop()


async def test_one_repo_is_fetched_when_an_operator_asks_with_a_daemon_and_without(
    network: LocalNetwork, tmp_path: Path
) -> None:
    daemon = Daemon.on(network, tmp_path / "rescind")
    await daemon.start()
    await daemon.settles()
    alice = await network.pds.create_account(network.handle("alice"))
    assert daemon.rows("select 1 from repos where did = ?", alice.did) == []
    out = await daemon.ok("resync", alice.did)
    assert out.startswith(f"{alice.did} is synchronized, at rev ")
    status, _, err = await daemon.command("resync", "did:plc:" + "a" * 24)
    assert status == 1
    assert "the DID can't be resolved: not_found" in err
    await daemon.stop()

    space = await create_space(alice)
    out = await daemon.ok("resync", alice.did)
    assert out.startswith(f"{alice.did} is synchronized, at rev ")
    assert daemon.rows("select uri from spaces where did = ?", alice.did) == [{"uri": space}]
    await network.pds.stop()
    try:
        status, out, err = await daemon.command("resync", alice.did)
        assert (status, out) == (1, "")
        assert f"{alice.did} could not be fetched: {network.pds.url}: unreachable" in err
    finally:
        await network.pds.start()
    status, _, err = await daemon.command("resync", "did:plc:" + "a" * 24)
    assert status == 1
    assert "the DID can't be resolved: not_found" in err

    # The stream shows the same once more, and the failures are tried again.
    await daemon.start()
    last = await create_space(alice, "last")
    await daemon.sees("select 1 from spaces where uri = ?", last)
    assert (await daemon.status())["resync"]["failing"] == 1
    await daemon.stop()


async def test_an_operator_searches_again_with_a_daemon_and_without(
    network: LocalNetwork, tmp_path: Path
) -> None:
    alice = await network.pds.create_account(network.handle("alice"))
    bob = await network.pds.create_account(network.handle("bob"))
    space = await create_space(alice)
    daemon = Daemon.on(network, tmp_path / "rescind")

    out = await daemon.ok("backfill")  # before the first start
    assert "repos were found" in out
    assert daemon.rows("select uri from spaces where did = ?", alice.did) == [{"uri": space}]
    assert daemon.rows("select 1 from cursors") == []
    assert (await daemon.status())["backfill"]["*"]["done"]

    invite = await create_invite(alice, space)
    out = await daemon.ok("backfill", "--did", alice.did, "--did", bob.did)
    assert [line.split(",")[0] for line in out.splitlines()] == [
        f"{alice.did} is synchronized",
        f"{bob.did} is synchronized",
    ]
    assert len(daemon.rows("select 1 from invites where uri = ?", invite.uri)) == 1

    await daemon.start()
    await daemon.settles()
    carol = await network.pds.create_account(network.handle("carol"))
    out = await daemon.ok("backfill")
    assert "repos were found" in out
    assert len(daemon.rows("select 1 from repos where did = ?", carol.did)) == 1
    await daemon.ok("backfill", "--did", carol.did)
    await daemon.stop()
