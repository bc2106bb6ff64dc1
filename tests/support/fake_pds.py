"""A PDS that does what is wanted of it, for the faults that a real one cannot be asked for.

Everything that works is shown end to end on the real PDS; this one follows what was measured of it.
"""

import asyncio
import base64
import hashlib
import json
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.http_host import Host, hosting

_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"
APPLY = "com.atproto.repo.applyWrites"
DELETE = "com.atproto.repo.deleteRecord"
GET = "com.atproto.repo.getRecord"
LATEST = "com.atproto.sync.getLatestCommit"
REFRESH = "com.atproto.server.refreshSession"
LOG_IN = "com.atproto.server.createSession"
LOG_OUT = "com.atproto.server.deleteSession"


def tid(number: int) -> str:
    """Return the TID that stands for a number; TIDs sort as their numbers do."""
    digits = ""
    for _ in range(11):
        number, digit = divmod(number, 32)
        digits = _DIGITS[digit] + digits
    return "3l" + digits


def cid_of(record: object) -> str:
    """Return a CID that depends on nothing but the record."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
    return "bafyrei" + base64.b32encode(digest).decode().lower().rstrip("=")


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the PDS got it; `input` is the body of a procedure, or a query's parameters."""

    nsid: str
    input: dict[str, Any]
    token: str | None
    head: str


@dataclass(frozen=True, slots=True)
class Commit:
    did: str
    rev: str
    since: str | None
    deleted: tuple[str, ...] = ()  # paths
    created: tuple[tuple[str, str, Any], ...] = ()  # paths, CIDs, records


Fault = Callable[["FakePds", Call, asyncio.StreamWriter], Awaitable[None]]


class Clock:
    """Numbers for the revs of all fake PDSes, so that a moved repo's revs go on."""

    number = 1000


class FakePds:
    """Repos, accounts and the answers to calls; `fail` and `always` name faults by method."""

    def __init__(self) -> None:
        self.host: Host
        self.repos: dict[str, dict[str, str]] = {}  # DID to path to CID
        self.revs: dict[str, str | None] = {}
        self.passwords: dict[str, str] = {}  # by DID
        self.access: dict[str, str] = {}  # token to DID
        self.refresh: dict[str, str] = {}
        self.calls: list[Call] = []
        self.commits: list[Commit] = []
        self.always: dict[str, Fault] = {}  # by NSID, or "*"
        self.busy: Counter[str] = Counter()  # calls under way
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._tokens = 0

    @property
    def url(self) -> str:
        return self.host.url

    def fail(self, nsid: str, *faults: Fault) -> None:
        """Let the next calls of this method go wrong, one after the other."""
        self._faults[nsid].extend(faults)

    def add(self, did: str, password: str = "abcd-efgh-ijkl-mnop") -> None:
        self.repos[did] = {}
        self.revs[did] = None
        self._commit(did, ())  # a new repo has an empty commit
        self.passwords[did] = password

    def write(self, did: str, path: str, record: object) -> tuple[str, str]:
        """Put a record there; return its CID and the commit's rev."""
        self.repos[did][path] = cid_of(record)
        return cid_of(record), self._commit(did, ())

    def session(self, did: str) -> tuple[str, str]:
        """Return new tokens, the access and the refresh token."""
        self._tokens += 1
        access, refresh = (
            f"eyJhbGciOiJub25lIn0.{kind}-{self.host.port}-{self._tokens}.c2lnbmF0dXJl"
            for kind in ("access", "refresh")
        )
        self.access[access] = self.refresh[refresh] = did
        return access, refresh

    def expire(self) -> None:
        """Let all access tokens run out."""
        self.access.clear()

    def of(self, nsid: str) -> list[Call]:
        return [call for call in self.calls if call.nsid == nsid]

    async def reply(self, path: str, writer: asyncio.StreamWriter) -> None:
        """Answer one request; what was read last belongs to it, since nothing awaits between."""
        head, raw = self.host.heads[-1], self.host.bodies[-1]
        parts = urlsplit(path)
        token = head.lower().partition("authorization: bearer ")
        at = len(token[0]) + len(token[1])
        call = Call(
            parts.path.removeprefix("/xrpc/"),
            json.loads(raw) if raw else dict(parse_qsl(parts.query)),
            head[at:].partition("\r")[0] if token[1] else None,
            head,
        )
        self.calls.append(call)
        self.busy[call.nsid] += 1
        try:
            queue = self._faults[call.nsid]
            fault = queue.popleft() if queue else self.always.get(call.nsid) or self.always.get("*")
            if fault is not None:
                await fault(self, call, writer)
            else:
                self.send(writer, *self.answer(call))
                await writer.drain()
        finally:
            self.busy[call.nsid] -= 1

    def answer(self, call: Call) -> tuple[int, object]:
        """Do what is asked; return the status and the body."""
        match call.nsid:
            case "com.atproto.server.createSession":
                did = call.input["identifier"]
                if self.passwords.get(did) != call.input["password"]:
                    return 401, _error("AuthenticationRequired", "Invalid identifier or password")
                return 200, self._tokens_of(did)
            case "com.atproto.server.refreshSession":
                owner = self.refresh.pop(call.token or "", None)
                if owner is None:
                    return 400, _error("ExpiredToken", "Token has been revoked")
                return 200, self._tokens_of(owner)
            case "com.atproto.server.deleteSession":
                self.refresh.pop(call.token or "", None)
                return 200, {}
            case "com.atproto.repo.getRecord":
                path = f"{call.input['collection']}/{call.input['rkey']}"
                cid = self.repos.get(call.input["repo"], {}).get(path)
                if cid is None:
                    return 400, _error("RecordNotFound", "Could not locate record")
                uri = f"at://{call.input['repo']}/{path}"
                return 200, {"uri": uri, "cid": cid, "value": {}}
            case "com.atproto.sync.getLatestCommit":
                rev = self.revs.get(call.input["did"])
                if rev is None:
                    return 400, _error("RepoNotFound", "Could not find root for DID")
                return 200, {"cid": cid_of(rev), "rev": rev}
            case "com.atproto.repo.applyWrites" | "com.atproto.repo.deleteRecord":
                return self._write(call)
        return 501, _error("MethodNotImplemented", call.nsid)

    def _write(self, call: Call) -> tuple[int, object]:
        did = self.access.get(call.token or "")
        if did is None:
            return 400, _error("ExpiredToken", "Token has expired")
        if did != call.input["repo"] or did not in self.repos:
            return 401, _error("AuthenticationRequired", "")
        if call.nsid == DELETE:
            path = f"{call.input['collection']}/{call.input['rkey']}"
            swap, there = call.input.get("swapRecord"), self.repos[did].get(path)
            if swap is not None and there not in (None, swap):
                return 400, _error("InvalidSwap", f"Record was at {there}")
            if self.repos[did].pop(path, None) is None:
                return 200, {}
            rev = self._commit(did, (path,))
            return 200, {"commit": {"cid": cid_of(rev), "rev": rev}}
        paths = [f"{write['collection']}/{write['rkey']}" for write in call.input["writes"]]
        if len(paths) > 200:
            return 400, _error("InvalidRequest", "Too many writes. Max: 200")
        values = [write.get("value") for write in call.input["writes"]]
        creates = None not in values  # nobody asks for both at once
        there = set(paths) & self.repos[did].keys()
        if len(set(paths)) < len(paths) or there != (set() if creates else set(paths)):
            return 500, _error("InternalServerError", "Internal Server Error")
        results = []
        for path, value in zip(paths, values, strict=True):
            if creates:
                self.repos[did][path] = cid_of(value)
                results.append({"uri": f"at://{did}/{path}", "cid": cid_of(value)})
            else:
                del self.repos[did][path]
        created = tuple((path, cid_of(v), v) for path, v in zip(paths, values, strict=True))
        rev = self._commit(did, () if creates else tuple(paths), created if creates else ())
        return 200, {"commit": {"cid": cid_of(rev), "rev": rev}, "results": results}

    def _commit(
        self, did: str, deleted: tuple[str, ...], created: tuple[tuple[str, str, Any], ...] = ()
    ) -> str:
        Clock.number += 1
        since, self.revs[did] = self.revs[did], tid(Clock.number)
        if deleted or created:
            self.commits.append(Commit(did, tid(Clock.number), since, deleted, created))
        return tid(Clock.number)

    def _tokens_of(self, did: str) -> dict[str, str]:
        access, refresh = self.session(did)
        return {"did": did, "handle": "alice.test", "accessJwt": access, "refreshJwt": refresh}

    @staticmethod
    def send(
        writer: asyncio.StreamWriter, status: int, body: object, headers: tuple[str, ...] = ()
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + content)


def _error(error: str, message: str) -> dict[str, str]:
    return {"error": error, "message": message}


@asynccontextmanager
async def fake_pds() -> AsyncIterator[FakePds]:
    pds = FakePds()
    async with hosting(pds.reply) as pds.host:
        yield pds


# --- faults ---


def says(status: int, error: str = "", message: str = "", *headers: str) -> Fault:
    """Answer with an XRPC error."""
    return raw(status, json.dumps(_error(error, message)).encode(), *headers)


def raw(status: int, body: bytes, *headers: str) -> Fault:
    """Answer with these bytes, of which the server knows nothing."""

    async def fault(pds: FakePds, _: Call, writer: asyncio.StreamWriter) -> None:
        pds.send(writer, status, body, headers)
        await writer.drain()

    return fault


async def hang(_: FakePds, __: Call, ___: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.sleep(3600)


async def drip(_: FakePds, __: Call, writer: asyncio.StreamWriter) -> None:
    """Answer a byte at a time, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\n \r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def flood(_: FakePds, __: Call, writer: asyncio.StreamWriter) -> None:
    """Answer without an end, as fast as it goes."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * 65_536)
        await writer.drain()


async def drop(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
    """Do what is asked, and cut the line before the answer."""
    pds.answer(call)
    writer.close()


def waiting(gate: asyncio.Event) -> Fault:
    """Do what is asked, and answer once the gate is open."""

    async def fault(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
        status, body = pds.answer(call)
        await gate.wait()
        pds.send(writer, status, body)
        await writer.drain()

    return fault
