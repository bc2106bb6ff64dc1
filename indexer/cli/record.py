"""`rescind record`: the firehose into a file, frame by frame."""

import asyncio
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from indexer.cli.base import LOG, CursorType, load_settings, run_async, setting_options
from indexer.cli.progress import showing
from indexer.config.settings import Settings
from indexer.stream.firehose import Firehose
from indexer.stream.recorder import Recorded, Recorder
from indexer.stream.recording import Writer

SEQS = click.IntRange(min=0, max=2**63 - 1)


@click.command("record")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--from",
    "first",
    type=CursorType("oldest", "live"),
    default="live",
    show_default=True,
    metavar="SEQ|oldest|live",
    help="the first seq to record",
)
@click.option("--to", "last", type=SEQS, metavar="SEQ", help="the last seq to record")
@click.option("--frames", type=click.IntRange(min=1), metavar="N", help="end after N frames")
@click.option(
    "--for", "seconds", type=click.IntRange(min=1), metavar="SECONDS", help="end after this time"
)
@setting_options("relay", *LOG)
def record(
    file: Path,
    first: int | str,
    last: int | None,
    frames: int | None,
    seconds: int | None,
    **flags: Any,
) -> None:
    """Record the firehose into FILE, until stopped: for `rescind replay --file`."""
    settings = load_settings(flags)
    start = None if first == "live" else 0 if first == "oldest" else max(int(first) - 1, 0)
    if last is not None and start is not None and last < start + 1:
        raise click.UsageError(f"--to {last} lies before --from {first}")
    run_async(_record(settings, file, start, last, frames, seconds))


async def _record(
    settings: Settings,
    file: Path,
    start: int | None,
    last: int | None,
    most: int | None,
    seconds: int | None,
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)
    writer = Writer(file, settings.relay_host)
    source = Firehose(settings.relay, allow_private=settings.allow_private_hosts)
    recorder = Recorder(source, writer, start=start, last=last, most=most)
    try:
        with closing(writer), showing() as show:
            await recorder.run(stop, lambda recorded: show(_line(recorded)))
    finally:
        recorded = recorder.recorded
        if not recorded.frames:
            file.unlink(missing_ok=True)  # so that the command can be given again
    if recorded.frames:
        click.echo(f"Recorded {_line(recorded)}, into {file}.")
    else:
        click.echo("Recorded nothing.")


def _line(recorded: Recorded) -> str:
    line = f"{recorded.frames:,} events, {recorded.rate:,.0f} events/s"
    if recorded.first is not None:
        line += f", seq {recorded.first} to {recorded.last}"
    return f"{line}, {recorded.size / 1e6:,.1f} MB"
