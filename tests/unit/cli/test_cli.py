"""The command does what it says, ends as it should, and tells a person what to mend."""

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from indexer.cli import main
from indexer.cli.base import make_scope
from indexer.store import backfills, outbox
from tests.support.command import (
    KEY,
    PASSWORD,
    environment,
    free_address,
    last_line,
    logging_kept,
    rescind,
    rescind_run,
    world,
)
from tests.support.fake_pds import LOG_IN
from tests.support.xrpc_world import ALICE, BOB, World

__all__ = ["world"]  # fixtures

# --- login and logout ---


async def test_the_password_may_come_from_standard_input(world: World) -> None:
    status, out, err = await rescind(world, "login", ALICE, stdin=PASSWORD + "\n")
    assert (status, out) == (0, f"Logged in as {ALICE} (alice.test).\n")
    assert PASSWORD not in out + err
    assert (await world.sessions.get(ALICE)).refresh in world.pds.refresh


async def test_the_password_may_come_from_the_environment(world: World) -> None:
    status, out, _ = await rescind(world, "login", "@alice.test", APP_PASSWORD=PASSWORD)
    assert (status, out) == (0, f"Logged in as {ALICE} (alice.test).\n")


async def test_on_a_terminal_the_password_is_asked_for_and_not_shown(world: World) -> None:
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "indexer", "login", ALICE, env=environment(world),
        cwd=world.settings.db.parent, stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=lambda: os.login_tty(theirs),
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        async with asyncio.timeout(20):
            while b"App password" not in shown:
                shown += await asyncio.to_thread(os.read, ours, 1000)
            os.write(ours, PASSWORD.encode() + b"\n")
            with contextlib.suppress(OSError):  # Linux says EIO when the other side is gone
                while more := await asyncio.to_thread(os.read, ours, 1000):
                    shown += more
            assert await process.wait() == 0
    finally:
        os.close(ours)
        if process.returncode is None:
            process.kill()
    assert b"Logged in as" in shown
    assert PASSWORD.encode() not in shown


async def test_a_wrong_password_is_one_line_without_the_password(world: World) -> None:
    status, out, err = await rescind(world, "login", ALICE, stdin="wron-gpas-swor-dxxx\n")
    assert (status, out) == (1, "")
    assert err == "Error: AuthenticationRequired: Invalid identifier or password\n"


async def test_no_password_is_a_mistake_in_the_use(world: World) -> None:
    status, _, err = await rescind(world, "login", ALICE, stdin="\n")
    assert status == 2
    assert "no app password was given" in err
    assert world.pds.of(LOG_IN) == []


def test_the_password_can_not_be_given_on_the_command_line() -> None:
    found = CliRunner().invoke(main, ["login", "--help"])
    assert found.exit_code == 0
    assert "--password" not in found.output
    assert "--app-password" not in found.output
    assert CliRunner().invoke(main, ["login", "alice.test", PASSWORD]).exit_code == 2


async def test_an_account_that_is_none_is_one_line(world: World) -> None:
    for name, reason in (("nobody.test", "unreachable"), (BOB, "not_found")):
        status, _, err = await rescind(world, "login", name, stdin=PASSWORD)
        assert (status, err) == (1, f"Error: the account can't be resolved: {reason}\n")


async def test_a_logout_forgets_the_session_and_says_if_there_is_none(world: World) -> None:
    await world.log_in(ALICE, world.pds)
    assert (await rescind(world, "logout", "alice.test"))[:2] == (0, f"Logged out {ALICE}.\n")
    assert world.pds.refresh == {}
    status, _, err = await rescind(world, "logout", ALICE)
    assert (status, err) == (1, f"Error: there is no session for {ALICE}\n")


async def test_a_key_file_that_is_broken_is_one_line(world: World) -> None:
    (world.settings.db.parent / "rescind.db.key").write_text("x" * 64)
    for status, _, err in (
        await rescind(world, "login", ALICE, stdin=PASSWORD, SECRET_KEY=""),
        await rescind_run(world, SECRET_KEY="", BIND=free_address()),
    ):
        assert status == 1
        assert "does not hold 64 hex digits" in last_line(err)


# --- status and outbox ---


async def test_the_status_is_one_json_object_with_the_keys_of_the_design(world: World) -> None:
    status, out, err = await rescind(world, "status", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found.keys() >= {
        "cursor", "lag_seconds", "records", "tombstones", "repos", "outbox", "skipped", "rejected",
        "sessions",
    }  # fmt: skip
    assert found["cursor"].keys() == {"relay", "seq", "time"}
    for name in ("records", "tombstones"):
        assert found[name].keys() == {"space", "invite", "verification"}
    assert found["outbox"].keys() >= {"pending", "sent", "confirmed", "blocked"}


async def test_a_misspelt_variable_is_named_and_is_no_error(world: World) -> None:
    status, _, err = await rescind(world, "status", RELLAY="wss://relay.example.com")
    assert status == 0
    assert "setting.unknown" in err
    assert "RESCIND_RELLAY" in err


async def test_without_a_database_a_status_makes_none(world: World, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    for arguments in (["status"], ["outbox", "list"], ["outbox", "retry"]):
        status, out, err = await rescind(world, *arguments, "--db", str(missing))
        assert (status, out) == (1, "")
        assert err.startswith(f"Error: There is no database at {missing}")
    assert not missing.exists()


async def test_the_outbox_is_listed_retried_and_dropped(world: World) -> None:
    uris = [await world.verification(ALICE, key) for key in ("one", "two", "three")]
    await world.enqueue(*uris)
    async with world.db.transaction() as tx:
        await outbox.mark_failed(
            tx, uris, "HTTP 503", now=world.now, retry_at=world.now + 3_600_000
        )
        await outbox.mark_gone(tx, uris[2], "", world.now)

    _, out, _ = await rescind(world, "outbox", "list")
    assert [line.split() for line in out.splitlines()] == [
        ["pending", "0", uri, "HTTP", "503"] for uri in uris[:2]
    ]
    _, out, _ = await rescind(world, "outbox", "list", "--json", "--all")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["uri"], row["state"]) for row in rows] == [
        (uris[0], "pending"), (uris[1], "pending"), (uris[2], "confirmed"),
    ]  # fmt: skip
    assert rows[0]["error"] == "HTTP 503"

    _, out, _ = await rescind(world, "outbox", "retry", uris[0])
    assert out == "1 to be tried now.\n"
    assert (await world.row(uris[0])).due_at == 0
    now = int(time.time() * 1000)
    _, out, _ = await rescind(world, "outbox", "list", "--json")
    assert now - 30_000 < json.loads(out.splitlines()[0])["dueAt"] <= now
    _, out, _ = await rescind(world, "outbox", "retry")
    assert out == "2 to be tried now.\n"

    status, _, err = await rescind(world, "outbox", "drop", uris[1])
    assert (status, "--reason" in err) == (2, True)
    status, out, _ = await rescind(world, "outbox", "drop", uris[1], "--reason", "a mistake")
    assert (status, out) == (0, f"Dropped {uris[1]}.\n")
    dropped = await world.row(uris[1])
    assert (dropped.state, dropped.error) == ("dropped", "a mistake")
    status, _, err = await rescind(world, "outbox", "drop", uris[2], "--reason", "x")
    assert (status, err) == (1, f"Error: nothing waits in the outbox for {uris[2]}\n")
    assert await world.audit() == [
        ("operator", "outbox.retry", uris[0], None),
        ("operator", "outbox.retry", "*", None),
        ("operator", "outbox.drop", uris[1], "a mistake"),
    ]


# --- settings and files that can't be used ---


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["run", "--bind", "nonsense"], 1, "RESCIND_BIND (--bind)"),
        (["run", "--secret-key", KEY], 2, "No such option"),
        (["run", "--cursor", "-1"], 2, "--cursor"),
        (["run", "--cursor", "9223372036854775808"], 2, "--cursor"),
        (["replay"], 2, "--from"),
        (["replay", "--from", "9", "--to", "8"], 2, "--to 8 lies before --from 9"),
        (["replay", "--file", "/", "--to", "8"], 2, "is a directory"),
        (["record"], 2, "FILE"),
        (["record", "/no/such/place"], 1, "can't be written: No such file"),
        (["record", "x", "--from", "9", "--to", "8"], 2, "--to 8 lies before --from 9"),
        (["record", "x", "--frames", "0"], 2, "--frames"),
        (["record", "x", "--for", "0"], 2, "--for"),
        (["status", "--db", "/"], 1, "RESCIND_DB (--db)"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_a_mistake_in_the_use_is_named(arguments: list[str], status: int, text: str) -> None:
    with logging_kept():
        found = CliRunner().invoke(main, arguments)
    assert found.exit_code == status
    assert text in found.output
    assert KEY not in found.output


async def test_a_replay_for_other_collections_than_the_index_is_kept_for_is_refused(
    world: World,
) -> None:
    async with world.db.transaction() as tx:
        await backfills.begin(tx, "relay.test", make_scope(world.settings).collections)
    status, _, err = await rescind(
        world, "replay", "--from", "oldest", INVITE_COLLECTION="com.example.invite"
    )
    assert (status, err.startswith("Error: The index is kept for ")) == (1, True)
    assert "com.example.invite" in err


def test_each_flag_has_its_variable_in_the_help_and_the_key_has_no_flag() -> None:
    text = CliRunner().invoke(main, ["run", "--help"], terminal_width=200).output
    for name in ("DB", "RELAY", "PLC", "BIND", "PUBLIC_URL", "OPERATORS", "VERIFIER", "LOG_LEVEL"):
        assert f"[RESCIND_{name}]" in text
        assert f"--{name.lower().replace('_', '-')}" in text
    assert "--secret-key" not in text


async def test_a_file_that_is_no_database_or_of_a_newer_version_is_one_line(
    world: World, tmp_path: Path
) -> None:
    text = tmp_path / "text.db"
    text.write_text("no database" * 1000)
    newer = tmp_path / "newer.db"
    with contextlib.closing(sqlite3.connect(newer)) as db:
        db.execute("pragma user_version = 999")
    for path, message in ((text, "can't be opened"), (newer, "newer version")):
        status, _, err = await rescind_run(world, "--db", str(path), BIND=free_address())
        assert status == 1
        assert message in last_line(err)
