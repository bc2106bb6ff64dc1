"""Hosts that serve repos over real HTTP, well or badly, and a resyncer that asks them."""

import asyncio
import json
import ssl
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import libipld

from indexer.identity.resolver import IdentityResolver
from indexer.net.guard import guarded_client
from indexer.repos.peers import Peers
from indexer.repos.resync import Resyncer
from tests.support.account_keys import Key, document, service
from tests.support.dialects import GET_BLOCKS, GET_RECORD, WHOLE_ONLY, Dialect
from tests.support.frames import NOW, SCOPE
from tests.support.http_host import Host, hosting, http
from tests.support.index_file import RELAY, Index
from tests.support.plc_directory import Directory
from tests.support.repo_parts import Parts, parts_of
from tests.support.streamed_repo import Owner

GET_REPO = "com.atproto.sync.getRepo"
LATEST = "com.atproto.sync.getLatestCommit"
STATUS = "com.atproto.sync.getRepoStatus"

Fault = Callable[["RepoHost", str, asyncio.StreamWriter], Awaitable[None]]


class RepoHost:
    """A PDS or relay. `faults` go wrong once each, `always` each time; by method.

    Without a dialect it serves whole repos and nothing of them: what else is asked is not counted.
    """

    def __init__(self, dialect: Dialect = WHOLE_ONLY) -> None:
        self.host: Host
        self.dialect = dialect
        self.meanwhile: deque[Callable[[], object]] = deque()  # done before an answer each
        self.headers: tuple[str, ...] = ()  # of what is small
        self.small_at_once = self.most_small_at_once = 0
        self._parts: dict[tuple[str, str | None], Parts] = {}
        self.owners: dict[str, Owner] = {}
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.always: dict[str, Fault] = {}
        self.calls: Counter[str] = Counter()  # by method
        self.busy = 0
        self.busiest = 0  # the most downloads at once

    @property
    def url(self) -> str:
        return self.host.url

    async def reply(self, path: str, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        nsid, did = parts.path.removeprefix("/xrpc/"), query["did"][0]
        is_part = nsid in (GET_RECORD, GET_BLOCKS)
        if not is_part or self.dialect is not WHOLE_ONLY:
            self.calls[nsid] += 1
        fault = self.faults[nsid].popleft() if self.faults[nsid] else self.always.get(nsid)
        self.busy += nsid == GET_REPO
        self.busiest = max(self.busiest, self.busy)
        self.small_at_once += nsid != GET_REPO
        self.most_small_at_once = max(self.most_small_at_once, self.small_at_once)
        try:
            if is_part and self.meanwhile:
                self.meanwhile.popleft()()
            if fault is not None:
                await fault(self, did, writer)
            elif did not in self.owners:
                writer.write(refusal(400, "RepoNotFound"))
            elif is_part:
                await asyncio.sleep(0.002)  # so that those side by side are seen to be
                answer = self.dialect.record if nsid == GET_RECORD else self.dialect.part
                writer.write(self._with_headers(answer(self.parts(did), query)))
            elif nsid == LATEST:
                named = {"rev": self.owners[did].rev, "cid": self._head(did)}
                writer.write(self._with_headers(http(json.dumps(named).encode())))
            elif nsid == STATUS:
                writer.write(http(json.dumps({"did": did, "active": True}).encode()))
            else:
                writer.write(http(self.owners[did].car()))
            await writer.drain()
        finally:
            self.busy -= nsid == GET_REPO
            self.small_at_once -= nsid != GET_REPO

    def parts(self, did: str) -> Parts:
        """Return what is there of a repo now: of what was, nothing is kept."""
        owner = self.owners[did]
        key = (did, owner.rev)
        if key not in self._parts:
            self._parts[key] = parts_of(owner, [owner.blocks[c] for c in owner.records.values()])
        return self._parts[key]

    def _head(self, did: str) -> str:
        return "x" if self.dialect is WHOLE_ONLY else libipld.encode_cid(self.parts(did).head)

    def _with_headers(self, answer: bytes) -> bytes:
        head, gap, body = answer.partition(b"\r\n\r\n")
        return "\r\n".join((head.decode(), *self.headers)).encode() + gap + body


def refusal(status: int, name: str, *headers: str) -> bytes:
    return http(json.dumps({"error": name, "message": "no"}).encode(), f"{status} No", *headers)


# --- what may go wrong ---


def refused(status: int, name: str = "", *headers: str) -> Fault:
    return sent(refusal(status, name, *headers))


def sent(answer: bytes) -> Fault:
    async def fault(_host: RepoHost, _did: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return fault


def changed(change: Callable[[bytes], bytes]) -> Fault:
    """Serve the repo's CAR, but not as it is."""

    async def fault(host: RepoHost, did: str, writer: asyncio.StreamWriter) -> None:
        writer.write(http(change(host.owners[did].car())))

    return fault


async def cut_off(host: RepoHost, did: str, writer: asyncio.StreamWriter) -> None:
    answer = http(host.owners[did].car())
    writer.write(answer[: len(answer) - 40])
    await writer.drain()
    writer.close()


async def hanging(_host: RepoHost, _did: str, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def hanging_in_the_middle(host: RepoHost, did: str, writer: asyncio.StreamWriter) -> None:
    answer = http(host.owners[did].car())
    writer.write(answer[: len(answer) // 2])
    await writer.drain()
    await asyncio.sleep(60)


async def dripping(host: RepoHost, did: str, writer: asyncio.StreamWriter) -> None:
    for byte in http(host.owners[did].car()):
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0.01)


async def endless(_host: RepoHost, _did: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(2_000):
        writer.write(b"x" * 65_536)
        await writer.drain()


def once_open(gate: asyncio.Event) -> Fault:
    """Answer as always, but with what there is when asked, and not before the gate is open."""

    async def fault(host: RepoHost, did: str, writer: asyncio.StreamWriter) -> None:
        car = host.owners[did].car()
        await gate.wait()
        writer.write(http(car))

    return fault


# --- the network ---


class Clock:
    """Unix seconds, as far as they are moved."""

    now = NOW / 1000

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Net:
    """A directory, a relay, a PDS (and more), an index, and the resyncer between them."""

    index: Index
    plc: Directory
    plc_host: Host
    relay: RepoHost
    pds: RepoHost
    client: httpx.AsyncClient
    resolver: IdentityResolver
    clock: Clock
    _stack: AsyncExitStack
    resyncer: Resyncer = field(init=False)
    peers: Peers = field(init=False)
    hosts: list[RepoHost] = field(init=False)

    def __post_init__(self) -> None:
        self.hosts = [self.relay, self.pds]
        self.restart()

    def restart(self) -> None:
        """Make a new resyncer, as a daemon that starts anew.

        But it knows already which hosts serve no parts of repos: elsewhere it has to find out.
        """
        self.peers = Peers(self.clock)
        for host in self.hosts:
            if host.dialect is WHOLE_ONLY:
                self.peers.get(host.url).lacks(["nodes"])
        self.resyncer = Resyncer(
            self.index.db,
            SCOPE,
            self.resolver,
            self.client,
            relay_url=self.relay.url.replace("http", "ws", 1),
            relay=RELAY,
            clock=self.clock,
            peers=self.peers,
        )

    async def add_host(self, dialect: Dialect = WHOLE_ONLY) -> RepoHost:
        host = RepoHost(dialect)
        host.host = await self._stack.enter_async_context(hosting(host.reply))
        self.hosts.append(host)
        if dialect is WHOLE_ONLY:
            self.peers.get(host.url).lacks(["nodes"])
        return host

    def house(self, owner: Owner, host: RepoHost | None = None) -> Owner:
        """Let a host serve a repo, and the directory name it, with the owner's key of now."""
        host = host or self.pds
        host.owners[owner.did] = owner
        self.point(owner.did, owner.key, host.url)
        return owner

    def point(self, did: str, key: Key, url: str) -> None:
        self.plc.documents[did] = document(did, key, service=[service(url)])

    async def track(self, *dids: str) -> None:
        async with self.index.db.transaction() as tx:
            for did in dids:
                await tx.execute(
                    "insert into repos (did) values (:did) on conflict do nothing", {"did": did}
                )

    async def repo(self, did: str) -> dict[str, Any]:
        return await self.index.repo(did)

    async def sync_of(self, did: str) -> str:
        return str((await self.repo(did))["sync"])


@asynccontextmanager
async def opened_net(
    index: Index, *, timeout: float = 10.0, dialect: Dialect = WHOLE_ONLY
) -> AsyncIterator[Net]:
    """Open a network in which all is well; `timeout` is the client's, in seconds for each step.

    The dialect is that of the PDS.
    """
    async with AsyncExitStack() as stack:
        plc, relay, pds, clock = Directory(), RepoHost(), RepoHost(dialect), Clock()
        plc_host = await stack.enter_async_context(hosting(plc.reply))
        relay.host = await stack.enter_async_context(hosting(relay.reply))
        pds.host = await stack.enter_async_context(hosting(pds.reply))
        relay.always[GET_REPO] = relay.always[STATUS] = refused(501, "MethodNotImplemented")
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the usual ones take long to read
        client = await stack.enter_async_context(
            guarded_client(allow_private=True, timeout=timeout, trust=nobody)
        )
        resolver = IdentityResolver(plc_host.url, client, allow_private=True, clock=clock)
        await stack.enter_async_context(aclosing(resolver))
        yield Net(index, plc, plc_host, relay, pds, client, resolver, clock, stack)


def files_beside(index: Index) -> list[Path]:
    """Return what lies beside the database that is not of it."""
    path = index.db.path
    return [
        file
        for file in path.parent.iterdir()
        if file.name.removeprefix(path.name) not in ("", "-wal", "-shm")
    ]
