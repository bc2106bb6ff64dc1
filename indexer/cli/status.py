"""`rescind status`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click

from indexer import status as report
from indexer.cli.base import load_settings, run_async, setting_options, unix_ms
from indexer.config.settings import Settings
from indexer.store import disk, sessions
from indexer.store.db import Database, DatabaseError, Located
from xrpc.publishing import keys
from xrpc.publishing.keys import KeyFileError
from xrpc.publishing.sessions import Vault


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@setting_options("db", "relay")
def status(as_json: bool, **flags: Any) -> None:
    """Show cursor and lag, records, tombstones, repos, outbox and sessions."""
    settings = load_settings(flags)

    async def show() -> None:
        async with _opened(settings) as db:
            found = await report.gather(db, settings.relay_host, unix_ms())
            await _tell_of_key(settings, db, found)
            found["disk"] = {"free_bytes": disk.free_bytes(settings.db)}
        click.echo(json.dumps(found, indent=2) if as_json else report.render(found))

    run_async(show())


async def _tell_of_key(settings: Settings, db: Located, found: dict[str, Any]) -> None:
    """Say of each session, instead of that it works, why its key does not open it."""
    try:
        key, problem = keys.load(settings), f"{keys.name(settings)} is missing"
    except KeyFileError as error:
        key, problem = None, str(error)
    for session in found["sessions"]:
        stored = await sessions.load(db, session["did"])
        if key is not None and stored is not None:
            if Vault(key).opens(stored.sealed):
                continue
            problem = f"it was sealed with another key than {keys.name(settings)}"
        session["refused"] = session["refused"] or problem


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Located]:
    """Open the index; where it can't be written, such as on a full disk, only to read."""
    try:
        db = await Database.open(settings.db, create=False)
    except DatabaseError as error:
        if not settings.db.exists():
            raise
        async with Database.look(settings.db) as seen:
            click.echo(f"{error} It is only read here.", err=True)
            yield seen
    else:
        async with db:
            yield db
