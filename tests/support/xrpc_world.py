"""The XRPC half on real parts: SQLite, sockets, tokens; only the PDSes and the clock are ours."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from indexer.cli.base import make_scope
from indexer.config.settings import Settings
from indexer.identity.resolver import IdentityResolver
from indexer.net.guard import guarded_client
from indexer.rules.projection import Projection
from indexer.store import backfills, outbox, tombstones
from indexer.store.cursors import Cursor
from indexer.store.db import Database
from indexer.store.outbox import Deletion
from indexer.store.tombstones import Tombstone
from indexer.stream.events import VerifiedCommit, Write
from indexer.stream.stats import Stats
from tests.support.account_keys import Key, document, jwt, service
from tests.support.fake_pds import Commit, FakePds, cid_of, fake_pds
from tests.support.frames import block
from tests.support.http_host import Host, hosting
from tests.support.plc_directory import Directory
from xrpc.auth.callers import ServiceAuth
from xrpc.publishing.pds import PdsClient, Tokens
from xrpc.publishing.publisher import Publisher
from xrpc.publishing.sessions import Sessions, Vault
from xrpc.services import Services
from xrpc.serving.app import create_app
from xrpc.serving.counts import Counts
from xrpc.serving.metrics import Metrics
from xrpc.serving.server import Server

RELAY = "stream.test"  # whose stream shows what is written
NOW = 1_800_000_000.0  # Unix seconds
SPACE, INVITE = "rsvp.atmo.space", "rsvp.atmo.space.invite"
VERIFICATION = "app.bsky.graph.verification"
REVOKE_INVITE = "rsvp.atmo.space.invite.revoke"
REVOKE_VERIFICATIONS = "tools.ozone.verification.revokeVerifications"
KEY = Key.k256()  # of every account: whose key it is, is not what is tested here
CREATED_AT = "2026-01-01T00:00:00.000Z"

_serial = itertools.count()


def did(name: str) -> str:
    """Return a did:plc that a reader can tell: letters a to z only."""
    return f"did:plc:{name:a<24}"


ALICE, BOB, CAROL, OPERATOR = did("alice"), did("bob"), did("carol"), did("operator")
STRANGER = did("stranger")


@dataclass
class Clock:
    now: float = NOW  # Unix seconds

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeStream:
    """An indexer that has applied all there is, until a test says otherwise."""

    is_connected: bool = True
    position: Cursor | None = None
    applied: Cursor | None = None
    stats: Stats = field(default_factory=lambda: Stats(beat_at=NOW))


@dataclass
class World:
    """A service on a database, a directory, and the PDSes that the test makes."""

    settings: Settings
    db: Database
    plc: Directory
    plc_host: Host
    client: httpx.AsyncClient
    stack: AsyncExitStack
    clock: Clock = field(default_factory=Clock)
    stream: FakeStream = field(default_factory=FakeStream)
    counts: Counts = field(default_factory=Counts)
    resolver: IdentityResolver = field(init=False)
    sessions: Sessions = field(init=False)
    publisher: Publisher = field(init=False)
    services: Services = field(init=False)
    url: str = ""
    pds: FakePds = field(init=False)

    def __post_init__(self) -> None:
        scope = make_scope(self.settings)
        self.resolver = IdentityResolver(
            self.settings.plc, self.client, allow_private=True, clock=self.clock,
            handle_resolver=self.plc_host.url,
        )  # fmt: skip
        pds = PdsClient(self.client)
        self.sessions = Sessions(self.db, Vault(b"k" * 32), pds, self.clock)
        self.publisher = self.new_publisher()
        self.services = Services(
            self.settings, self.db, scope, self.resolver, pds, self.sessions, self.publisher,
            self.clock,
        )  # fmt: skip
        self.projection = Projection(scope, RELAY)

    def new_publisher(self) -> Publisher:
        return Publisher(self.db, self.sessions, self.resolver, PdsClient(self.client), self.clock)

    @property
    def now(self) -> int:
        return int(self.clock() * 1000)

    # --- accounts ---

    async def add_pds(self) -> FakePds:
        return await self.stack.enter_async_context(fake_pds())

    async def account(self, did: str, pds: FakePds | None = None, *, session: bool = True) -> str:
        """Make an account; with `session` we may write to its repo."""
        pds = pds or self.pds
        pds.add(did)
        self.name(did, pds.url)
        if session:
            await self.log_in(did, pds)
        return did

    def name(self, did: str, pds: str, *handles: str) -> None:
        """Let the DID document name this PDS."""
        self.plc.documents[did] = document(
            did, KEY, service=[service(pds)], alsoKnownAs=[f"at://{handle}" for handle in handles]
        )
        for handle in handles:
            path = f"xrpc/com.atproto.identity.resolveHandle?handle={handle}"
            self.plc.documents[path] = {"did": did}
        self.resolver.forget(did)

    async def log_in(self, did: str, pds: FakePds) -> Tokens:
        self.resolver.forget(did)
        return await self.sessions.log_in(self.resolver, did, pds.passwords[did])

    # --- records ---

    async def write(
        self, did: str, collection: str, rkey: str, record: dict[str, Any], *, indexed: bool = True,
        pds: FakePds | None = None,
    ) -> str:  # fmt: skip
        """Write a record into its repo; with `indexed` the firehose has shown it."""
        pds = pds or self.pds
        since = pds.revs[did]
        record = {"$type": collection, "createdAt": CREATED_AT, **record}
        cid, rev = pds.write(did, f"{collection}/{rkey}", record)
        if indexed:
            await self.show(
                did, rev, since, Write("create", collection, rkey, cid, None, block(record))
            )  # fmt: skip
        return f"at://{did}/{collection}/{rkey}"

    async def show(self, did: str, rev: str, since: str | None, *writes: Write) -> None:
        """Let the firehose show a commit."""
        commit = VerifiedCommit(next(_serial), None, did, rev, since, None, cid_of(rev), writes)
        async with self.db.transaction() as tx:
            await self.projection.apply(tx, [commit], self.now)

    async def show_commits(self, commits: Iterable[Commit]) -> None:
        """Let the firehose show what others than the test wrote."""
        for commit in commits:
            writes = [
                Write("delete", *path.split("/"), None, None, None) for path in commit.deleted
            ]
            for path, cid, record in commit.created:
                writes.append(Write("create", *path.split("/"), cid, None, block(record)))
            await self.show(commit.did, commit.rev, commit.since, *writes)

    async def show_deletions(self, pds: FakePds | None = None) -> None:
        """Let the firehose show what was deleted from the repos of a PDS."""
        await self.show_commits(c for c in (pds or self.pds).commits if c.deleted)

    @asynccontextmanager
    async def streaming(self, pds: FakePds | None = None) -> AsyncIterator[None]:
        """Let the firehose show meanwhile whatever is written through a PDS."""
        commits = (pds or self.pds).commits

        async def show() -> None:
            shown = 0
            while True:
                await self.show_commits(commits[shown : (shown := len(commits))])
                await asyncio.sleep(0.01)

        task = asyncio.create_task(show())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def erase(self, uri: str) -> None:
        """Let its owner delete a record, and the firehose show it."""
        owner, collection, rkey = uri.removeprefix("at://").split("/")
        since = self.pds.revs[owner]
        del self.pds.repos[owner][f"{collection}/{rkey}"]
        rev = self.pds._commit(owner, ())
        await self.show(owner, rev, since, Write("delete", collection, rkey, None, None, None))

    async def space(self, owner: str, rkey: str = "party") -> str:
        return await self.write(owner, SPACE, rkey, {"name": "A party"})

    async def invite(
        self, space: str, token_hash: str, rkey: str = "one", *, indexed: bool = True,
        owner: str | None = None, **more: Any,
    ) -> str:  # fmt: skip
        record = {"space": space, "tokenHash": token_hash, **more}
        owner = owner or space.split("/")[2]
        return await self.write(owner, INVITE, rkey, record, indexed=indexed)

    async def verification(
        self, issuer: str, rkey: str = "one", *, indexed: bool = True, pds: FakePds | None = None,
        subject: str = CAROL, name: str = "Carol",
    ) -> str:  # fmt: skip
        record = {"subject": subject, "handle": "carol.test", "displayName": name}
        return await self.write(issuer, VERIFICATION, rkey, record, indexed=indexed, pds=pds)

    # --- what the index says ---

    async def row(self, uri: str) -> Deletion:
        return (await outbox.load(self.db, [uri]))[uri]

    async def states(self) -> dict[str, int]:
        return await outbox.count_by_state(self.db)

    async def stones(self, *uris: str) -> list[Tombstone]:
        return await tombstones.load(self.db, uris)

    async def audit(self) -> list[tuple[str, str, str, str | None]]:
        rows = await self.db.all("select actor, action, subject, detail from audit order by id")
        return [tuple(row) for row in rows if row["action"] != "login"]

    async def enqueue(self, *uris: str) -> None:
        """Ask for deletions as a revocation does."""
        async with self.db.transaction() as tx:
            await outbox.enqueue(tx, [(uri, "") for uri in uris], self.now)

    # --- calls ---

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[asyncio.Task[None]]:
        """Let the publisher run meanwhile."""
        task = asyncio.create_task(self.publisher.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve the app on loopback, as the daemon does, with the publisher beside it."""
        auth = await ServiceAuth.open(self.settings, self.resolver, self.db, clock=self.clock)
        metrics = Metrics(self.db, self.stream, auth.failures, self.counts, self.clock)
        app = create_app(self.services, auth, self.stream, self.counts, metrics)
        server = Server(app, self.settings, self.counts)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with self.publishing():
                task = asyncio.create_task(server.serve(sockets=[listener]))
                try:
                    yield
                finally:  # not in order, which takes uvicorn a fifth of a second
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    for socket_server in server.servers:
                        socket_server.close()
                    for connection in list(server.server_state.connections):
                        connection.transport.abort()
                    await asyncio.sleep(0)

    def token(self, caller: str, nsid: str, **changes: Any) -> str:
        claims = {
            "iss": caller, "aud": self.settings.service_did, "lxm": nsid,
            "iat": int(self.clock()), "exp": int(self.clock()) + 60, "jti": f"{next(_serial):032x}",
        }  # fmt: skip
        return jwt(KEY, {"typ": "JWT", "alg": "ES256K"}, claims | changes)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=20, verify=False) as client:
            return await client.request(method, self.url + path, **options)

    async def call(self, caller: str, nsid: str, body: Any) -> httpx.Response:
        """Call a procedure over HTTP, as `caller`."""
        headers = {"authorization": f"Bearer {self.token(caller, nsid)}"}
        return await self.request("POST", f"/xrpc/{nsid}", json=body, headers=headers)

    async def ask(self, caller: str | None, nsid: str, **params: Any) -> httpx.Response:
        """Call a query over HTTP, as `caller`, or as nobody."""
        headers = {"authorization": f"Bearer {self.token(caller, nsid)}"} if caller else {}
        return await self.request("GET", f"/xrpc/{nsid}", params=params, headers=headers)

    async def revoke(
        self, caller: str, *uris: str, reason: str | None = None
    ) -> tuple[list[str], dict[str, str]]:
        """Revoke verifications; return the revoked ones, and the others with their errors."""
        body: dict[str, Any] = {"uris": list(uris)}
        if reason is not None:
            body["revokeReason"] = reason
        answer = await self.call(caller, REVOKE_VERIFICATIONS, body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        failed = {item["uri"]: item["error"] for item in found["failedRevocations"]}
        assert len(failed) == len(found["failedRevocations"])
        return found["revokedVerifications"], failed


@asynccontextmanager
async def make_world(folder: Path, **settings: Any) -> AsyncIterator[World]:
    plc = Directory()
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(hosting(plc.reply))
        client = await stack.enter_async_context(guarded_client(allow_private=True))
        db = await stack.enter_async_context(await Database.open(folder / "rescind.db"))
        made = Settings.load(
            {
                "db": folder / "rescind.db", "plc": host.url, "allow_private_hosts": True,
                "public_url": "https://rescind.test", "operators": OPERATOR, **settings,
            }
        )  # fmt: skip
        world = World(made, db, plc, host, client, stack)
        world.pds = await world.add_pds()
        for caller in (OPERATOR, STRANGER):
            world.name(caller, "https://pds.test")
        async with db.transaction() as tx:  # the network was searched before
            await backfills.begin(tx, RELAY, [SPACE, INVITE, VERIFICATION])
            await backfills.settle(tx, RELAY)
        yield world
        await world.resolver.aclose()


async def eventually(holds: Callable[[], Awaitable[bool]], within: float = 5.0) -> None:
    """Wait until something holds; TimeoutError if it never does."""
    async with asyncio.timeout(within):
        while not await holds():
            await asyncio.sleep(0.01)
