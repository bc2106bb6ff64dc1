"""`rescind login` and `rescind logout`: the accounts whose repos we may write to."""

import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import click

from indexer.cli.base import NETWORK, load_settings, network, run_async, setting_options
from indexer.config.settings import PREFIX, Settings
from indexer.config.values import KEY_BYTES
from indexer.identity.resolver import IdentityResolver
from indexer.store.db import Database
from xrpc.publishing import keys
from xrpc.publishing.keys import KeyFileError
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
        async with _sessions(settings, Vault.fitting) as (sessions, resolver):
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
        async with _sessions(settings, _any_vault) as (sessions, resolver):
            name = account.removeprefix("@")
            # By the name that it had when it logged in: the handle may lead nowhere by now.
            did = await sessions.did_of(name) or await resolver.resolve_handle(name)
            done = await sessions.log_out(did)
            if done is None:
                raise NoSessionError(f"there is no session for {did}")
        if done.left is None:
            click.echo(f"Logged out {did}.")
        else:
            click.echo(
                f"The session of {did} is forgotten here, but its PDS was not told: {done.left}. "
                "It runs out there unless it is used; to end it now, withdraw the app password."
            )

    run_async(log_out())


@asynccontextmanager
async def _sessions(
    settings: Settings, open_vault: Callable[[Settings, Database], Awaitable[Vault]]
) -> AsyncIterator[tuple[Sessions, IdentityResolver]]:
    async with (
        await Database.open(settings.db) as db,
        network(settings) as (client, resolver),
    ):
        vault = await open_vault(settings, db)
        yield Sessions(db, vault, PdsClient(client)), resolver


async def _any_vault(settings: Settings, _: Database) -> Vault:
    """Open with whatever key there is: a session can be forgotten without the one that fits."""
    try:
        key = keys.load(settings)
    except KeyFileError:
        key = None
    return Vault(key or secrets.token_bytes(KEY_BYTES))
