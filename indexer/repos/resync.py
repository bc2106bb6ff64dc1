"""Repos that are out of step, made right by what their hosts prove of them: a pool of workers.

What is ours is proven by the few blocks around it where a PDS gives out such, else by the CAR of
the whole repo; what comes out is the same.

Live events of such a repo are not held back meanwhile. Each is proven by itself and counts by its
revision, and so does each record of the copy, so in whichever order they are applied the newest
word on a record wins. What the copy adds is certainty: from it on, no commit is missing.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import httpx

from indexer import log
from indexer.identity.model import Identity, IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.net.health import ClockWatch, HostHealth
from indexer.proof.repo import Contents
from indexer.records import Scope
from indexer.repos.hosts import RepoUnavailable
from indexer.repos.peers import AT_ONCE, Peers, Tally
from indexer.repos.range_source import Way
from indexer.repos.reader import Look, RepoReader
from indexer.rules import repo_rules
from indexer.rules.projection import Keep, Projection
from indexer.store import daemon, repos, resyncs
from indexer.store.db import Database, Transaction
from indexer.store.repos import Repo
from indexer.store.resyncs import Claim

WORKERS = 8  # repos that are looked at at once; few of them are fetched whole
ASK_AT_ONCE = 8  # DIDs that are resolved at once, of PLC and of did:web hosts each
POLL = 1.0  # seconds between looks at the queue
SPREAD = 500  # repos that one look takes up
MAX_TAKEN = 1_000  # repos that are taken up at once; most of them wait for a turn
LEASE = 1_800.0  # seconds; a claim falls due again after this, even if we crash
MAX_ERROR = 300  # characters

_log = log.get("resync")


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
        peers: Peers | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._keep = keep
        self._db = db
        self._scope = scope
        self._projection = Projection(scope, relay)
        self._identities = resolver.share(ASK_AT_ONCE)
        self._clock = clock
        self._health = HostHealth(clock, at_once=AT_ONCE)
        self._peers = peers or Peers(clock)
        self._slots = asyncio.Semaphore(WORKERS)
        self._watch = ClockWatch(clock)
        self._prefix = f"{db.path.name}-resync-"  # of the files for CARs
        self._reader = RepoReader(
            client,
            self._identities,
            scope.collections,
            relay_url=relay_url,
            health=self._health,
            peers=self._peers,
            clock=clock,
            # Beside the database, where there is room: /tmp may be memory.
            files=db.path.with_name(self._prefix),
        )

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
                due = await resyncs.due(self._db, self._now(), limit)
                taken = [did for did in due if did not in running][: MAX_TAKEN - len(running)]
                for did, claim in (await self._claim(taken)).items():
                    running[did] = group.create_task(self._work(did, claim))
                await asyncio.sleep(POLL)

    async def resync(self, did: str) -> None:
        """Make one repo whole, or put it off."""
        claims = await self._claim([did])
        await self._work(did, claims.get(did, Claim(1, whole=False)))

    async def _claim(self, dids: list[str]) -> dict[str, Claim]:
        """Take repos up, all in one transaction: each costs a wait for the disk."""
        if not dids:
            return {}
        async with self._db.transaction() as tx:
            return await resyncs.claim(tx, dids, self._now() + int(LEASE * 1000))

    async def _work(self, did: str, claim: Claim) -> None:
        try:
            await self._resync(did, claim)
        except RepoUnavailable as error:
            await self._put_off(did, claim, error)

    async def _put_off(self, did: str, claim: Claim, error: RepoUnavailable) -> None:
        retry_at = self._now() + int(self._health.delay(claim.attempt) * 1000)
        is_tried = error.until is None
        if error.until is not None:
            # Of a thousand repos of a host that fails, two were asked for: all are due when it is
            # well.
            retry_at = math.ceil(error.until * 1000)
        if is_tried and await self._has_moved(did, error):
            retry_at = self._now()
        text = str(error)[:MAX_ERROR]
        async with self._db.transaction() as tx:
            await resyncs.put_off(tx, did, text, retry_at, counts=is_tried, now=self._now())
        _log.info(
            "resync.failed" if is_tried else "resync.postponed",
            did=did,
            attempts=claim.attempt,
            retry_in_s=round((retry_at - self._now()) / 1000, 1),
            error=text,
        )

    async def _resync(self, did: str, claim: Claim) -> None:
        try:
            identity = await self._identities.resolve(did)
        except IdentityError as error:
            raise RepoUnavailable(f"the DID can't be resolved: {error}") from None
        pds = identity.pds
        if pds is None:
            raise RepoUnavailable(identity.without_pds)
        async with AsyncExitStack() as slot:
            # Its host's turn ends with what is asked of it: the index has a queue of its own.
            async with self._health.turn(pds) as is_well:
                await slot.enter_async_context(self._slots)
                if not is_well:
                    raise RepoUnavailable(self._health.error(pds), self._health.until(pds))
                look = self._reader.look(did, pds, identity.signing_key, whole=claim.whole)
                known = (await repos.load(self._db, [did])).get(did) or Repo(did)
                found = await self._ask(known, look)
            if isinstance(found, str):
                await self._note_hosting(known, found)
            elif found is None:
                await self._note_whole(known, look.tally)
            else:
                await self._reconcile(*found, look.tally)

    async def _ask(self, known: Repo, look: Look) -> tuple[Contents, Way] | str | None:
        """Return what a repo holds, or the hosting of one not served; None if all is known."""
        if (until := self._peers.get(look.pds).rests_until()) is not None:
            raise RepoUnavailable(f"{look.pds}: its limits of requests are near", until)
        if known.hosting != "active":
            # If nobody can tell, it is as it was.
            return await self._reader.hosts.hosting(look.pds, known.did) or known.hosting
        return None if await self._is_whole(known, look) else await self._reader.learn(look)

    async def _note_whole(self, known: Repo, tally: Tally) -> None:
        async with self._db.transaction() as tx:
            await resyncs.mark_whole(tx, known.did, known.rev or "")
            await resyncs.end(tx, known.did)
            await _count(tx, "unchanged", tally)
        _log.info("repo.checked", did=known.did, rev=known.rev)

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

    async def _reconcile(self, contents: Contents, way: Way, tally: Tally) -> None:
        did = contents.did
        async with self._db.transaction() as tx:
            now_known = (await repos.load(tx, [did])).get(did)
            # Something is known to be missing since, and may be missing in the copy too.
            again = now_known is not None and now_known.sync == "desynchronized"
            is_whole, rejected = await self._projection.reconcile(tx, contents, self._now())
            fell = self._projection.take_fallen()
            if fell and self._keep is not None:
                await self._keep(fell)
            if is_whole:
                await resyncs.end(tx, did, again=again)
            await _count(tx, way, tally)
        if not is_whole:
            await self._refresh(did)  # it may have moved
            raise RepoUnavailable("the host's copy is older than what the relay has shown")
        _log.info(
            "repo.resynced",
            did=did,
            rev=contents.rev,
            records=len(contents.records),
            rejected=len(rejected),
            way=way,
            bytes=tally.bytes,
            requests=tally.requests,
        )

    async def _is_whole(self, known: Repo, look: Look) -> bool:
        """Whether the newest commit is the one up to which all is known here: then it is done."""
        if look.whole or known.whole_rev is None or known.whole_rev != known.rev:
            return False
        newest = await self._reader.hosts.latest_rev(look.pds, known.did, look.tally)
        return newest == known.rev

    async def _has_moved(self, did: str, error: RepoUnavailable) -> bool:
        """Whether the account has another PDS by now than the one that was asked."""
        before = self._identities.known(did)
        fresh = await self._refresh(did)
        if before is None or fresh is None:
            return error.moved
        return error.moved or fresh.pds not in (None, before.pds)

    async def _refresh(self, did: str) -> Identity | None:
        return await self._reader.refresh(did)

    def _now(self) -> int:
        return int(self._clock() * 1000)


async def _count(tx: Transaction, way: str, tally: Tally) -> None:
    await daemon.count_resync(tx, way, tally.bytes, tally.requests)
