"""Repos that are out of step, fetched whole and made right: a pool of workers.

Live events of such a repo are not held back meanwhile. Each is proven by itself and counts by its
revision, and so does each record of the copy, so in whichever order they are applied the newest
word on a record wins. What the copy adds is certainty: from it on, no commit is missing.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

from indexer import log
from indexer.health import HostHealth
from indexer.identity import Identity, IdentityError, IdentityResolver
from indexer.net import Answer, DiskError, FetchError, download, request_json
from indexer.projection import Projection
from indexer.records import Scope
from indexer.repo import BadRepo, Contents, read_repo
from indexer.store import repos
from indexer.store.db import Database
from indexer.store.repos import Repo, hosting_of
from indexer.syntax import tid_time
from indexer.verify import MAX_AHEAD

WORKERS = 4  # repos that are fetched at once
POLL = 1.0  # seconds between looks at the queue
SPREAD = 100  # repos that one look takes up
MAX_TAKEN = 1_000  # repos that are taken up at once; most of them wait for a turn
LEASE = 1_800.0  # seconds; a claim falls due again after this, even if we crash
MAX_CAR = 1_000_000_000  # bytes of a repo, on the disk
FETCH_WITHIN = 900.0  # seconds for a repo
SLOWEST = 10_000.0  # bytes a second; a host that drips is left alone
ASK_WITHIN = 10.0  # seconds for the rev of the newest commit
MAX_ANSWER = 10_000  # bytes of that
MAX_ERROR = 300  # characters

# What a host says of a repo that it does not serve, and the hosting that this amounts to.
_HOSTING = {
    "RepoDeactivated": "deactivated",
    "RepoSuspended": "suspended",
    "RepoTakendown": "takendown",
}

_NOT_FOUND = "RepoNotFound"
_UNSERVED = frozenset((404, 405, 501))  # a host that does not know the method

_log = log.get("resync")


class _FailedError(Exception):
    """This attempt gave nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One attempt at one repo."""

    known: Repo  # as it was when its turn came
    identity: Identity
    pds: str
    attempt: int  # from 1


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
        self._prefix = f"{db.path.name}-resync-"  # of the files for CARs

    async def run(self) -> None:
        """Work for ever. Raises what is our own fault."""
        for left in self._db.path.parent.glob(f"{self._prefix}*"):
            left.unlink(missing_ok=True)  # by a daemon that was killed
        async with self._db.transaction() as tx:
            await repos.release_resyncs(tx, self._now())
        async with asyncio.TaskGroup() as group:
            running: dict[str, asyncio.Task[None]] = {}
            while True:
                running = {did: task for did, task in running.items() if not task.done()}
                # Those under way may wait for a slow host: they must not hide the others.
                limit = SPREAD + len(running)
                for did in await repos.due_resyncs(self._db, self._now(), limit):
                    if did not in running and len(running) < MAX_TAKEN:
                        running[did] = group.create_task(self.resync(did))
                await asyncio.sleep(POLL)

    async def resync(self, did: str) -> None:
        """Make one repo whole, or put it off."""
        async with self._db.transaction() as tx:
            attempt = await repos.claim_resync(tx, did, self._now() + int(LEASE * 1000))
        try:
            await self._resync(did, attempt)
        except _FailedError as error:
            retry_at = self._now() + int(self._health.delay(attempt) * 1000)
            async with self._db.transaction() as tx:
                await repos.put_off_resync(tx, did, str(error)[:MAX_ERROR], retry_at)
            _log.info(
                "resync.failed",
                did=did,
                attempts=attempt,
                retry_in_s=round((retry_at - self._now()) / 1000, 1),
                error=str(error)[:MAX_ERROR],
            )

    async def _resync(self, did: str, attempt: int) -> None:
        try:
            identity = await self._resolver.resolve(did)
        except IdentityError as error:
            raise _FailedError(f"the DID can't be resolved: {error}") from None
        pds = identity.pds
        if pds is None:
            raise _FailedError("the DID document names no PDS")
        async with self._health.turn(pds) as is_well, self._slots:
            if not is_well:
                raise _FailedError(self._health.error(pds))
            known = (await repos.load(self._db, [did])).get(did) or Repo(did)
            job = _Job(known, identity, pds, attempt)
            if known.hosting != "active":
                await self._note_hosting(known, await self._ask_hosting(job))
                return
            if await self._is_whole(job):
                async with self._db.transaction() as tx:
                    await repos.mark_whole(tx, did, known.rev or "")
                    await repos.end_resync(tx, did)
                _log.info("repo.checked", did=did, rev=known.rev)
                return
            # Beside the database, where there is room: /tmp may be memory.
            with tempfile.NamedTemporaryFile(dir=self._db.path.parent, prefix=self._prefix) as file:
                if (hosting := await self._fetch(job, Path(file.name))) is not None:
                    await self._note_hosting(known, hosting)
                    return
                contents = await self._read(job, Path(file.name))
            await self._reconcile(contents)

    async def _note_hosting(self, known: Repo, hosting: str) -> None:
        did = known.did
        async with self._db.transaction() as tx:
            now_known = (await repos.load(tx, [did])).get(did, known)
            # What the relay said while we asked is newer.
            if (now_known.hosting_relay, now_known.hosting_seq) == (
                known.hosting_relay,
                known.hosting_seq,
            ):
                await repos.set_hosting(tx, did, hosting)
            await repos.end_resync(tx, did, again=hosting == "active")
        _log.info(
            "repo.back" if hosting == "active" else "repo.not_served", did=did, hosting=hosting
        )

    async def _reconcile(self, contents: Contents) -> None:
        did = contents.did
        async with self._db.transaction() as tx:
            now_known = (await repos.load(tx, [did])).get(did)
            # Something is known to be missing since, and may be missing in the copy too.
            again = now_known is not None and now_known.sync == "desynchronized"
            is_whole, rejected = await self._projection.reconcile(tx, contents, self._now())
            if is_whole:
                await repos.end_resync(tx, did, again=again)
        if not is_whole:
            await self._refresh(did)  # it may have moved
            raise _FailedError("the host's copy is older than what the relay has shown")
        _log.info(
            "repo.resynced",
            did=did,
            rev=contents.rev,
            records=len(contents.records),
            rejected=len(rejected),
        )

    async def _is_whole(self, job: _Job) -> bool:
        """Whether the newest commit is the one up to which all is known here: then it is done."""
        known = job.known
        if known.whole_rev is None or known.whole_rev != known.rev:
            return False
        try:
            answer = await request_json(
                self._client,
                "GET",
                f"{job.pds}/xrpc/com.atproto.sync.getLatestCommit",
                params={"did": known.did},
                deadline=ASK_WITHIN,
                max_bytes=MAX_ANSWER,
            )
        except FetchError:
            return False
        rev = answer.body.get("rev") if isinstance(answer.body, dict) else None
        return answer.status == 200 and rev == known.rev

    async def _ask_hosting(self, job: _Job) -> str:
        """Ask how an account that was not active stands: the relay, or, if it can't tell, the PDS.

        In this order, since a relay may have taken down what its PDS still serves.
        """
        for host in (self._relay, job.pds):
            try:
                answer = await request_json(
                    self._client,
                    "GET",
                    f"{host}/xrpc/com.atproto.sync.getRepoStatus",
                    params={"did": job.known.did},
                    deadline=ASK_WITHIN,
                    max_bytes=MAX_ANSWER,
                )
            except FetchError as error:
                raise _FailedError(f"{host}: {error}") from None
            if answer.status == 200 and isinstance(answer.body, dict):
                status = answer.body.get("status")
                hosting = hosting_of(answer.body.get("active") is True, status)
                # What is deleted has to be purged as well, and the stream will say so.
                return hosting if hosting != "deleted" else "inactive"
            if answer.status != 400 and answer.status not in _UNSERVED:
                raise _FailedError(f"{host}: HTTP {answer.status}")
        return job.known.hosting  # nobody says anything else

    async def _fetch(self, job: _Job, file: Path) -> str | None:
        """Bring the repo's CAR, from the relay if it serves it, else from the PDS.

        Returns None, or the hosting of an account whose repo is served to nobody.
        """
        did, pds = job.known.did, job.pds
        if self._asks_relay(job) and await self._fetch_from_relay(did, file):
            return None
        answer = await self._download(pds, did, file)
        if answer is None:
            self._health.succeeded(pds)
            return None
        if isinstance(answer, FetchError):
            self._health.failed(pds, str(answer), None)
            raise _FailedError(f"{pds}: {answer}")
        name = _error_name(answer)
        if name in _HOSTING or name == _NOT_FOUND:
            fresh = await self._refresh(did)
            if fresh is None or fresh.pds != pds:
                # The old host of an account that has moved says so too.
                raise _FailedError(f"{pds}: {name}; the account may have moved")
            if name in _HOSTING:
                return _HOSTING[name]
        else:
            self._health.failed(pds, f"HTTP {answer.status}", None)
        raise _FailedError(f"{pds}: HTTP {answer.status} {name[:MAX_ERROR]}")

    def _asks_relay(self, job: _Job) -> bool:
        # Each second attempt goes past the relay: what it serves may be why the first one failed.
        return (
            self._relay_serves
            and self._relay != job.pds
            and job.attempt % 2 == 1
            and self._health.until(self._relay) <= self._clock()
        )

    async def _fetch_from_relay(self, did: str, file: Path) -> bool:
        answer = await self._download(self._relay, did, file)
        if isinstance(answer, FetchError):
            self._health.failed(self._relay, str(answer), None)
        elif answer is None:
            self._health.succeeded(self._relay)
        elif answer.status in _UNSERVED and _error_name(answer) not in {*_HOSTING, _NOT_FOUND}:
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
        except DiskError as error:
            # A repo that is too large for our disk must not end the daemon.
            _log.error("disk.failed", file=str(file), error=str(error))
            raise _FailedError(f"the disk: {error}") from None

    async def _read(self, job: _Job, file: Path) -> Contents:
        """Prove the CAR, after one refresh of the identity if need be."""
        did, key = job.known.did, job.identity.signing_key
        for _ in range(2):
            try:
                contents = await asyncio.to_thread(
                    read_repo, file, did, key, self._scope.collections
                )
            except BadRepo as error:
                fresh = await self._refresh(did)
                if fresh is None or fresh.signing_key == key:
                    raise _FailedError(str(error)) from None
                key = fresh.signing_key
                continue
            if tid_time(contents.rev) > self._now() * 1000 + MAX_AHEAD:
                # It would outlive every later revision.
                raise _FailedError("the copy's rev lies in the future")
            return contents
        raise _FailedError("the key changed twice")

    async def _refresh(self, did: str) -> Identity | None:
        try:
            return await self._resolver.resolve(did, refresh=True)
        except IdentityError:
            return None

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _error_name(answer: Answer) -> str:
    """Return the XRPC name of an error, or '' where there is none."""
    name = answer.body.get("error") if isinstance(answer.body, dict) else None
    return name if isinstance(name, str) else ""
