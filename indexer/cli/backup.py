"""`rescind backup` and `rescind restore`: a copy of the index, and the way back from one."""

from pathlib import Path
from typing import Any

import click

from indexer.cli.base import load_settings, run_async, setting_options, unix_ms
from indexer.config.settings import PREFIX, Settings
from indexer.journal.play import Played, play
from indexer.journal.reader import files_of, read
from indexer.lock import daemon_lock
from indexer.store import audit, copies, files, outbox, pause, resyncs, sessions
from indexer.store.db import Database, DatabaseError
from xrpc.publishing import keys
from xrpc.publishing.sessions import Vault

FILE = click.Path(dir_okay=False, path_type=Path)
PAUSED = "this index was restored from a copy"


@click.command()
@click.argument("file", type=FILE)
@click.option("--with-key", is_flag=True, help="also the key file, as FILE.key")
@setting_options("db")
def backup(file: Path, with_key: bool, **flags: Any) -> None:
    """Copy the index into FILE, as it stands at one moment; also while the daemon runs.

    The sessions in it are sealed. With their key beside them they are not safe from who has both.
    """
    settings = load_settings(flags)
    if not settings.db.exists():
        raise DatabaseError(f"There is no database at {settings.db}.")
    key = keys.load(settings) if with_key else None
    key_file = file.with_name(file.name + ".key")
    if with_key and key is None:
        raise click.ClickException(f"{keys.name(settings)} is missing: there is no key to copy")
    if key is not None and key_file.exists() and keys.read(key_file) != key:
        raise click.ClickException(f"{key_file} holds another key: name another file")
    copies.make(settings.db, file)
    if key is not None:
        keys.write(key_file, key)
        click.echo(f"The key is in {key_file}: keep it apart from the copy.")
    click.echo(f"Copied {settings.db} to {file}.")


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--with-sessions",
    is_flag=True,
    help="keep the sessions of the copy; used in two places, they end each other",
)
@click.option(
    "--accept-damage", is_flag=True, help="of a damaged journal, play the lines that are whole"
)
@setting_options("db", "journal")
def restore(file: Path, with_sessions: bool, accept_damage: bool, **flags: Any) -> None:
    """Put a copy in the place of the index, and play the journal into it.

    The daemon must not run. What was there is kept as `.before-restore`. Nothing is published until
    `rescind outbox resume`, and every tracked repo is checked when the daemon runs.
    """
    settings = load_settings(flags)
    if not file.exists():
        raise DatabaseError(f"There is no file {file}.")
    if settings.db.exists() and file.samefile(settings.db):
        raise DatabaseError(f"{file} is the index itself.")
    is_new = not settings.db.exists()
    with daemon_lock(settings.db):
        taken = settings.db.resolve().with_name(settings.db.name + ".restoring")
        try:
            copies.take(file, taken)
            played = run_async_to(_change(settings, taken, with_sessions, accept_damage))
            kept = copies.put_in_place(taken, settings.db)
        except BaseException:
            if is_new:
                settings.db.unlink(missing_ok=True)  # which the lock has made
            raise
        finally:
            for left in (taken, *files.beside(taken)):
                left.unlink(missing_ok=True)
    click.echo(f"Restored {settings.db} from {file}.")
    if kept is not None:
        click.echo(f"What was there is kept as {kept}.")
    _tell_of_journal(settings, played)
    if not with_sessions:
        click.echo("The sessions were left out: `rescind login` each account whose repo to write.")
    click.echo("Nothing is published until `rescind outbox resume`.")


async def _change(
    settings: Settings, taken: Path, with_sessions: bool, accept_damage: bool
) -> Played:
    """Make a copy fit to go on with: who was revoked since, and nothing that it may have undone."""
    now = unix_ms()
    async with await Database.open(taken) as db:
        if with_sessions:
            await Vault.fitting(settings, db)
        async with db.transaction() as tx:
            if not with_sessions:
                await sessions.delete_all(tx)
            await pause.begin(tx, PAUSED, now)
            # Since the copy was made they may have been done, and a newer grant may stand there.
            await outbox.forget_undone(tx)
            journal = settings.journal_file
            entries = read(journal, accept_damage=accept_damage) if journal is not None else ()
            played = await play(tx, entries, now)
            await resyncs.refetch_all(tx)
            await resyncs.retry_all(tx)
            await audit.write(tx, "operator", "restore", ["*"], None, now)
    return played


def _tell_of_journal(settings: Settings, played: Played) -> None:
    journal = settings.journal_file
    if journal is None or not files_of(journal):
        where = f"{PREFIX}JOURNAL is off" if journal is None else f"there is none at {journal}"
        click.echo(
            f"No journal was played ({where}): what was revoked since the copy was made is not "
            "known here.",
            err=True,
        )
    else:
        click.echo(
            f"The journal has {played.entries} revocations; {played.news} of them were not in the "
            "copy, and are revoked again."
        )


def run_async_to(work: Any) -> Played:
    """Run a coroutine to its end, and return what it returns."""
    found: list[Played] = []

    async def keep() -> None:
        found.append(await work)

    run_async(keep())
    return found[0]
