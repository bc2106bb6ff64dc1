"""How far a command is, shown while it works."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

EVERY = 10  # reports that are told in a line where there is no terminal


@contextmanager
def showing() -> Iterator[Callable[[str], None]]:
    """Show what is reported on stderr: on a terminal as one line that changes."""
    on_terminal = sys.stderr.isatty()
    count = 0

    def report(line: str) -> None:
        nonlocal count
        if on_terminal:
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)
        elif count % EVERY == 0:
            click.echo(line, err=True)
        count += 1

    try:
        yield report
    finally:
        if on_terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
