"""The demo's stage: a network and a daemon on loopback, people there, and eyes on all of it."""

import asyncio
import hashlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from tests.e2e.daemon import Daemon, free_port
from tests.localnet import Account, LocalNetwork, StrongRef, firehose

SPACE = "rsvp.atmo.space"
INVITE = "rsvp.atmo.space.invite"
VERIFICATION = "app.bsky.graph.verification"

XRPC_PORT = 8080  # the daemon's own default; another one if it is taken
SEE_WITHIN = 15.0  # seconds for each step; a revocation is answered within 8
LOOK_EVERY = 0.003  # seconds

T = TypeVar("T")


class NotSeenError(Exception):
    """A step was not seen: which, and what there was in its place."""

    def __init__(self, step: str, instead: str) -> None:
        super().__init__(f"{step}: {instead}")


@dataclass(frozen=True, slots=True)
class Sight(Generic[T]):
    """What was seen, and when: `at` is in seconds of time.monotonic()."""

    what: T
    at: float

    def after(self, start: float) -> str:
        return f"+{(self.at - start) * 1000:.0f} ms"


@dataclass(frozen=True, slots=True)
class DeletionCommit:
    """A #commit frame with a delete op."""

    seq: int
    rev: str
    path: str
    ops: int  # in the whole commit


@dataclass(slots=True)
class Witness:
    """A subscriber of the firehose that Rescind has nothing to do with."""

    deletions: dict[str, Sight[DeletionCommit]] = field(default_factory=dict)  # by AT-URI

    async def watch(self, ws_url: str) -> None:
        async for frame in firehose(ws_url):
            now = time.monotonic()
            body = frame.body
            for op in body.get("ops", []):
                if op["action"] == "delete":
                    commit = DeletionCommit(body["seq"], body["rev"], op["path"], len(body["ops"]))
                    self.deletions[f"at://{body['repo']}/{op['path']}"] = Sight(commit, now)


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was written to its repo and then seen in the index."""

    owner: Account
    ref: StrongRef
    value: dict[str, Any]
    table: str  # of the index
    indexed: str  # the time from the one to the other

    @property
    def path(self) -> str:
        return "/".join(self.ref.uri.split("/")[-2:])


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers, the people, and the witness."""

    directory: Path
    network: LocalNetwork
    daemon: Daemon
    witness: Witness
    alice: Account  # owns the space and its invites
    vera: Account  # issues verifications
    otto: Account  # an operator: may revoke what vera issued
    friends: tuple[Account, ...]  # are verified

    @property
    def people(self) -> tuple[Account, ...]:
        return (self.alice, self.vera, self.otto, *self.friends)

    def name(self, did: str) -> str:
        """Return the handle of a DID, or the DID of a stranger."""
        return next((person.handle for person in self.people if person.did == did), did)

    async def log_in(self, account: Account) -> str:
        """Give Rescind a session for the account's repo, by `rescind login` and an app password."""
        password = await account.create_app_password("rescind")
        return (await self.daemon.ok("login", account.handle, stdin=f"{password}\n")).strip()

    async def create_space(self) -> Record:
        value = {"name": "Community garden", "createdAt": _now()}
        return await self._create(self.alice, SPACE, value, "spaces", rkey="garden")

    async def create_invite(self, space: Record, kind: str) -> Record:
        # The token is what a guest would be given; only its hash is ever public.
        token = secrets.token_urlsafe(16)
        value = {
            "space": space.ref.uri,
            "tokenHash": hashlib.sha256(token.encode()).hexdigest(),
            "kind": kind,
            "createdAt": _now(),
        }
        return await self._create(self.alice, INVITE, value, "invites")

    async def create_verification(self, friend: Account) -> Record:
        value = {
            "subject": friend.did,
            "handle": friend.handle,
            "displayName": friend.handle.partition(".")[0].title(),
            "createdAt": _now(),
        }
        return await self._create(self.vera, VERIFICATION, value, "verifications")

    async def see(self, step: str, find: Callable[[], Sight[T] | None]) -> Sight[T]:
        """Look until there is something. Raises NotSeenError."""
        deadline = time.monotonic() + SEE_WITHIN
        while (found := find()) is None:
            if self.daemon.has_ended:
                raise NotSeenError(step, "the daemon has ended")
            if time.monotonic() > deadline:
                raise NotSeenError(step, f"nothing came within {SEE_WITHIN:.0f} s")
            await asyncio.sleep(LOOK_EVERY)
        return found

    async def see_row(self, step: str, sql: str, *parameters: object) -> Sight[dict[str, Any]]:
        """Look at the index, over a read-only connection, until the query has a row."""

        def find() -> Sight[dict[str, Any]] | None:
            rows = self.daemon.rows(sql, *parameters)
            return Sight(rows[0], time.monotonic()) if rows else None

        return await self.see(step, find)

    async def _create(
        self,
        owner: Account,
        collection: str,
        value: dict[str, Any],
        table: str,
        rkey: str | None = None,
    ) -> Record:
        ref = await owner.create_record(collection, value, rkey)
        written = time.monotonic()
        sql = f"select uri from {table} where uri = ?"
        row = await self.see_row("row in the index", sql, ref.uri)
        return Record(owner, ref, value, table, row.after(written))


@asynccontextmanager
async def set_up(directory: Path) -> AsyncIterator[Stage]:
    """Start the servers and make the accounts; at the end nothing is left running.

    Raises ServerStartError, PdsError, or AssertionError when the daemon does not come up.
    """
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(await LocalNetwork.start(directory / "network"))
        names = ("alice", "vera", "otto", "ben", "cleo", "dana")
        people = [await network.pds.create_account(f"{name}.test") for name in names]
        alice, vera, otto, *friends = people
        settings = {"OPERATORS": otto.did, "VERIFIER": vera.did}
        daemon = Daemon.on(network, directory, **settings)
        daemon.port = _xrpc_port()
        stack.push_async_callback(daemon.stop)
        # From the oldest: what is written before it has subscribed must not be missed.
        await daemon.start("--cursor", "oldest")
        witness = Witness()
        watching = asyncio.create_task(witness.watch(network.pds.ws_url))
        stack.push_async_callback(_cancelled, watching)
        yield Stage(directory, network, daemon, witness, alice, vera, otto, tuple(friends))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _xrpc_port() -> int:
    """Return the usual port if nothing answers there, whatever `localhost` resolves to."""
    try:
        socket.create_connection(("localhost", XRPC_PORT), timeout=1).close()
    except ConnectionRefusedError:
        return XRPC_PORT
    except OSError:
        pass
    return free_port()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
