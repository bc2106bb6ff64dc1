"""`rescind backfill` and `resync` do the work or follow the daemon's, and say how it ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from indexer.cli import main
from indexer.cli.resync import Progress, _line
from indexer.lock import daemon_lock
from indexer.net import health
from indexer.store import backfills, repos, resyncs
from indexer.store import daemon as daemons
from indexer.store.db import Database, Transaction
from tests.support.backfilling import RELAY, begun, db, db_done, tracked
from tests.support.command import logging_kept
from tests.support.frames import COLLECTIONS, NOW, SPACE
from tests.support.listing_relay import Relay, did, listed, relay
from tests.support.xrpc_world import eventually

__all__ = ["db", "relay"]  # fixtures


async def rescind(directory: Path, *arguments: str, relay: str = "ws://127.0.0.1:1") -> Result:
    """Run a command on the index there; the network has no directory."""
    environment = {
        "RESCIND_DB": str(directory / "rescind.db"), "RESCIND_RELAY": relay,
        "RESCIND_PLC": "http://127.0.0.1:1", "RESCIND_ALLOW_PRIVATE_HOSTS": "on",
    }  # fmt: skip

    def run() -> Result:
        with logging_kept():
            return CliRunner().invoke(main, arguments, env=environment)

    found = await asyncio.to_thread(run)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


@asynccontextmanager
async def fetching(db: Database, sync: str, error: str | None = None) -> AsyncIterator[None]:
    """A daemon beside, as far as others see: what is asked for ends like this."""

    async def work() -> None:
        while True:
            async with db.transaction() as tx:
                await tx.execute(
                    """
                    update repos set sync = :sync, resync_error = :error, resync_attempts = 9,
                                     rev = '3kaaaaaaaaaaa'
                    where sync <> 'synchronized' and resync_due_at <= :now
                    """,
                    {"sync": sync, "error": error, "now": NOW},
                )
                await tx.execute("update backfills set done_at = 1, found = 1")
            await asyncio.sleep(0.1)

    async with db.transaction() as tx:
        await daemons.start(tx, pid=1, version="1", relay=RELAY, now=NOW)
    await begun(db)
    with daemon_lock(db.path):
        task = asyncio.create_task(work())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_resync_by_the_daemon_is_waited_for_and_told(db: Database) -> None:
    async with fetching(db, "synchronized"):
        found = await rescind(db.path.parent, "resync", did(1))
    assert (found.exit_code, found.stdout) == (
        0, f"{did(1)} is synchronized, at rev 3kaaaaaaaaaaa.\n"
    )  # fmt: skip
    [row] = await db.all("select action, subject from audit")
    assert tuple(row) == ("resync", did(1))


async def test_a_resync_that_fails_says_why_and_steers_no_terminal(db: Database) -> None:
    async with fetching(db, "desynchronized", "the host says \x1b[2J"):
        found = await rescind(db.path.parent, "resync", did(1))
    assert found.exit_code == 1
    assert f"{did(1)} could not be fetched: the host says \ufffd[2J" in found.stderr


async def test_a_daemon_that_does_not_come_to_it_is_not_waited_for_longer_than_told(
    db: Database,
) -> None:
    with daemon_lock(db.path):
        found = await rescind(db.path.parent, "resync", did(1), "--wait", "0.5")
    assert found.exit_code == 1
    assert "the daemon goes on with it" in found.stderr
    assert await tracked(db) == {did(1)}


async def test_a_daemon_that_ends_meanwhile_is_told(db: Database) -> None:
    async def asked() -> bool:
        return bool(await db.all("select 1 from repos"))

    with daemon_lock(db.path):
        task = asyncio.create_task(rescind(db.path.parent, "resync", did(1)))
        await eventually(asked)
    found = await task
    assert (found.exit_code, "the daemon has ended" in found.stderr) == (1, True)


async def test_without_a_daemon_the_command_fetches_and_says_what_went_wrong(
    db: Database,
) -> None:
    found = await rescind(db.path.parent, "resync", "did:plc:" + "a" * 24)
    assert found.exit_code == 1
    assert "the DID can't be resolved: unreachable" in found.stderr
    assert "Traceback" not in found.stderr


async def test_what_a_resync_under_other_settings_leaves_out_is_fetched_by_the_next_daemon(
    db: Database,
) -> None:
    await begun(db)
    await rescind(db.path.parent, "resync", did(1), "--invite-collection", "com.example.invite")
    async with db.transaction() as tx:
        assert await backfills.begin(tx, RELAY, COLLECTIONS) == {"rsvp.atmo.space.invite"}


async def test_a_repo_that_is_served_to_nobody_is_told(db: Database) -> None:
    async with db.transaction() as tx:
        await repos.track(tx, [did(1)])
        await tx.execute("update repos set hosting = 'takendown'")
    found = await rescind(db.path.parent, "resync", did(1))
    assert (found.exit_code, "is takendown" in found.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [("resync", "alice.test"), ("backfill", "--did", "x")])
def test_what_is_no_did_is_a_mistake_in_the_use(arguments: tuple[str, ...]) -> None:
    found = CliRunner().invoke(main, arguments)
    assert (found.exit_code, "is not a DID" in found.stderr) == (2, True)


async def test_a_backfill_by_the_daemon_begins_again_and_is_followed(db: Database) -> None:
    async with fetching(db, "synchronized"):
        await db_done(db)
        found = await rescind(db.path.parent, "backfill")
    assert found.exit_code == 0, found.stderr
    assert found.stdout == "3 repos were found; 0 of those known are synchronized.\n"


async def test_a_backfill_without_a_daemon_searches_and_tries_each_repo(
    db: Database, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FIRST_DELAY", 0.1)
    relay.lists[SPACE] = listed(1, 2, 3)
    url = relay.host.url.replace("http", "ws")
    found = await rescind(db.path.parent, "backfill", relay=url)
    assert found.exit_code == 1
    assert found.stdout == "3 repos were found; 0 of those known are synchronized.\n"
    assert "3 can't be fetched now" in found.stderr
    attempts = {row["resync_attempts"] for row in await db.all("select * from repos")}
    assert min(attempts) >= 4


async def test_a_repo_that_failed_before_is_tried_and_not_just_counted(
    db: Database, relay: Relay
) -> None:
    async with db.transaction() as tx:
        await repos.track(tx, [did(1)])
        await tx.execute(
            "update repos set resync_error = 'old', resync_attempts = 50, resync_due_at = 9e15"
        )
    await begun(db)
    async with fetching(db, "synchronized"):
        found = await rescind(db.path.parent, "backfill")
    assert (found.exit_code, found.stderr) == (0, "The daemon searches again.\n")


@pytest.mark.parametrize("ask", [resyncs.retry_all, lambda tx: resyncs.ask(tx, did(1))])
async def test_an_old_failure_is_not_taken_for_one_of_the_attempt_that_is_asked_for(
    db: Database, ask: Callable[[Transaction], Awaitable[None]]
) -> None:
    async with db.transaction() as tx:
        await repos.track(tx, [did(1)])
        await tx.execute("update repos set resync_error = 'old', resync_attempts = 50")
        await ask(tx)
        await resyncs.claim(tx, [did(1)], NOW)
    assert await resyncs.count(db, None, 0) == (0, 0, 1)
    async with db.transaction() as tx:
        await resyncs.put_off(tx, did(1), "new", NOW)
    assert await resyncs.count(db, None, 0) == (0, 1, 0)
    assert await resyncs.count(db, None, 3) == (0, 0, 1)
    assert await resyncs.count(db, [did(2)], 0) == (0, 0, 0)


async def test_a_backfill_at_a_relay_that_is_down_is_one_line(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FIRST_DELAY", 0.0)
    found = await rescind(db.path.parent, "backfill")
    assert found.exit_code == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: the relay can't be searched: ")
    assert last.endswith("unreachable (connection refused)")


@pytest.mark.parametrize(
    ("progress", "before", "seconds", "text"),
    [
        (Progress(0, 0, 5), 0, 0.0, "0 done, 0 failed, 5 left"),
        (Progress(30, 1, 200), 10, 10, "20 done, 1 failed, 200 left, 2.0 repos/s, 1:40 left"),
        (
            Progress(1, 0, 9, "1,000 found so far"), 0, 1,
            "1,000 found so far; 1 done, 0 failed, 9 left, 1.0 repos/s",
        ),
        (Progress(3, 0, 1), 5, 1, "0 done, 0 failed, 1 left"),
    ],
)  # fmt: skip
def test_the_progress_is_one_line(
    progress: Progress, before: int, seconds: float, text: str
) -> None:
    assert _line(progress, before, seconds) == text
