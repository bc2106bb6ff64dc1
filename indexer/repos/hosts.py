"""What is asked of the hosts of a repo: its CAR, its newest commit, how its account stands.

These are the relay and the account's PDS. Source: the methods `com.atproto.sync.*`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

from indexer.lexicon.strict_json import parse_json
from indexer.net.guard import FetchError
from indexer.net.health import HostHealth
from indexer.net.requests import Answer, download, request_bytes
from indexer.repos.peers import Peers, Tally
from indexer.store.repos import hosting_of

MAX_CAR = 1_000_000_000  # bytes of a repo, on the disk
FETCH_WITHIN = 900.0  # seconds for a repo
SLOWEST = 10_000.0  # bytes a second; a host that drips is left alone
ASK_WITHIN = 10.0  # seconds for the newest commit, or how an account stands
MAX_ANSWER = 10_000  # bytes of that

# What a host says of a repo that it does not serve, and the hosting that this amounts to.
_HOSTING = {
    "RepoDeactivated": "deactivated",
    "RepoSuspended": "suspended",
    "RepoTakendown": "takendown",
    "RepoNotFound": None,
}
_UNSERVED = frozenset((404, 405, 501))  # a host that does not know the method


class RepoUnavailable(Exception):
    """A repo can't be had now; the text says why.

    `until` is when its host may be asked again, in Unix seconds, where that is known: then it was
    not even tried. `moved` is whether another host is to be asked, and that at once.
    """

    def __init__(self, message: str, until: float | None = None, *, moved: bool = False) -> None:
        super().__init__(message)
        self.until = until
        self.moved = moved


@dataclass(frozen=True, slots=True)
class NotServed:
    """What a PDS says that does not serve a repo."""

    status: int
    error: str  # the XRPC name

    @property
    def hosting(self) -> str | None:
        """How the account stands then; None if that does not follow."""
        return _HOSTING[self.error]


class RepoHosts:
    """Asks the relay at this URL, and the PDS of each repo. `clock` gives Unix seconds."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        relay_url: str,
        health: HostHealth,
        peers: Peers,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._relay = relay_url.replace("ws", "http", 1)  # ws:// to http://, wss:// to https://
        self._relay_serves = True  # until it says that it knows no such method
        self._health = health
        self._peers = peers
        self._clock = clock

    async def latest_rev(self, pds: str, did: str, tally: Tally) -> str | None:
        """Return the rev of the repo's newest commit, or None if its PDS does not say."""
        if not self._peers.get(pds).small.is_open():
            return None
        try:
            answer = await self._ask(pds, "com.atproto.sync.getLatestCommit", did, tally)
        except FetchError:
            return None
        rev = answer.body.get("rev") if isinstance(answer.body, dict) else None
        return rev if answer.status == 200 and isinstance(rev, str) else None

    async def hosting(self, pds: str, did: str) -> str | None:
        """Ask how an account stands: the relay, or, if it can't tell, the PDS; None if neither can.

        In this order, since a relay may have taken down what its PDS still serves.
        Raises RepoUnavailable if a host does not answer.
        """
        for host in (self._relay, pds):
            small = self._peers.get(host).small
            if not small.is_open():
                raise RepoUnavailable(f"{host}: its limit of requests is near", small.until)
            try:
                answer = await self._ask(host, "com.atproto.sync.getRepoStatus", did)
            except FetchError as error:
                raise RepoUnavailable(f"{host}: {error}") from None
            if answer.status == 200 and isinstance(answer.body, dict):
                status = answer.body.get("status")
                hosting = hosting_of(answer.body.get("active") is True, status)
                # What is deleted has to be purged as well, and the stream will say so.
                return hosting if hosting != "deleted" else "inactive"
            if answer.status != 400 and answer.status not in _UNSERVED:
                until = None if small.is_open() else small.until
                raise RepoUnavailable(f"{host}: HTTP {answer.status}", until)
        return None

    async def fetch(self, pds: str, did: str, file: Path, tally: Tally) -> NotServed | None:
        """Bring the repo's CAR: from its PDS, or from the relay if the PDS does not answer.

        Raises RepoUnavailable, and DiskError if the file does not take it.
        """
        bucket = self._peers.get(pds).whole
        if not bucket.is_open():
            raise RepoUnavailable(f"{pds}: its limit of whole repos is near", bucket.until)
        answer = await self._download(pds, did, file, tally)
        if answer is None:
            self._health.succeeded(pds)
            return None
        if isinstance(answer, FetchError):
            error, is_busy = f"{pds}: {answer}", False
        else:
            name = _error_name(answer)
            if name in _HOSTING:
                return NotServed(answer.status, name)
            error, is_busy = f"{pds}: HTTP {answer.status} {name}".rstrip(), answer.status == 429
            if is_busy and not bucket.is_open():
                # Whatever else it may be asked has a limit of its own.
                raise RepoUnavailable(error, bucket.until)
        self._health.failed(pds, error, None)
        # A relay that has no copies sends us to the very host that has asked for less.
        if not is_busy and self._asks_relay(pds) and await self._fetch_from_relay(did, file, tally):
            return None
        raise RepoUnavailable(error)

    def _asks_relay(self, pds: str) -> bool:
        return (
            self._relay_serves
            and self._relay != pds
            and self._peers.get(self._relay).whole.is_open()
            and self._health.until(self._relay) <= self._clock()
        )

    async def _fetch_from_relay(self, did: str, file: Path, tally: Tally) -> bool:
        answer = await self._download(self._relay, did, file, tally)
        if isinstance(answer, FetchError):
            self._health.failed(self._relay, str(answer), None)
        elif answer is None:
            self._health.succeeded(self._relay)
        elif answer.status in _UNSERVED and _error_name(answer) not in _HOSTING:
            self._relay_serves = False
        return answer is None

    async def _download(
        self, host: str, did: str, file: Path, tally: Tally
    ) -> Answer | FetchError | None:
        """Write a repo's CAR to the file and return None, or return why that failed."""
        tally.requests += 1
        try:
            with file.open("wb", buffering=0) as sink:
                answer = await download(
                    self._client,
                    f"{host}/xrpc/com.atproto.sync.getRepo?did={quote(did)}",
                    sink,
                    max_bytes=MAX_CAR,
                    deadline=FETCH_WITHIN,
                    slowest=SLOWEST,
                    heard=self._peers.get(host).whole.heard,
                )
        except FetchError as error:
            return error
        finally:
            tally.bytes += file.stat().st_size
        return answer

    async def _ask(self, host: str, method: str, did: str, tally: Tally | None = None) -> Answer:
        peer, tally = self._peers.get(host), tally or Tally()
        async with peer.slots:
            tally.requests += 1
            answer = await request_bytes(
                self._client,
                f"{host}/xrpc/{method}?did={quote(did)}",
                deadline=ASK_WITHIN,
                max_bytes=MAX_ANSWER,
            )
        tally.bytes += len(answer.body)
        peer.small.heard(answer.status, answer.headers)
        try:
            body = parse_json(answer.body)
        except ValueError:
            body = None
        return Answer(answer.status, answer.headers, body)


def _error_name(answer: Answer) -> str:
    """Return the XRPC name of an error, or '' where there is none."""
    name = answer.body.get("error") if isinstance(answer.body, dict) else None
    return name if isinstance(name, str) else ""
