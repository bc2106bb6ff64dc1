"""`rescind backfill`: the repos to know, searched for anew, or some that are named."""

from typing import Any

import click

from indexer.cli.base import run_async, setting_options, unix_ms
from indexer.cli.resync import (
    SETTINGS,
    DidType,
    Measure,
    Progress,
    Worker,
    beside,
    fetch,
    follow,
    follow_daemon,
    quiet_settings,
    worker,
)
from indexer.config.settings import Settings
from indexer.repos.backfill import BackfillError
from indexer.store import audit, backfills, daemon, resyncs
from indexer.store.db import Database

TRIES = 4  # of a page of the search
RETRIES = 3  # of a repo, before it counts as failed here


@click.command()
@click.option(
    "--did", "dids", type=DidType(), multiple=True, metavar="DID",
    help="only this repo; may be given again",
)  # fmt: skip
@setting_options(*SETTINGS)
def backfill(dids: tuple[str, ...], **flags: Any) -> None:
    """Ask the relay again which repos have records of ours, and fetch what is missing.

    The daemon does it if it runs, else this command; Ctrl-C then leaves the rest to the daemon.
    """
    settings = quiet_settings(flags)
    if dids:
        run_async(fetch(settings, list(dict.fromkeys(dids)), retries=RETRIES, wait=None))
    else:
        run_async(_backfill(settings))


async def _backfill(settings: Settings) -> None:
    async with await Database.open(settings.db) as db, worker(settings, db) as own:
        last = await daemon.load(db)
        # The daemon knows which relay it reads; the settings of this shell may name another.
        relay = last["relay"] if own is None and last else settings.relay_host
        async with db.transaction() as tx:
            await backfills.reset(tx, relay)
            await resyncs.retry_all(tx)
            await audit.write(tx, "operator", "backfill", [relay], None, unix_ms())

        async def measure() -> Progress:
            searches = await backfills.load(db, relay)
            found = sum(search.found for search in searches)
            going_on = any(not search.done for search in searches)
            counts = await resyncs.count(db, None, RETRIES)
            return Progress(*counts, f"{found:,} found so far" if going_on else None)

        if own is None:
            click.echo("The daemon searches again.", err=True)
            progress = await follow_daemon(settings, measure, None)
        else:
            progress = await _work(own, measure)
        found = sum(each.found for each in await backfills.load(db, relay))
    click.echo(f"{found:,} repos were found; {progress.done:,} of those known are synchronized.")
    if progress.failed:
        raise click.ClickException(
            f"{progress.failed:,} can't be fetched now; the daemon goes on trying"
        )


async def _work(own: Worker, measure: Measure) -> Progress:
    try:
        async with beside(own.backfiller.work(TRIES), own.resyncer.run()) as work:
            return await follow(measure, work)
    except BackfillError as error:
        raise click.ClickException(f"the relay can't be searched: {error}") from None
