"""What is asked of the hosts of a repo: its CAR, its newest commit, how its account stands.

These are the relay and the account's PDS. Source: the methods `com.atproto.sync.*`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

from indexer.net.guard import FetchError
from indexer.net.health import HostHealth
from indexer.net.requests import Answer, download, request_json
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
    """A repo can't be had now; the text says why."""


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
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._relay = relay_url.replace("ws", "http", 1)  # ws:// to http://, wss:// to https://
        self._relay_serves = True  # until it says that it knows no such method
        self._health = health
        self._clock = clock

    async def latest_rev(self, pds: str, did: str) -> str | None:
        """Return the rev of the repo's newest commit, or None if its PDS does not say."""
        try:
            answer = await self._ask(pds, "com.atproto.sync.getLatestCommit", did)
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
                raise RepoUnavailable(f"{host}: HTTP {answer.status}")
        return None

    async def fetch(
        self, pds: str, did: str, file: Path, *, past_relay: bool = False
    ) -> NotServed | None:
        """Bring the repo's CAR, from the relay if it serves it, else from the PDS.

        With `past_relay` from the PDS alone. Raises RepoUnavailable, and DiskError if the file
        does not take it.
        """
        if not past_relay and self._asks_relay(pds) and await self._fetch_from_relay(did, file):
            return None
        answer = await self._download(pds, did, file)
        if answer is None:
            self._health.succeeded(pds)
            return None
        if isinstance(answer, FetchError):
            self._health.failed(pds, str(answer), None)
            raise RepoUnavailable(f"{pds}: {answer}")
        name = _error_name(answer)
        if name in _HOSTING:
            return NotServed(answer.status, name)
        self._health.failed(pds, f"HTTP {answer.status}", None)
        raise RepoUnavailable(f"{pds}: HTTP {answer.status} {name}")

    def _asks_relay(self, pds: str) -> bool:
        return (
            self._relay_serves
            and self._relay != pds
            and self._health.until(self._relay) <= self._clock()
        )

    async def _fetch_from_relay(self, did: str, file: Path) -> bool:
        answer = await self._download(self._relay, did, file)
        if isinstance(answer, FetchError):
            self._health.failed(self._relay, str(answer), None)
        elif answer is None:
            self._health.succeeded(self._relay)
        elif answer.status in _UNSERVED and _error_name(answer) not in _HOSTING:
            self._relay_serves = False
        return answer is None

    async def _download(self, host: str, did: str, file: Path) -> Answer | FetchError | None:
        """Write a repo's CAR to the file and return None, or return why that failed."""
        try:
            with file.open("wb", buffering=0) as sink:
                return await download(
                    self._client,
                    f"{host}/xrpc/com.atproto.sync.getRepo?did={quote(did)}",
                    sink,
                    max_bytes=MAX_CAR,
                    deadline=FETCH_WITHIN,
                    slowest=SLOWEST,
                )
        except FetchError as error:
            return error

    async def _ask(self, host: str, method: str, did: str) -> Answer:
        return await request_json(
            self._client,
            "GET",
            f"{host}/xrpc/{method}",
            params={"did": did},
            deadline=ASK_WITHIN,
            max_bytes=MAX_ANSWER,
        )


def _error_name(answer: Answer) -> str:
    """Return the XRPC name of an error, or '' where there is none."""
    name = answer.body.get("error") if isinstance(answer.body, dict) else None
    return name if isinstance(name, str) else ""
