"""The `rescind` command: the one place that wires both halves."""

from importlib.metadata import version

import click

from indexer.cli.accounts import login, logout
from indexer.cli.backfill import backfill
from indexer.cli.backup import backup, restore
from indexer.cli.base import Commands
from indexer.cli.check import check
from indexer.cli.daemon import run
from indexer.cli.invites import invites
from indexer.cli.key import key
from indexer.cli.outbox import outbox
from indexer.cli.purge import purge
from indexer.cli.record import record
from indexer.cli.replay import replay
from indexer.cli.resync import resync
from indexer.cli.spaces import spaces
from indexer.cli.status import status
from indexer.cli.verifications import verifications


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("rescind"), prog_name="rescind")
def main() -> None:
    """An AT Protocol AppView that indexes spaces, invites and verifications, and revokes them.

    Every setting is a flag, a RESCIND_... variable, or a line of a .env file.
    """


for _command in (
    run, record, replay, backfill, resync, check, status, login, logout, key, backup, restore,
    outbox, spaces, invites, verifications, purge,
):  # fmt: skip
    main.add_command(_command)
