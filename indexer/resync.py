"""Repos that are out of step, fetched whole and made right: a pool of workers.

Live events of such a repo are not held back meanwhile. Each is proven by itself and counts by its
revision, and so does each record of the copy, so in whichever order they are applied the newest
word on a record wins. What the copy adds is certainty: from it on, no commit is missing.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from indexer import log
from indexer.health import HostHealth
from indexer.identity import Identity, IdentityError, IdentityResolver
from indexer.net import Answer, FetchError, download, request_json
from indexer.projection import Projection
from indexer.records import Scope
from indexer.repo import BadRepo, Contents, read_repo
from indexer.store import repos
from indexer.store.db import Database
from indexer.syntax import is_tid

WORKERS = 4  # repos that are fetched at once
POLL = 1.0  # seconds between looks at the queue
SPREAD = 100  # repos that one look takes up
LEASE = 1_800.0  # seconds; a claim falls due again after this, even if we crash
MAX_CAR = 1_000_000_000  # bytes of a repo, on the disk
FETCH_WITHIN = 900.0  # seconds for a repo
SLOWEST = 10_000.0  # bytes a second; a host that drips is left alone
ASK_WITHIN = 10.0  # seconds for the rev of the newest commit
MAX_ERROR = 300  # characters

# What a host says of a repo that it does not serve, and the hosting that this amounts to.
_HOSTING = {
    "RepoDeactivated": "deactivated",
    "RepoSuspended": "suspended",
    "RepoTakendown": "takendown",
}

_log = log.get("resync")


class _FailedError(Exception):
    """This attempt gave nothing; the text says why."""


class Resyncer:
    """Fetches the repos that are due. One of these runs in a daemon."""

    def __init__(
        self,
        db: Database,
        scope: Scope,
        resolver: IdentityResolver,
        client: httpx.AsyncClient,
        *,
        relay_url: str,
        relay: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._scope = scope
        self._projection = Projection(scope, relay)
        self._resolver = resolver
        self._client = client
        self._relay = relay_url.replace("ws", "http", 1)  # ws:// to http://, wss:// to https://
        self._relay_serves = True  # until it says that it knows no such method
        self._clock = clock
        self._health = HostHealth(clock)
        self._slots = asyncio.Semaphore(WORKERS)

    async def run(self) -> None:
        """Work for ever. Raises what is our own fault."""
        async with self._db.transaction() as tx:
            await repos.release_resyncs(tx, self._now())
        async with asyncio.TaskGroup() as group:
            running: dict[str, asyncio.Task[None]] = {}
            while True:
                running = {did: task for did, task in running.items() if not task.done()}
                # Those under way may wait for a slow host: they must not hide the others.
                limit = SPREAD + len(running)
                for did in await repos.due_resyncs(self._db, self._now(), limit):
                    if did not in running:
                        running[did] = group.create_task(self.resync(did))
                await asyncio.sleep(POLL)

    async def resync(self, did: str) -> None:
        """Make one repo whole, or put it off."""
        async with self._db.transaction() as tx:
            attempts = await repos.claim_resync(tx, did, self._now() + int(LEASE * 1000))
        try:
            await self._resync(did)
        except _FailedError as error:
            retry_at = self._now() + int(self._health.delay(attempts) * 1000)
            async with self._db.transaction() as tx:
                await repos.put_off_resync(tx, did, str(error)[:MAX_ERROR], retry_at)
            _log.info(
                "resync.failed",
                did=did,
                attempts=attempts,
                retry_in_s=round((retry_at - self._now()) / 1000, 1),
                error=str(error)[:MAX_ERROR],
            )

    async def _resync(self, did: str) -> None:
        try:
            identity = await self._resolver.resolve(did)
        except IdentityError as error:
            raise _FailedError(f"the DID can't be resolved: {error}") from None
        if identity.pds is None:
            raise _FailedError("the DID document names no PDS")
        async with self._health.turn(identity.pds) as is_well, self._slots:
            if not is_well:
                raise _FailedError(self._health.error(identity.pds))
            if await self._is_whole(identity):
                return
            with tempfile.NamedTemporaryFile(prefix="rescind-", suffix=".car") as file:
                if not await self._fetch(identity, Path(file.name)):
                    return
                contents = await self._read(identity, Path(file.name))
            self._health.succeeded(identity.pds)
        now = self._now()
        async with self._db.transaction() as tx:
            is_whole, rejected = await self._projection.reconcile(tx, contents, now)
            if is_whole:
                await repos.end_resync(tx, did)
        if not is_whole:
            raise _FailedError("the host's copy is older than what the relay has shown")
        _log.info(
            "repo.resynced",
            did=did,
            rev=contents.rev,
            records=len(contents.records),
            rejected=len(rejected),
        )

    async def _is_whole(self, identity: Identity) -> bool:
        """Whether the newest commit is the one up to which all is known here: then it is done."""
        known = (await repos.load(self._db, [identity.did])).get(identity.did)
        if known is None or known.whole_rev is None or known.whole_rev != known.rev:
            return False
        try:
            answer = await request_json(
                self._client,
                "GET",
                f"{identity.pds}/xrpc/com.atproto.sync.getLatestCommit",
                params={"did": identity.did},
                deadline=ASK_WITHIN,
                max_bytes=MAX_CAR,
            )
        except FetchError:
            return False
        rev = answer.body.get("rev") if isinstance(answer.body, dict) else None
        if answer.status != 200 or not isinstance(rev, str) or not is_tid(rev) or rev != known.rev:
            return False
        async with self._db.transaction() as tx:
            await repos.mark_whole(tx, identity.did, rev)
        _log.info("repo.checked", did=identity.did, rev=rev)
        return True

    async def _fetch(self, identity: Identity, file: Path) -> bool:
        """Bring the repo's CAR, from the relay if it serves it, else from the PDS.

        Returns False if the repo is not served to anybody, which is noted.
        """
        pds = identity.pds
        assert pds is not None  # noqa: S101 (asked before)
        if self._relay_serves and self._relay != pds:
            answer = await self._download(self._relay, identity.did, file, within=FETCH_WITHIN)
            if answer is None:
                return True
            if isinstance(answer, Answer) and answer.status in (404, 405, 501):
                self._relay_serves = False
        answer = await self._download(pds, identity.did, file, within=FETCH_WITHIN)
        if answer is None:
            return True
        if isinstance(answer, FetchError):
            self._health.failed(pds, str(answer), None)
            raise _FailedError(f"{pds}: {answer}")
        name = answer.body.get("error") if isinstance(answer.body, dict) else None
        if name in _HOSTING:
            async with self._db.transaction() as tx:
                await repos.set_hosting(tx, identity.did, _HOSTING[name])
                await repos.end_resync(tx, identity.did)
            _log.info("repo.not_served", did=identity.did, error=name)
            return False
        if name == "RepoNotFound":
            # It may have moved: next time, look where it is now.
            await self._refresh(identity.did)
        else:
            self._health.failed(pds, f"HTTP {answer.status}", None)
        raise _FailedError(f"{pds}: HTTP {answer.status} {str(name)[:MAX_ERROR]}")

    async def _download(
        self, host: str, did: str, file: Path, *, within: float
    ) -> Answer | FetchError | None:
        """Write a repo's CAR to the file and return None, or return why that failed."""
        url = httpx.URL(f"{host}/xrpc/com.atproto.sync.getRepo", params={"did": did})
        try:
            with file.open("wb") as sink:
                return await download(
                    self._client,
                    str(url),
                    sink,
                    max_bytes=MAX_CAR,
                    deadline=within,
                    slowest=SLOWEST,
                )
        except FetchError as error:
            return error

    async def _read(self, identity: Identity, file: Path) -> Contents:
        """Prove the CAR, after one refresh of the identity if need be."""
        key = identity.signing_key
        for _ in range(2):
            try:
                return await asyncio.to_thread(
                    read_repo, file, identity.did, key, self._scope.collections
                )
            except BadRepo as error:
                fresh = await self._refresh(identity.did)
                if fresh is None or fresh.signing_key == key:
                    raise _FailedError(str(error)) from None
                key = fresh.signing_key
        raise _FailedError("the key changed twice")

    async def _refresh(self, did: str) -> Identity | None:
        try:
            return await self._resolver.resolve(did, refresh=True)
        except IdentityError:
            return None

    def _now(self) -> int:
        return int(self._clock() * 1000)
