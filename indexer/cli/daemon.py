"""`rescind run`: the daemon, its parts in one list."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import click

from indexer import catch_up, log
from indexer.cli.base import (
    ALL,
    CursorType,
    load_settings,
    make_prover,
    make_scope,
    network,
    run_async,
    setting_options,
    unix_ms,
)
from indexer.cli.machine import Quietly, watch_disk, within_limit
from indexer.config.settings import PREFIX, ConfigError, Settings
from indexer.consumer import Consumer, cursor_checkpoint
from indexer.journal.lines import Entry
from indexer.journal.writer import Journal
from indexer.lock import Held, daemon_lock
from indexer.records import Scope
from indexer.repos import backfill
from indexer.repos.backfill import Backfiller
from indexer.repos.resync import Resyncer
from indexer.store import backfills, cursors, daemon, repos
from indexer.store.cursors import Cursor
from indexer.store.db import Database, Transaction
from indexer.store.files import close_to_others
from indexer.store.tombstones import Tombstone
from indexer.stream.firehose import Firehose
from indexer.stream.stats import Stats
from xrpc.auth.callers import ServiceAuth
from xrpc.publishing.pds import PdsClient
from xrpc.publishing.publisher import Publisher
from xrpc.publishing.sessions import Sessions, Vault
from xrpc.services import Services
from xrpc.serving.app import create_app
from xrpc.serving.counts import Counts
from xrpc.serving.metrics import Metrics, create_metrics_app
from xrpc.serving.server import BACKLOG, Server

_log = log.get("daemon")


@click.command()
@click.option(
    "--cursor",
    type=CursorType("oldest", "live"),
    metavar="SEQ|oldest|live",
    help="read on behind this seq, in place of the stored cursor",
)
@setting_options(*ALL)
def run(cursor: int | str | None, **flags: Any) -> None:
    """Run the daemon: indexer and XRPC server."""
    settings = within_limit(load_settings(flags))
    with (
        daemon_lock(settings.db) as held,
        _listen("bind", settings.bind) as listener,
        _listen_for_metrics(settings) as metrics_listener,
    ):
        close_to_others(settings.db)
        run_async(_daemon(settings, held, cursor, listener, metrics_listener))


async def _daemon(
    settings: Settings,
    held: Held,
    cursor: int | str | None,
    listener: socket.socket,
    metrics_listener: socket.socket | None,
) -> None:
    """Run until a signal, or until one of the parts fails: then all of it ends."""
    asyncio.get_running_loop().set_exception_handler(Quietly())
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    scope = make_scope(settings)
    async with (
        await Database.open(settings.db) as db,
        Journal.open(settings.journal_file, settings.journal_days) as journal,
        network(settings) as (client, resolver),
    ):
        held.check()  # what was opened is what is locked
        vault = await Vault.fitting(settings, db)
        start, known = await _start(db, settings, scope, cursor)
        pds = PdsClient(client)
        sessions = Sessions(db, vault, pds)
        publisher = Publisher(db, sessions, resolver, pds)
        auth = await ServiceAuth.open(settings, resolver, db)
        services = Services(
            settings, db, scope, resolver, pds, sessions, publisher, journal=journal
        )
        stats = Stats()

        async def keep(stones: Sequence[Tombstone]) -> None:
            await journal.keep(map(Entry.of, stones))

        consumer = Consumer(
            db,
            scope,
            make_prover(settings, resolver, scope),
            source=Firehose(settings.relay, allow_private=settings.allow_private_hosts),
            relay=settings.relay_host,
            start=start,
            known=known,
            checkpoint=daemon_checkpoint(settings.relay_host, stats),
            stats=stats,
            forget_identity=resolver.forget,
            keep=keep,
        )
        resyncer = Resyncer(
            db,
            scope,
            resolver,
            client,
            relay_url=settings.relay,
            relay=settings.relay_host,
            keep=keep,
        )
        backfiller = Backfiller(
            db,
            client,
            relay_url=settings.relay,
            relay=settings.relay_host,
            joined=consumer.joined,
        )
        written = [settings.db, *([settings.journal_file] if settings.journal_file else [])]
        counts = Counts()
        metrics = Metrics(db, consumer, auth.failures, counts, written=written)
        is_beside = settings.metrics_bind is None
        app = create_app(services, auth, consumer, counts, metrics if is_beside else None)
        servers = [(Server(app, settings, counts), listener)]
        if metrics_listener is not None:
            metrics_app = create_metrics_app(metrics)
            servers.append((Server(metrics_app, settings, counts), metrics_listener))
        _announce(settings, start, cursor)
        try:
            async with asyncio.TaskGroup() as tasks:
                working = [
                    tasks.create_task(db.keep_folding(), name="database"),
                    tasks.create_task(db.keep_watch(), name="files"),
                    tasks.create_task(journal.run(), name="journal"),
                    tasks.create_task(watch_disk(written), name="disk"),
                    tasks.create_task(consumer.run(), name="consumer"),
                    tasks.create_task(catch_up.watch(consumer), name="catch_up"),
                    tasks.create_task(publisher.run(), name="publisher"),
                    tasks.create_task(resyncer.run(), name="resyncer"),
                    tasks.create_task(backfiller.run(), name="backfiller"),
                ]
                serving = [
                    tasks.create_task(server.serve(sockets=[taken]), name="xrpc")
                    for server, taken in servers
                ]
                await stop.wait()
                _log.info("daemon.stopping")
                for server, _ in servers:
                    server.should_exit = True
                await asyncio.gather(*serving)
                for task in working:
                    task.cancel()
        except ExceptionGroup as group:
            _log.critical("daemon.died", error=_innermost(group), exc_info=group)
            raise click.ClickException(f"the daemon died: {_innermost(group)}") from None
        _log.info("daemon.stopped", cursor=consumer.position and consumer.position.seq)


async def _start(
    db: Database, settings: Settings, scope: Scope, cursor: int | str | None
) -> tuple[int | None, Cursor | None]:
    """Return the seq to read on behind, and the frame there, if it was read.

    Also note that a daemon starts, and what it has missed.
    """
    relay = settings.relay_host
    stored = await cursors.load(db, relay)
    start: int | None
    match cursor:
        case None:
            start = stored.seq if stored else None
        case "oldest":
            start = 0
        case int():
            start = cursor
        case _:
            start = None
    last = await daemon.load(db)
    is_new_relay = not await backfills.load(db, relay)
    async with db.transaction() as tx:
        await daemon.start(
            tx, pid=os.getpid(), version=version("rescind"), relay=relay, now=unix_ms()
        )
        await backfill.begin(tx, relay, scope.collections)
        if stored is None or start is None or start > stored.seq:
            # The stream goes on behind what was read of it, or nothing was.
            count = await repos.desynchronize_all(tx)
            await backfills.reset(tx, relay)
            await backfills.unsettle(tx, relay)
        else:
            count = 0
    if not count:
        pass  # nothing was known that could have changed
    elif stored is not None:
        _log.warning("stream.skipped", cursor=stored.seq, start=cursor, repos_to_check=count)
    elif is_new_relay:
        before = last["relay"] if last else None
        _log.warning("relay.changed", relay=relay, before=before, repos_to_check=count)
    else:
        _log.warning("cursor.missing", relay=relay, repos_to_check=count)
    return start, stored if stored and stored.seq == start else None


def daemon_checkpoint(relay: str, stats: Stats) -> Callable[..., Any]:
    """Return the daemon's checkpoint: the cursor, what was counted so far, and the pace."""
    save_cursor = cursor_checkpoint(relay)

    async def save(tx: Transaction, position: Cursor | None) -> None:
        await save_cursor(tx, position)
        await daemon.save_counters(tx, "skipped", stats.skipped)
        await daemon.save_counters(tx, "rejected", stats.rejected)
        await daemon.save_counters(tx, "noted", stats.noted)
        pace = stats.pace
        await daemon.save_pace(tx, rate=pace.rate, is_behind=pace.is_behind, left=pace.left)

    return save


def _listen(name: str, address: str) -> socket.socket:
    """Listen at the address that a setting names; a ConfigError tells why that can't be."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Where the system tells both families apart, all of IPv6 alone is not what is meant.
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(
            (host, int(port)), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except OSError as error:
        # Python adds to the system's words, but for a name that is not resolved (errno below 0).
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror
        flag = name.replace("_", "-")
        raise ConfigError(f"{PREFIX}{name.upper()} (--{flag}): {address}: {reason}") from None


def _listen_for_metrics(settings: Settings) -> AbstractContextManager[socket.socket | None]:
    if settings.metrics_bind in (None, "off"):
        return nullcontext()
    return _listen("metrics_bind", settings.metrics_bind)


def _announce(settings: Settings, start: int | None, cursor: int | str | None) -> None:
    behind = "from now on" if start is None else f"behind seq {start}"
    lines = {
        "database": settings.db.resolve(),
        "journal": settings.journal_file or "off",
        "relay": f"{settings.relay}, {'from oldest' if cursor == 'oldest' else behind}",
        "plc": settings.plc,
        "xrpc": f"http://{settings.bind}",
        "metrics": f"http://{settings.metrics_bind or settings.bind}/metrics"
        if settings.metrics_bind != "off"
        else "off",
        "service": f"{settings.service_did}#{settings.service_id}",
        "operators": ", ".join(sorted(settings.operators)) or "none",
        "verifier": settings.verifier or "none",
        "session key": PREFIX + "SECRET_KEY" if settings.secret_key else settings.key_file,
    }
    click.echo(f"rescind {version('rescind')}")
    for name, value in lines.items():
        click.echo(f"  {name:<12}{value}")
    _log.info("daemon.started", relay=settings.relay, cursor=start, bind=settings.bind)


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
