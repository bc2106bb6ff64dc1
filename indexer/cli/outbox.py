"""`rescind outbox`: the deletions that are to be published."""

import json
from typing import Any

import click

from indexer.cli.base import load_settings, run_async, setting_options, unix_ms
from indexer.store import audit, pause
from indexer.store import outbox as table
from indexer.store.db import Database


@click.group("outbox")
def outbox() -> None:
    """See and steer the deletions that are to be published."""


@outbox.command("list")
@click.option("--all", "everything", is_flag=True, help="also what is confirmed or dropped")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
@setting_options("db")
def outbox_list(everything: bool, limit: int, as_json: bool, **flags: Any) -> None:
    """List what waits: state, attempts, and what went wrong last."""
    settings = load_settings(flags)
    states = table.STATES if everything else ("pending", "sent", "blocked")

    async def show() -> None:
        async with await Database.open(settings.db, create=False) as db:
            for row in await table.listing(db, states, limit):
                if as_json:
                    click.echo(
                        json.dumps(
                            {
                                "uri": row.uri,
                                "state": row.state,
                                "attempts": row.attempts,
                                "commitRev": row.commit_rev,
                                "dueAt": row.due_at or row.updated_at,  # 0: at once
                                "error": row.error,
                            }
                        )
                    )
                else:
                    click.echo(f"{row.state:<10}{row.attempts:>4}  {row.uri}  {row.error or ''}")

    run_async(show())


@outbox.command("retry")
@click.argument("uris", metavar="[URI]...", nargs=-1)
@setting_options("db")
def outbox_retry(uris: tuple[str, ...], **flags: Any) -> None:
    """Try these deletions now, or all that wait.

    The daemon takes them up within seconds, also at a PDS that is left alone, or that has named a
    time itself; it asks such a PDS once for all of them.
    """
    settings = load_settings(flags)

    async def retry() -> None:
        async with await Database.open(settings.db, create=False) as db, db.transaction() as tx:
            count = await table.retry_now(tx, uris or None, unix_ms())
            if uris and not count:
                raise click.ClickException("none of these waits in the outbox")
            await audit.write(tx, "operator", "outbox.retry", uris or ["*"], None, unix_ms())
        click.echo(f"{count} to be tried now.")

    run_async(retry())


@outbox.command("pause")
@click.option("--reason", default="an operator paused it", show_default=True)
@setting_options("db")
def outbox_pause(reason: str, **flags: Any) -> None:
    """Write nothing into any repo until it is resumed. What is revoked counts here all the same."""
    settings = load_settings(flags)

    async def hold() -> None:
        async with await Database.open(settings.db, create=False) as db, db.transaction() as tx:
            await pause.begin(tx, reason, unix_ms())
            await audit.write(tx, "operator", "outbox.pause", ["*"], reason, unix_ms())
        click.echo("Nothing is published until `rescind outbox resume`.")

    run_async(hold())


@outbox.command("resume")
@setting_options("db")
def outbox_resume(**flags: Any) -> None:
    """Publish again, after a restore or a pause. Never in a copy that is a test."""
    settings = load_settings(flags)

    async def go_on() -> None:
        async with await Database.open(settings.db, create=False) as db, db.transaction() as tx:
            if not await pause.end(tx):
                raise click.ClickException("publishing was not paused")
            await audit.write(tx, "operator", "outbox.resume", ["*"], None, unix_ms())
            counts = await table.count_by_state(tx)
        waiting = sum(counts.get(state, 0) for state in table.UNDONE)
        click.echo(f"Publishing goes on: {waiting} deletions wait.")

    run_async(go_on())


@outbox.command("drop")
@click.argument("uri")
@click.option("--reason", required=True, help="kept with the row and in the audit")
@setting_options("db")
def outbox_drop(uri: str, reason: str, **flags: Any) -> None:
    """Give a deletion up. The record stays revoked here, and stays in its repo."""
    settings = load_settings(flags)

    async def drop() -> None:
        async with await Database.open(settings.db, create=False) as db, db.transaction() as tx:
            if not await table.drop(tx, uri, reason, unix_ms()):
                raise click.ClickException(f"nothing waits in the outbox for {uri}")
            await audit.write(tx, "operator", "outbox.drop", [uri], reason, unix_ms())
        click.echo(f"Dropped {uri}.")

    run_async(drop())
