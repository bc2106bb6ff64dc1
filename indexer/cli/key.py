"""`rescind key`: the key that seals sessions."""

import os
from typing import Any

import click

from indexer.cli.base import load_settings, run_async, setting_options, unix_ms
from indexer.config import values
from indexer.config.settings import PREFIX, Settings
from indexer.lock import daemon_lock
from indexer.store import audit
from indexer.store.db import Database
from xrpc.publishing import keys
from xrpc.publishing.keys import KeyFileError
from xrpc.publishing.sessions import Vault

NEW_KEY = f"{PREFIX}NEW_SECRET_KEY"


@click.group("key")
def key() -> None:
    """Change the key that seals sessions."""


@key.command("rotate")
@setting_options("db")
def key_rotate(**flags: Any) -> None:
    """Seal all sessions with a new key. The daemon must not run.

    Of a key file, a new one takes its place. Where RESCIND_SECRET_KEY is set, the new key is read
    from RESCIND_NEW_SECRET_KEY, and is to be set as RESCIND_SECRET_KEY afterwards.
    """
    settings = load_settings(flags)
    if not settings.db.exists():
        raise click.ClickException(f"there is no database at {settings.db}")
    with daemon_lock(settings.db):
        run_async(_rotate(settings))


async def _rotate(settings: Settings) -> None:
    async with await Database.open(settings.db, create=False) as db:
        vault = await Vault.fitting(settings, db)
        new = _new_key(settings)
        async with db.transaction() as tx:
            count = await vault.reseal_all(tx, Vault(new))
            await audit.write(tx, "operator", "key.rotate", ["*"], None, unix_ms())
        if settings.secret_key is None:
            # After the commit: if it is killed in between, the next start finds the new key here.
            keys.next_file(settings).replace(settings.key_file)
            click.echo(f"{count} sessions are sealed with the new key in {settings.key_file}.")
        else:
            click.echo(
                f"{count} sessions are sealed with the key of {NEW_KEY}: set it as "
                f"{PREFIX}SECRET_KEY before the daemon starts."
            )


def _new_key(settings: Settings) -> bytes:
    if settings.secret_key is None:
        path = keys.next_file(settings)
        path.unlink(missing_ok=True)  # of a rotation that sealed nothing
        return keys.make(path)
    try:
        given = values.key(os.environ.get(NEW_KEY))
    except ValueError as error:
        raise KeyFileError(f"{NEW_KEY}: {error}") from None
    if given is None:
        raise KeyFileError(f"the key is {PREFIX}SECRET_KEY: give the new one as {NEW_KEY}")
    return bytes.fromhex(given.get_secret_value())
