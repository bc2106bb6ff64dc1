"""What `spaces`, `invites` and `verifications` share: the methods' own code, without a caller.

What an owner may see is shown as the methods show it to him. What is revoked here is asked for by
the service itself: its DID is the actor of the tombstone, `operator` that of the audit.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import click

from indexer.cli.base import NETWORK, make_scope, network, run_async, setting_options
from indexer.cli.resync import plain, quiet_settings
from indexer.journal.writer import Journal
from indexer.lexicon.syntax import (
    format_datetime,
    is_at_identifier,
    is_at_uri,
    is_did,
    parse_at_uri,
)
from indexer.lock import is_running
from indexer.store import audit, outbox, repos, tombstones
from indexer.store.db import Database
from indexer.store.outbox import Deletion
from xrpc.auth.callers import Caller
from xrpc.errors import XrpcError
from xrpc.publishing.pds import PdsClient
from xrpc.publishing.publisher import Publisher
from xrpc.publishing.sessions import Sessions, Vault
from xrpc.services import Call, Services

MAX_ROWS = 100_000

# The last two give the service's DID.
settings_of_index = setting_options("db", "journal", *NETWORK, "bind", "public_url")
as_json_option = click.option("--json", "as_json", is_flag=True, help="one JSON object")
as_json_lines_option = click.option(
    "--json", "as_json", is_flag=True, help="one JSON object a line"
)
limit_option = click.option(
    "--limit", type=click.IntRange(1, MAX_ROWS), default=200, show_default=True
)


class LeftToDaemon(Publisher):
    """Publishes nothing: the daemon looks at the outbox every few seconds, whoever wrote to it."""

    async def publish(self, dids: Iterable[str], within: float) -> None:
        return


def with_services(flags: dict[str, Any], work: Callable[[Services], AsyncIterator[str]]) -> None:
    """Run a command's work on the index, and print the lines that it yields.

    What a method refuses, in its words, ends the command.
    """
    settings = quiet_settings(flags)

    async def print_lines() -> None:
        async with (
            await Database.open(settings.db, create=False) as db,
            # Opened when there is something to keep: most commands only look.
            Journal(settings.journal_file, settings.journal_days) as journal,
            network(settings) as (client, resolver),
        ):
            pds = PdsClient(client)
            # Whether there is a session is asked here, but none is used: no key is needed, nor
            # made on the disk.
            sessions = Sessions(db, Vault(secrets.token_bytes(32)), pds)
            publisher = LeftToDaemon(db, sessions, resolver, pds)
            operators = settings.operators | {settings.service_did}
            services = Services(
                settings.model_copy(update={"operators": operators}),
                db,
                make_scope(settings),
                resolver,
                pds,
                sessions,
                publisher,
                journal=journal,
            )
            try:
                async for line in work(services):
                    click.echo(line)
            except XrpcError as error:
                raise click.ClickException(error.message) from None

    run_async(print_lines())


def call_as(did: str, **given: Any) -> Call:
    """Return a call as the account would make it, with what its document asks for."""
    return Call(Caller(did), given, asyncio.get_running_loop().time())


# --- what a person names ---


class AccountType(click.ParamType[str]):
    name = "DID|HANDLE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).removeprefix("@")
        if not is_at_identifier(text):
            self.fail(f"{value!r} is neither a DID nor a handle", param, ctx)
        return text


class RecordType(click.ParamType[str]):
    name = "URI"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not is_at_uri(text) or parse_at_uri(text).rkey is None:
            self.fail(f"{value!r} is not at://<DID or handle>/<collection>/<rkey>", param, ctx)
        return text


async def did_of(services: Services, account: str) -> str:
    """Return the DID of an account; IdentityError if its handle leads nowhere."""
    return account if is_did(account) else await services.resolver.resolve_handle(account)


async def uri_of(services: Services, uri: str) -> str:
    """Return a record's URI with a DID as its authority, as the index has it."""
    parts = parse_at_uri(uri)
    return str(replace(parts, authority=await did_of(services, parts.authority)))


# --- what a person sees ---


def moment(ms: int) -> str:
    return format_datetime(ms)[:19] + "Z"


def tell_more(limit: int) -> None:
    click.echo(f"These are the first {limit}: --limit shows more.", err=True)


def render(found: Mapping[str, Any]) -> str:
    """Return what is known of one thing for people: a line a field, and one for each of a list."""
    lines = []
    for name, value in found.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"{name:<14}{_text(name, each)}" for each in values if each is not None]
    return "\n".join(lines)


def _text(name: str, value: Any) -> str:
    match value:
        case dict():
            return "  ".join(_text(key, part) for key, part in value.items() if part)
        case bool():
            return "yes" if value else "no"
        case int() if name.lower().endswith("at"):
            return moment(value)
    return plain(str(value))


async def history(services: Services, uris: Iterable[str]) -> dict[str, Any]:
    """Return what happened to records: their ends, deletions, and who did what. Unix ms."""
    db, uris = services.db, sorted(uris)
    stones = await tombstones.load(db, uris)
    deletions = await outbox.load(db, uris)
    entries = [row for uri in uris for row in await audit.of_subject(db, uri)]
    return {
        "tombstones": [
            {
                "createdAt": stone.created_at,
                "cause": stone.cause,
                "uri": stone.uri,
                "cid": stone.cid,
                "actor": stone.actor,
                "reason": stone.reason,
            }
            for stone in stones
        ],
        "deletions": [
            {"state": row.state, "uri": uri, "error": row.error} for uri, row in deletions.items()
        ],
        "audit": [
            {
                "at": row["at"],
                "actor": row["actor"],
                "action": row["action"],
                "subject": row["subject"],
                "detail": row["detail"],
            }
            for row in entries
        ],
    }


async def hosting_of(services: Services, did: str) -> str:
    return (await repos.load(services.db, [did]))[did].hosting


async def describe_deletion(services: Services, deletion: Deletion) -> str:
    """Say how far the deletion of a revoked record is, and who takes it on."""
    match deletion.state:
        case "confirmed":
            return "it is gone from its repo"
        case "sent":
            return "its PDS has deleted it, and the firehose is to show that"
        case "dropped":
            return f"its deletion was given up: {plain(deletion.error or 'no reason')}"
        case "blocked":
            return f"its deletion is blocked: {plain(deletion.error or 'no reason')}"
    if not await services.sessions.exists(deletion.did):
        return f"its deletion waits for a log-in: `rescind login {deletion.did}`"
    if is_running(services.settings.db):
        return "its deletion is pending: the running daemon publishes it"
    return "its deletion is pending: no daemon runs, the next `rescind run` publishes it"


async def tell_revoked(services: Services, deletion: Deletion, *, as_json: bool) -> str:
    """Return the line that says that a record is revoked, and how far its deletion is."""
    if not as_json:
        return f"Revoked {deletion.uri}; {await describe_deletion(services, deletion)}."
    return json.dumps(
        {
            "uri": deletion.uri,
            "revoked": True,
            "deletion": deletion.state,
            "error": deletion.error,
        }
    )
