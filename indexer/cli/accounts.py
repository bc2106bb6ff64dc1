"""`rescind login` and `rescind logout`: the accounts whose repos we may write to."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click

from indexer.cli.base import NETWORK, load_settings, network, run_async, setting_options
from indexer.config.settings import PREFIX, Settings
from indexer.identity.resolver import IdentityResolver
from indexer.store.db import Database
from xrpc.publishing.pds import PdsClient
from xrpc.publishing.sessions import NoSessionError, Sessions, Vault


@click.command()
@click.argument("account", metavar="DID|HANDLE")
@setting_options("db", *NETWORK)
def login(account: str, **flags: Any) -> None:
    """Log in with an app password, so that deletions can be published to the account's repo.

    The password is asked for, or read from RESCIND_APP_PASSWORD, or from standard input.
    """
    settings = load_settings(flags)
    # No argument for it: others on the machine can see a command line.
    password = os.environ.get(f"{PREFIX}APP_PASSWORD")
    if not password and sys.stdin.isatty():
        password = click.prompt("App password", hide_input=True, err=True)
    password = (password or sys.stdin.readline()).strip()
    if not password:
        raise click.UsageError("no app password was given")

    async def log_in() -> None:
        async with _sessions(settings) as (sessions, resolver):
            tokens = await sessions.log_in(resolver, account.removeprefix("@"), password)
        click.echo(f"Logged in as {tokens.did} ({tokens.handle or 'no handle'}).")

    run_async(log_in())


@click.command()
@click.argument("account", metavar="DID|HANDLE")
@setting_options("db", *NETWORK)
def logout(account: str, **flags: Any) -> None:
    """Forget the session of an account, here and at its PDS."""
    settings = load_settings(flags)

    async def log_out() -> None:
        async with _sessions(settings) as (sessions, resolver):
            name = account.removeprefix("@")
            # By the name that it had when it logged in: the handle may lead nowhere by now.
            did = await sessions.did_of(name) or await resolver.resolve_handle(name)
            if not await sessions.log_out(did):
                raise NoSessionError(f"there is no session for {did}")
        click.echo(f"Logged out {did}.")

    run_async(log_out())


@asynccontextmanager
async def _sessions(settings: Settings) -> AsyncIterator[tuple[Sessions, IdentityResolver]]:
    async with (
        await Database.open(settings.db) as db,
        network(settings) as (client, resolver),
    ):
        yield Sessions(db, Vault.open(settings), PdsClient(client)), resolver
