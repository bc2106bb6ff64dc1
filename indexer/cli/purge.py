"""`rescind purge`: what is kept of a person, removed as far as no promise hangs on it."""

from typing import Any

import click

from indexer.cli.base import load_settings, run_async, setting_options, unix_ms
from indexer.cli.resync import DidType
from indexer.config.settings import Settings
from indexer.store import audit, members, repos, sessions, tombstones
from indexer.store.db import Database


@click.command()
@click.argument("did", type=DidType())
@click.option(
    "--reasons",
    is_flag=True,
    help="also the texts that say why what it wrote, or what was said of it, was revoked",
)
@setting_options("db", "journal")
def purge(did: str, reasons: bool, **flags: Any) -> None:
    """Remove what is kept of an account: its session, its memberships, what its records said.

    The records of an account that its host still serves are public, and stay. That something was
    revoked, by whom and when, stays for good: else it would come back.
    """
    settings = load_settings(flags)
    run_async(_purge(settings, did, reasons))


async def _purge(settings: Settings, did: str, reasons: bool) -> None:
    now = unix_ms()
    async with await Database.open(settings.db, create=False) as db, db.transaction() as tx:
        known = (await repos.load(tx, [did])).get(did)
        had_session = await sessions.delete(tx, did)
        left = await members.remove_account(tx, did)
        is_gone = known is not None and known.hosting != "active"
        if is_gone:
            await tombstones.purge_repo(tx, did, now)
            await members.purge_repo(tx, did)
            await repos.forget_contents(tx, did)
        count = await tombstones.forget_reasons(tx, did) if reasons else 0
        if reasons:
            await audit.forget_details(tx, did)
        await audit.write(tx, "operator", "purge", [did], None, now)
    click.echo(f"Removed: {'its session, ' if had_session else ''}{left} memberships.")
    if is_gone:
        click.echo("Removed: what its records said, and the members of its spaces.")
    elif known is not None:
        click.echo("Its records stay: its host serves them to everybody.")
    if reasons:
        click.echo(f"Removed: why {count} records were revoked.")
    click.echo("What stays: that records were revoked, by whom and when; and who did what.")
    if (journal := settings.journal_file) is not None:
        click.echo(f"{journal} and copies have it until they are {settings.journal_days} days old.")
