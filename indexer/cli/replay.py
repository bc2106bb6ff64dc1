"""`rescind replay`."""

import sys
from typing import Any

import click

from indexer.cli.base import (
    COLLECTIONS,
    LOG,
    NETWORK,
    CursorType,
    load_settings,
    make_prover,
    make_scope,
    network,
    run_async,
    setting_options,
)
from indexer.config import Settings
from indexer.replay import Progress
from indexer.replay import replay as play
from indexer.store.db import Database


@click.command("replay")
@click.option(
    "--from",
    "first",
    required=True,
    type=CursorType("oldest"),
    metavar="SEQ|oldest",
    help="the first seq to play",
)
@click.option(
    "--to",
    "last",
    type=click.IntRange(min=0, max=2**63 - 1),
    metavar="SEQ",
    help="the last seq to play  [default: the stored cursor, else the live end]",
)
@setting_options("db", "relay", *NETWORK, *COLLECTIONS, "refuse_old_form", *LOG)
def replay(first: int | str, last: int | None, **flags: Any) -> None:
    """Play a stretch of the firehose again; also while the daemon runs."""
    settings = load_settings(flags)
    seq = 0 if isinstance(first, str) else first
    if last is not None and last < seq:
        raise click.UsageError(f"--to {last} lies before --from {seq}")
    run_async(_replay(settings, seq, last))


async def _replay(settings: Settings, first: int, last: int | None) -> None:
    on_terminal = sys.stderr.isatty()
    lines = 0

    def report(progress: Progress) -> None:
        nonlocal lines
        lines += 1
        if on_terminal:
            click.echo(f"\r\x1b[K{_progress_line(progress)}", nl=False, err=True)
        elif lines % 10 == 1:
            click.echo(_progress_line(progress), err=True)

    scope = make_scope(settings)
    async with (
        await Database.open(settings.db) as db,
        network(settings) as (_, resolver),
    ):
        done = await play(
            db,
            scope,
            make_prover(settings, resolver, scope),
            relay_url=settings.relay,
            relay=settings.relay_host,
            first=first,
            last=last,
            report=report,
        )
    if on_terminal:
        click.echo("\r\x1b[K", nl=False, err=True)
    click.echo(f"Replayed {_progress_line(done)}.")


def _progress_line(progress: Progress) -> str:
    line = f"{progress.frames:,} events, {progress.rate:,.0f} events/s"
    if progress.seq is not None:
        line += f", at seq {progress.seq}"
        if progress.last is not None:
            line += f" of {progress.last}"
    if progress.left:
        minutes, seconds = divmod(round(progress.left), 60)
        line += f", {minutes}:{seconds:02} left"
    return line
