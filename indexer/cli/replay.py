"""`rescind replay`."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
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
from indexer.cli.progress import showing
from indexer.config.settings import ConfigError, Settings
from indexer.records import Scope
from indexer.replay import Progress, ReplayError
from indexer.replay import replay as play
from indexer.store import backfills, repos
from indexer.store.db import Database
from indexer.stream.firehose import Firehose
from indexer.stream.recording import Recording


@click.command("replay")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="play this file, which `rescind record` made, and not what the relay has",
)
@click.option(
    "--from",
    "first",
    type=CursorType("oldest"),
    metavar="SEQ|oldest",
    help="the first seq to play  [required without --file]",
)
@click.option(
    "--to",
    "last",
    type=click.IntRange(min=0, max=2**63 - 1),
    metavar="SEQ",
    help="the last seq to play  [default: the end of the file; else the stored cursor, "
    "else the live end]",
)
@setting_options("db", "relay", *NETWORK, *COLLECTIONS, "refuse_old_form", *LOG)
def replay(file: Path | None, first: int | str | None, last: int | None, **flags: Any) -> None:
    """Play a stretch of the firehose again; also while the daemon runs."""
    settings = load_settings(flags)
    if first is None and file is None:
        raise click.UsageError("--from says where to begin, unless a --file is played")
    seq = first if isinstance(first, int) else 0
    if last is not None and last < seq:
        raise click.UsageError(f"--to {last} lies before --from {seq}")
    run_async(_replay(settings, file, seq, last))


async def _replay(settings: Settings, file: Path | None, first: int, last: int | None) -> None:
    scope = make_scope(settings)
    opened: AbstractContextManager[Recording | None]
    opened = Recording.open(file) if file else nullcontext()
    rejected: Mapping[str, int] = {}
    with opened as recording, showing() as show:

        def report(progress: Progress) -> None:
            nonlocal rejected
            rejected = progress.rejected
            show(_progress_line(progress))

        async with (
            await Database.open(settings.db) as db,
            network(settings) as (_, resolver),
        ):
            await _check_scope(db, scope)
            done: Progress | ReplayError
            try:
                done = await play(
                    db,
                    scope,
                    make_prover(settings, resolver, scope),
                    source=recording
                    or Firehose(settings.relay, allow_private=settings.allow_private_hosts),
                    relay=recording.relay if recording else settings.relay_host,
                    first=first,
                    last=last,
                    report=report,
                )
            except ReplayError as error:
                done = error
            states = await repos.count_by_state(db)
    if isinstance(done, Progress):
        click.echo(f"Replayed {_progress_line(done)}.")
    if recording is not None and recording.is_cut_off:
        click.echo(f"{file} is cut off: it was played up to its last whole event.", err=True)
    if rejected:
        left = states.get("desynchronized", 0) + states.get("pending", 0)
        click.echo(_rejected_lines(rejected, left), err=True)
    if isinstance(done, ReplayError):
        raise done


async def _check_scope(db: Database, scope: Scope) -> None:
    """Refuse to move repos on past events of collections that the index is kept for."""
    kept = await backfills.collections(db)
    if kept and kept != scope.collections:
        raise ConfigError(
            f"The index is kept for {', '.join(sorted(kept))}, and these settings are for "
            f"{', '.join(sorted(scope.collections))}: give those that the daemon has, or start it "
            "with these first."
        )


def _rejected_lines(rejected: Mapping[str, int], left: int) -> str:
    """Say what was rejected, by reason, and what `left` repos that are not whole now need."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(rejected.items()))
    lines = f"Rejected: {reasons}."
    if left:
        lines += (
            f"\nNot whole now: {left:,} repos. The daemon fetches them when it runs; without one, "
            "`rescind backfill` does, or `rescind resync DID` one of them."
        )
    return lines


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
