"""What the commands share: settings as flags, failures told plainly."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import click
from httpx import AsyncClient

from indexer import log, python_gc
from indexer.config.settings import PREFIX, ConfigError, Settings
from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.journal.reader import JournalError
from indexer.lock import LockError, ReplacedError
from indexer.net.egress import EgressError
from indexer.net.guard import guarded_client
from indexer.prover import Prover
from indexer.records import Scope
from indexer.replay import ReplayError
from indexer.store.db import DatabaseError
from indexer.stream.recording import RecordingError
from xrpc.publishing.pds import PdsError
from xrpc.publishing.sessions import NoSessionError

_log = log.get("settings")

LOG = ("log_level", "log_format")
NETWORK = ("plc", "handle_resolver", "allow_private_hosts")
COLLECTIONS = ("space_collections", "invite_collection", "verification_collection")
ALL = tuple(name for name in Settings.model_fields if name != "secret_key")


def setting_options(*names: str) -> Callable[[Any], Any]:
    """Give a command the flags of these settings, in the same words as the variables."""

    def decorate(command: Any) -> Any:
        for name in reversed(names):
            field = Settings.model_fields[name]
            flag = "--" + name.replace("_", "-")
            default = field.get_default()
            shown = ", ".join(sorted(default)) if isinstance(default, frozenset) else default
            words = f"{field.description}  [{PREFIX}{name.upper()}]"
            if shown not in (None, "", False):
                words += f"  [default: {shown}]"
            if field.annotation is bool:
                command = click.option(f"{flag}/--no{flag[1:]}", default=None, help=words)(command)
            else:
                command = click.option(flag, default=None, metavar="VALUE", help=words)(command)
        return command

    return decorate


def load_settings(flags: dict[str, Any]) -> Settings:
    settings = Settings.load(flags)
    log.configure(settings.log_level, settings.log_format)
    known = {
        PREFIX + name.upper() for name in (*Settings.model_fields, "app_password", "new_secret_key")
    }
    for name in sorted(set(os.environ) - known):
        if name.startswith(PREFIX):
            # No error: orchestrators put variables of their own under a service's name.
            _log.warning("setting.unknown", name=name)
    return settings


def make_scope(settings: Settings) -> Scope:
    return Scope(
        settings.space_collections, settings.invite_collection, settings.verification_collection
    )


@asynccontextmanager
async def network(settings: Settings) -> AsyncIterator[tuple[AsyncClient, IdentityResolver]]:
    """Open what reaches other hosts: a guarded HTTP client, and identities."""
    allow_private = settings.allow_private_hosts
    own_urls = [url for url in (settings.plc, settings.relay, settings.handle_resolver) if url]
    # Two clients: the hosts that a token names, be it anybody's, are not to take threads and
    # connections from the PDSes of those who are known.
    async with (
        guarded_client(allow_private=allow_private, own_urls=own_urls) as client,
        guarded_client(allow_private=allow_private, own_urls=own_urls) as asking,
    ):
        resolver = IdentityResolver(
            settings.plc,
            asking,
            allow_private=allow_private,
            handle_resolver=settings.handle_resolver,
        )
        async with aclosing(resolver):
            yield client, resolver


def make_prover(settings: Settings, resolver: IdentityResolver, scope: Scope) -> Prover:
    return Prover(
        resolver, scope.collections.__contains__, refuse_old_form=settings.refuse_old_form
    )


def run_async(main: Coroutine[Any, Any, None]) -> None:
    """Run a command's coroutine to its end, or to Ctrl-C."""
    python_gc.settle()
    try:
        asyncio.run(main)
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Tell what went wrong as one line, without a traceback, where a person can mend it."""
    try:
        yield
    except (
        ConfigError,
        DatabaseError,
        EgressError,
        JournalError,
        LockError,
        ReplacedError,
        RecordingError,
        ReplayError,
        NoSessionError,
        PdsError,
    ) as error:
        raise click.ClickException(str(error)) from None
    except IdentityError as error:
        raise click.ClickException(f"the account can't be resolved: {error}") from None


class Commands(click.Group):
    """The top of the command: every failure that is expected ends here."""

    def invoke(self, ctx: click.Context) -> Any:
        with told_plainly():
            return super().invoke(ctx)


class CursorType(click.ParamType[int | str]):
    """A seq, or a word for one end of the stream."""

    def __init__(self, *words: str) -> None:
        self.name = "|".join(("SEQ", *words))
        self._words = words

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        text = str(value)
        if text in self._words:
            return text
        if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
            self.fail(f"{text!r} is not {' or '.join(('a seq', *self._words))}", param, ctx)
        return int(text)


def unix_ms() -> int:
    """Return Unix milliseconds."""
    return int(time.time() * 1000)
