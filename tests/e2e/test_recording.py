"""What was recorded from a real PDS makes the same index without its stream."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, eventually, free_port
from tests.e2e.records import SPACE, VERIFICATION, create_invite, create_space, create_verifications
from tests.localnet import Account, LocalNetwork

pytestmark = pytest.mark.asyncio(loop_scope="session")

# What a stream alone says, apart from when a repo was fetched whole.
QUERIES = (
    "select uri, cid, rev, revoked from spaces order by uri",
    "select uri, cid, rev, revoked, token_hash from invites order by uri",
    "select uri, cid, rev, revoked, handle from verifications order by uri",
    "select uri, cid, kind, cause from tombstones order by uri, cid",
)


async def _live(issuer: Account) -> None:
    """Write, change and delete."""
    space = await create_space(issuer)
    await create_invite(issuer, space)
    gone = await create_invite(issuer, space)
    uris = await create_verifications(issuer, issuer, 3)
    await issuer.delete_record("rsvp.atmo.space.invite", gone.rkey)
    await issuer.delete_record(VERIFICATION, uris[1].rpartition("/")[2])
    await issuer.put_record(SPACE, {"name": "Feast", "createdAt": "2026-01-01T00:00:00Z"}, "party")


async def test_a_recording_makes_the_index_that_the_stream_made(
    network: LocalNetwork, tmp_path: Path
) -> None:
    live = Daemon.on(network, tmp_path / "live")
    await live.start("--cursor", "oldest")
    file = tmp_path / "stream.rec"
    issuer = await network.pds.create_account(network.handle("issuer"))
    async with live.spawned("record", str(file), "--from", "oldest") as process:
        await _live(issuer)
        other = await network.pds.create_account(network.handle("other"))
        await _live(other)
        await live.sees("select 1 from spaces where did = ? and name = 'Feast'", other.did)
        await live.settles()
        seq = (await live.status())["cursor"]["seq"]
        # It has what the daemon has, and within a second it is in the file.
        await asyncio.sleep(2.5)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert f"to {seq}," in out.decode()

    # Where the file is played there is no relay at all, only the directory with the keys.
    nowhere = f"ws://127.0.0.1:{free_port()}"
    replayed = Daemon.on(network, tmp_path / "replayed", RELAY=nowhere)
    said = await replayed.ok("replay", "--file", str(file))
    assert f"at seq {seq}" in said
    for query in QUERIES:
        assert replayed.rows(query) == live.rows(query)
    assert replayed.rows("select * from cursors") == []
    before = replayed.index()
    assert f"at seq {seq}" in await replayed.ok("replay", "--file", str(file))
    assert replayed.index() == before

    status, _, err_text = await replayed.command("record", str(file))
    assert (status, "exists: a recording is never written over" in err_text) == (1, True)
    await live.stop()


async def test_a_recorder_that_is_killed_leaves_what_it_had(
    network: LocalNetwork, tmp_path: Path
) -> None:
    daemon = Daemon.on(network, tmp_path / "rescind")
    await network.pds.create_account(network.handle("alice"))
    file = daemon.directory / "stream.rec"

    async def has_written() -> bool:
        return file.exists() and file.stat().st_size > 1_000

    async with daemon.spawned("record", file.name, "--from", "oldest"):
        await eventually(has_written, 20, "a recording")
    assert "events/s, at seq" in await daemon.ok("replay", "--file", file.name)

    # Cut off in its middle, it says so, and has what comes before.
    data = file.read_bytes()
    cut = daemon.directory / "cut.rec"
    cut.write_bytes(data[:-10])
    status, out, err = await daemon.command("replay", "--file", cut.name)
    assert (status, "is cut off" in err) == (0, True), (out, err)
    # Damaged, it says so, and ends with an error.
    broken = bytearray(data)
    broken[-10] ^= 255
    cut.write_bytes(broken)
    status, out, err = await daemon.command("replay", "--file", cut.name)
    assert (status, "is damaged behind byte" in err) == (1, True), (out, err)
    status, out, err = await daemon.command("replay", "--file", str(daemon.db))
    assert (status, "is not a recording" in err) == (1, True), (out, err)


async def test_a_recording_ends_where_it_is_told(network: LocalNetwork, tmp_path: Path) -> None:
    daemon = Daemon.on(network, tmp_path / "rescind")
    await network.pds.create_account(network.handle("alice"))
    for name, arguments, words in (
        ("to", ("--from", "oldest", "--to", "3"), "seq 1 to 3,"),
        ("frames", ("--from", "2", "--frames", "3"), "seq 2 to 4,"),
        ("for", ("--from", "oldest", "--for", "2"), "seq 1 to "),
    ):
        out = await daemon.ok("record", name, *arguments)
        assert words in out
        assert f"into {name}." in out
    assert await daemon.ok("record", "nothing", "--for", "1") == "Recorded nothing.\n"
    assert not (daemon.directory / "nothing").exists()
    status, _, err = await daemon.command("record", "ahead", "--from", str(10**12))
    assert (status, "the relay refuses: FutureCursor" in err) == (1, True)
    assert not (daemon.directory / "ahead").exists()
