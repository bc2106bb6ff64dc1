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

import httpx

from indexer import log
from indexer.identity.model import Identity, IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.lexicon.syntax import tid_time
from indexer.net.health import ClockWatch, HostHealth
from indexer.net.requests import DiskError
from indexer.proof.repo import BadRepo, Contents, read_repo
from indexer.proof.verify import MAX_AHEAD
from indexer.records import Scope
from indexer.repos.hosts import RepoHosts, RepoUnavailable
from indexer.rules import repo_rules
from indexer.rules.projection import Projection
from indexer.store import repos, resyncs
from indexer.store.db import Database
from indexer.store.repos import Repo

WORKERS = 4  # repos that are fetched at once
ASK_AT_ONCE = 8  # DIDs that are resolved at once, of PLC and of did:web hosts each
POLL = 1.0  # seconds between looks at the queue
SPREAD = 100  # repos that one look takes up
MAX_TAKEN = 1_000  # repos that are taken up at once; most of them wait for a turn
LEASE = 1_800.0  # seconds; a claim falls due again after this, even if we crash
MAX_ERROR = 300  # characters

_log = log.get("resync")


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
        self._identities = resolver.share(ASK_AT_ONCE)
        self._clock = clock
        self._health = HostHealth(clock)
        self._hosts = RepoHosts(client, relay_url, self._health, clock)
        self._slots = asyncio.Semaphore(WORKERS)
        self._watch = ClockWatch(clock)
        self._prefix = f"{db.path.name}-resync-"  # of the files for CARs

    async def run(self) -> None:
        """Work for ever. Raises what is our own fault."""
        for left in self._db.path.parent.glob(f"{self._prefix}*"):
            left.unlink(missing_ok=True)  # by a daemon that was killed
        async with asyncio.TaskGroup() as group:
            running: dict[str, asyncio.Task[None]] = {}
            while True:
                if self._watch.begins_anew():
                    async with self._db.transaction() as tx:
                        await resyncs.release(tx, self._now())
                running = {did: task for did, task in running.items() if not task.done()}
                # Those under way may wait for a slow host: they must not hide the others.
                limit = SPREAD + len(running)
                for did in await resyncs.due(self._db, self._now(), limit):
                    if did not in running and len(running) < MAX_TAKEN:
                        running[did] = group.create_task(self.resync(did))
                await asyncio.sleep(POLL)

    async def resync(self, did: str) -> None:
        """Make one repo whole, or put it off."""
        async with self._db.transaction() as tx:
            attempt = await resyncs.claim(tx, did, self._now() + int(LEASE * 1000))
        try:
            await self._resync(did, attempt)
        except RepoUnavailable as error:
            retry_at = self._now() + int(self._health.delay(attempt) * 1000)
            async with self._db.transaction() as tx:
                await resyncs.put_off(tx, did, str(error)[:MAX_ERROR], retry_at)
            _log.info(
                "resync.failed",
                did=did,
                attempts=attempt,
                retry_in_s=round((retry_at - self._now()) / 1000, 1),
                error=str(error)[:MAX_ERROR],
            )

    async def _resync(self, did: str, attempt: int) -> None:
        try:
            identity = await self._identities.resolve(did)
        except IdentityError as error:
            raise RepoUnavailable(f"the DID can't be resolved: {error}") from None
        pds = identity.pds
        if pds is None:
            raise RepoUnavailable("the DID document names no PDS")
        async with self._health.turn(pds) as is_well, self._slots:
            if not is_well:
                raise RepoUnavailable(self._health.error(pds))
            known = (await repos.load(self._db, [did])).get(did) or Repo(did)
            job = _Job(known, identity, pds, attempt)
            if known.hosting != "active":
                # If nobody can tell, it is as it was.
                told = await self._hosts.hosting(pds, did)
                await self._note_hosting(known, told or known.hosting)
                return
            if await self._is_whole(job):
                async with self._db.transaction() as tx:
                    await resyncs.mark_whole(tx, did, known.rev or "")
                    await resyncs.end(tx, did)
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
                asked_at = repo_rules.time_of_answer(now_known, self._now())
                await repos.set_hosting(tx, did, hosting, asked_at)
            await resyncs.end(tx, did, again=hosting == "active")
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
                await resyncs.end(tx, did, again=again)
        if not is_whole:
            await self._refresh(did)  # it may have moved
            raise RepoUnavailable("the host's copy is older than what the relay has shown")
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
        return await self._hosts.latest_rev(job.pds, known.did) == known.rev

    async def _fetch(self, job: _Job, file: Path) -> str | None:
        """Bring the repo's CAR; return None, or the hosting of an account that is not served."""
        did, pds = job.known.did, job.pds
        # Each second attempt goes past the relay: what it serves may be why the first one failed.
        past_relay = job.attempt % 2 == 0
        try:
            not_served = await self._hosts.fetch(pds, did, file, past_relay=past_relay)
        except DiskError as error:
            # A repo that is too large for our disk must not end the daemon.
            _log.error("disk.failed", file=str(file), error=str(error))
            raise RepoUnavailable(f"the disk: {error}") from None
        if not_served is None:
            return None
        fresh = await self._refresh(did)
        if fresh is None or fresh.pds != pds:
            # The old host of an account that has moved says so too.
            raise RepoUnavailable(f"{pds}: {not_served.error}; the account may have moved")
        if not_served.hosting is None:
            raise RepoUnavailable(f"{pds}: HTTP {not_served.status} {not_served.error}")
        return not_served.hosting

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
                    raise RepoUnavailable(str(error)) from None
                key = fresh.signing_key
                continue
            if tid_time(contents.rev) > self._now() * 1000 + MAX_AHEAD:
                # It would outlive every later revision.
                raise RepoUnavailable("the copy's rev lies in the future")
            return contents
        raise RepoUnavailable("the key changed twice")

    async def _refresh(self, did: str) -> Identity | None:
        try:
            return await self._identities.resolve(did, refresh=True)
        except IdentityError:
            return None

    def _now(self) -> int:
        return int(self._clock() * 1000)
