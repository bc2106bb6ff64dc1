"""`rescind resync`: one repo, made right now. And what `rescind backfill` shares with it."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import click

from indexer import log
from indexer.cli.base import (
    COLLECTIONS,
    LOG,
    NETWORK,
    load_settings,
    make_scope,
    network,
    run_async,
    setting_options,
    unix_ms,
)
from indexer.config.settings import Settings
from indexer.lexicon.syntax import is_did
from indexer.lock import daemon_lock, is_running
from indexer.repos.backfill import Backfiller, begin
from indexer.repos.resync import Resyncer
from indexer.store import audit, resyncs
from indexer.store.db import Database

SETTINGS = ("db", "relay", *NETWORK, *COLLECTIONS, *LOG)
WAIT = 120.0  # seconds
TICK = 0.25  # seconds between looks
LINE_EVERY = 10.0  # seconds, where the output is no terminal


class DidType(click.ParamType[str]):
    name = "DID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_did(str(value)):
            self.fail(f"{value!r} is not a DID", param, ctx)
        return str(value)


@click.command()
@click.argument("did", type=DidType())
@click.option(
    "--wait", type=click.FloatRange(0, 3_600), default=WAIT, show_default=True, metavar="SECONDS",
    help="for the daemon to fetch it",
)  # fmt: skip
@click.option(
    "--whole", is_flag=True,
    help="by the CAR of the whole repo, and not by the few blocks around our records: to compare",
)  # fmt: skip
@setting_options(*SETTINGS)
def resync(did: str, wait: float, whole: bool, **flags: Any) -> None:
    """Prove anew what one repo holds of ours, and make the index what it says.

    The daemon does it if it runs, else this command.
    """
    settings = quiet_settings(flags)
    run_async(fetch(settings, [did], retries=0, wait=wait, whole=whole))


async def fetch(
    settings: Settings,
    dids: Sequence[str],
    *,
    retries: int,
    wait: float | None,
    whole: bool = False,
) -> None:
    """Have these repos made right, with `whole` by their CARs, and tell how that goes.

    `wait` is how many seconds a daemon may take; None: as long as it makes progress. Raises
    ClickException if one of the repos could not be fetched.
    """
    async with await Database.open(settings.db) as db, worker(settings, db) as own:
        async with db.transaction() as tx:
            for did in dids:
                await resyncs.ask(tx, did, unix_ms(), whole=whole)
            await audit.write(tx, "operator", "resync", dids, None, unix_ms())

        async def measure() -> Progress:
            return Progress(*await resyncs.count(db, dids, retries))

        if own is None:
            await follow_daemon(settings, measure, wait)
        else:
            async with beside(_fetch_each(own.resyncer, db, dids, retries)) as work:
                await follow(measure, work)
        await _tell(db, dids, retries)


@dataclass(frozen=True, slots=True)
class Worker:
    """What fetches and finds repos in this process."""

    resyncer: Resyncer
    backfiller: Backfiller


@asynccontextmanager
async def worker(settings: Settings, db: Database) -> AsyncIterator[Worker | None]:
    """Open what does the daemon's work in its place, under its lock; None while one runs."""
    if is_running(settings.db):
        yield None
        return
    with daemon_lock(settings.db):
        async with network(settings) as (client, resolver):
            url, relay = settings.relay, settings.relay_host
            scope = make_scope(settings)
            async with db.transaction() as tx:
                # As the daemon does: a collection that these settings lack is not brought up to
                # date, so the daemon that has it again must know that.
                await begin(tx, relay, scope.collections)
            yield Worker(
                Resyncer(db, scope, resolver, client, relay_url=url, relay=relay),
                Backfiller(db, client, relay_url=url, relay=relay),
            )


@asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Let work go on beside the body, and end it with that."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _fetch_each(resyncer: Resyncer, db: Database, dids: Sequence[str], retries: int) -> None:
    """Fetch these repos and no others, each with its retries."""

    async def fetch_one(did: str) -> None:
        while True:
            await resyncer.resync(did)
            state = await resyncs.load(db, did)
            if state is None or state.sync == "synchronized" or state.hosting != "active":
                return
            if state.attempts > retries:
                return
            await asyncio.sleep(max(state.due_at - unix_ms(), 0) / 1000)

    async with asyncio.TaskGroup() as group:
        for did in dids:
            group.create_task(fetch_one(did))


async def _tell(db: Database, dids: Sequence[str], retries: int) -> None:
    """Say how it went with each, and fail if it went wrong with one."""
    failed = 0
    for did in dids:
        state = await resyncs.load(db, did)
        assert state is not None, "asked for, and rows are never deleted"  # noqa: S101
        if state.hosting != "active":
            failed += 1
            click.echo(f"{did} is {state.hosting}: its host serves it to nobody.", err=True)
        elif state.sync == "synchronized":
            click.echo(f"{did} is synchronized, at rev {state.rev}.")
        else:
            failed += 1
            click.echo(f"{did} could not be fetched: {plain(state.error or 'not yet')}", err=True)
    if failed:
        raise click.ClickException(f"{failed} of {len(dids)} failed")


# --- progress ---


@dataclass(frozen=True, slots=True)
class Progress:
    """Repos, by how far they are."""

    done: int
    failed: int
    left: int
    searching: str | None = None  # how far the search for them is, while it goes on

    @property
    def is_over(self) -> bool:
        return not self.left and self.searching is None


Measure = Callable[[], Awaitable[Progress]]


async def follow(measure: Measure, work: Sequence[asyncio.Task[None]]) -> Progress:
    """Show how our own work goes until nothing is left, and return that; raise what it raises."""
    async with aclosing(_looks(measure)) as looks:
        async for progress, _ in looks:
            for task in work:
                if task.done():
                    task.result()
            if progress.is_over or all(task.done() for task in work):
                break
    return await measure()


async def follow_daemon(settings: Settings, measure: Measure, wait: float | None) -> Progress:
    """Show how the daemon's work goes until nothing is left, and return that.

    It may take `wait` seconds, or, if that is None, as long as something moves within `WAIT`.
    Raises ClickException if it takes longer, or ends.
    """
    seen, moved_at = None, 0.0
    async with aclosing(_looks(measure)) as looks:
        async for progress, seconds in looks:
            if progress.is_over:
                break
            if progress != seen:
                seen, moved_at = progress, seconds
            if seconds - moved_at > WAIT if wait is None else seconds > wait:
                raise click.ClickException(
                    "this takes long: the daemon goes on with it; `rescind status` and its log "
                    "say more"
                )
            if not is_running(settings.db):
                raise click.ClickException("the daemon has ended; the next one goes on with it")
    return progress


async def _looks(measure: Measure) -> AsyncGenerator[tuple[Progress, float]]:
    """Look and show what is seen again and again: yield it, and the seconds since the first."""
    started = time.monotonic()
    before, took = await _timed(measure)
    progress = before
    on_terminal = sys.stderr.isatty()
    show_at = 0.0 if on_terminal else LINE_EVERY
    try:
        while True:
            seconds = time.monotonic() - started
            yield progress, seconds
            if seconds >= show_at:
                text = _line(progress, before.done, seconds)
                if on_terminal:
                    click.echo(f"\r\x1b[K{text}", nl=False, err=True)
                else:
                    click.echo(text, err=True)
                    show_at += LINE_EVERY
            # To look takes long in a large index: it is not to be all that happens.
            await asyncio.sleep(max(TICK, 4 * took))
            progress, took = await _timed(measure)
    finally:
        if on_terminal:
            click.echo("\r\x1b[K", nl=False, err=True)


async def _timed(measure: Measure) -> tuple[Progress, float]:
    started = time.monotonic()
    return await measure(), time.monotonic() - started


def _line(progress: Progress, before: int, seconds: float) -> str:
    """Say how far it is, on one line; `before` were done `seconds` ago."""
    done = max(progress.done - before, 0)
    rate = done / max(seconds, 0.001)
    text = f"{done:,} done, {progress.failed:,} failed, {progress.left:,} left"
    if progress.searching is not None:
        text = f"{progress.searching}; {text}"
    if done:
        text += f", {rate:,.1f} repos/s"
        if progress.searching is None:
            minutes, left = divmod(round(progress.left / rate), 60)
            text += f", {minutes}:{left:02} left"
    return text


def quiet_settings(flags: dict[str, Any]) -> Settings:
    """Load the settings; the log says only what the progress does not."""
    settings = load_settings(flags)
    if settings.log_level == "info":
        log.configure("warning", settings.log_format)
    return settings


def plain(text: str) -> str:
    """Return a text, part of which may be a stranger's, without what steers a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
