"""`rescind check`: the index held against the repos, without changing either."""

import asyncio
from typing import Any

import click

from indexer.cli.base import load_settings, make_scope, network, run_async, setting_options
from indexer.cli.resync import SETTINGS, DidType, plain
from indexer.config.settings import Settings
from indexer.repos.checker import Checked, Checker
from indexer.store import repos
from indexer.store.db import Database

AT_ONCE = 8  # repos
MAX_SAMPLE = 100_000
DIFFERENT = 1  # exit statuses
UNCHECKED = 3  # some could not be checked, and the others are as they should be


@click.command()
@click.argument("did", type=DidType(), required=False)
@click.option(
    "--sample", type=click.IntRange(1, MAX_SAMPLE), metavar="N",
    help="as many of the repos that are known, chosen at random",
)  # fmt: skip
@setting_options(*SETTINGS)
def check(did: str | None, sample: int | None, **flags: Any) -> None:
    """Prove what repos hold of ours, and compare it with the index; nothing is changed.

    Exits with 1 if the index says anything else than a repo at the same revision, and names it;
    with 3 if a repo could not be checked. What is revoked here and not yet gone there is no
    difference.
    """
    if (did is None) == (sample is None):
        raise click.UsageError("name a DID, or give --sample N")
    run_async(_check(load_settings(flags), did, sample or 0))


async def _check(settings: Settings, did: str | None, sample: int) -> None:
    async with (
        await Database.open(settings.db, create=False) as db,
        network(settings) as (client, resolver),
    ):
        scope = make_scope(settings)
        checker = Checker(db, scope, resolver, client, relay_url=settings.relay)
        dids = [did] if did is not None else await repos.sample(db, sample)
        slots = asyncio.Semaphore(AT_ONCE)

        async def check_one(did: str) -> Checked:
            async with slots:
                found = await checker.check(did)
            _tell(found)
            return found

        checked = await asyncio.gather(*map(check_one, dids))
    different = sum(bool(each.differences) for each in checked)
    unchecked = sum(each.reason is not None for each in checked)
    same = len(checked) - different - unchecked
    click.echo(f"{same:,} as they should be, {different:,} differ, {unchecked:,} not checked")
    if different or unchecked:
        click.get_current_context().exit(DIFFERENT if different else UNCHECKED)


def _tell(found: Checked) -> None:
    if found.reason is not None:
        click.echo(f"{found.did} could not be checked: {plain(found.reason)}", err=True)
        return
    word = "differs" if found.differences else "is as it should be"
    size = f"{found.tally.bytes / 1000:,.1f} kB, {found.tally.requests} requests"
    click.echo(f"{found.did} {word}, at rev {found.rev} (by {found.way}: {size})")
    for difference in found.differences:
        click.echo(f"  {plain(str(difference))}")
