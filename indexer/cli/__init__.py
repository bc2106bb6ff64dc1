"""The `rescind` command: the one place that wires both halves."""

from importlib.metadata import version

import click

from indexer.cli.accounts import login, logout
from indexer.cli.backfill import backfill
from indexer.cli.base import Commands
from indexer.cli.daemon import run
from indexer.cli.outbox import outbox
from indexer.cli.replay import replay
from indexer.cli.resync import resync
from indexer.cli.status import status


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("rescind"), prog_name="rescind")
def main() -> None:
    """An AT Protocol AppView that indexes spaces, invites and verifications, and revokes them.

    Every setting is a flag, a RESCIND_... variable, or a line of a .env file.
    """


for _command in (run, replay, backfill, resync, status, login, logout, outbox):
    main.add_command(_command)
