"""The index held against the repos, one by one: what is ours is proven, and nothing is changed."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.net.health import HostHealth
from indexer.records import Scope
from indexer.repos.hosts import RepoUnavailable
from indexer.repos.peers import AT_ONCE, Peers, Tally
from indexer.repos.range_source import Way
from indexer.repos.reader import RepoReader
from indexer.rules.difference import Difference, differences
from indexer.store import repos
from indexer.store.db import Database

ASK_AT_ONCE = 4  # DIDs that are resolved at once, of PLC and of did:web hosts each
TRIES = 5  # to find index and repo at the same revision
PAUSE = 1.0  # seconds between them: a daemon that runs catches up in that time


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one repo: without differences and without a reason it is as it should be."""

    did: str
    rev: str | None = None  # of the repo
    way: Way | None = None
    tally: Tally = field(default_factory=Tally)
    differences: tuple[Difference, ...] = ()
    reason: str | None = None  # why index and repo could not be held against each other


class Checker:
    """Checks repos. `clock` gives Unix seconds."""

    def __init__(
        self,
        db: Database,
        scope: Scope,
        resolver: IdentityResolver,
        client: httpx.AsyncClient,
        *,
        relay_url: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._scope = scope
        self._identities = resolver.share(ASK_AT_ONCE)
        self._health = HostHealth(clock, at_once=AT_ONCE)
        self._reader = RepoReader(
            client,
            self._identities,
            scope.collections,
            relay_url=relay_url,
            health=self._health,
            peers=Peers(clock),
            clock=clock,
            files=db.path.with_name(f"{db.path.name}-check-"),
        )

    async def check(self, did: str) -> Checked:
        """Hold the index against one repo."""
        try:
            identity = await self._identities.resolve(did)
        except IdentityError as error:
            return Checked(did, reason=f"the DID can't be resolved: {error}")
        if identity.pds is None:
            return Checked(did, reason=identity.without_pds)
        tally = Tally()
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE)
            async with self._health.turn(identity.pds) as is_well:
                if not is_well:
                    return Checked(did, tally=tally, reason=self._health.error(identity.pds))
                look = self._reader.look(did, identity.pds, identity.signing_key)
                try:
                    found = await self._reader.learn(look)
                except RepoUnavailable as error:
                    return Checked(did, tally=tally, reason=str(error))
            tally.bytes += look.tally.bytes
            tally.requests += look.tally.requests
            if isinstance(found, str):
                return Checked(did, tally=tally, reason=f"its host says that it is {found}")
            contents, way = found
            known = (await repos.load(self._db, [did])).get(did)
            differing = tuple(await differences(self._db, self._scope, contents))
            after = (await repos.load(self._db, [did])).get(did)
            checked = Checked(did, contents.rev, way, tally, differing)
            # What a repo that nobody tracks holds was overlooked, whatever its revision.
            is_comparable = known == after and (known is None or known.rev == contents.rev)
            if not differing or is_comparable:
                break
        else:
            rev = known.rev if known is not None else None
            reason = f"the index is at rev {rev}, and the repo at {contents.rev}"
            return Checked(did, contents.rev, way, tally, reason=reason)
        if differing and known is not None:
            if known.hosting != "active":
                reason = f"here it is {known.hosting}, and its host serves it"
                return Checked(did, contents.rev, way, tally, reason=reason)
            if known.sync != "synchronized":
                reason = f"it is {known.sync}: the index knows that it lacks something"
                return Checked(did, contents.rev, way, tally, reason=reason)
        return checked
