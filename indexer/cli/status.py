"""`rescind status`."""

import json
from typing import Any

import click

from indexer import status as report
from indexer.cli.base import load_settings, run_async, setting_options, unix_ms
from indexer.store.db import Database


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@setting_options("db", "relay")
def status(as_json: bool, **flags: Any) -> None:
    """Show cursor and lag, records, tombstones, repos, outbox and sessions."""
    settings = load_settings(flags)

    async def show() -> None:
        async with await Database.open(settings.db, create=False) as db:
            found = await report.gather(db, settings.relay_host, unix_ms())
        click.echo(json.dumps(found, indent=2) if as_json else report.render(found))

    run_async(show())
