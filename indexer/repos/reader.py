"""What a repo holds of ours, proven: by the few blocks around it, or by its whole CAR.

Nothing is written but a file for the CAR, which is gone when it was read.
"""

import asyncio
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from indexer import log
from indexer.identity.model import Identity, IdentityError
from indexer.lexicon.syntax import tid_time
from indexer.net.health import HostHealth
from indexer.net.requests import DiskError
from indexer.proof.repo import BadRepo, Contents, read_repo
from indexer.proof.verify import MAX_AHEAD
from indexer.prover import Identities
from indexer.repos.hosts import RepoHosts, RepoUnavailable
from indexer.repos.owner_key import OwnerKey
from indexer.repos.peers import Ability, Peers, Tally
from indexer.repos.range_source import FEW, FewRecords, NotByRange, RangeSource, Way

WHOLE_AT_ONCE = 4  # repos that are fetched whole

_log = log.get("resync")


@dataclass(frozen=True, slots=True)
class Look:
    """One attempt at one repo."""

    did: str
    pds: str
    key: OwnerKey
    whole: bool  # somebody wants the CAR
    tally: Tally = field(default_factory=Tally)


class RepoReader:
    """Asks the hosts of repos. `clock` gives Unix seconds; `files` is how files for CARs begin."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        identities: Identities,
        collections: Collection[str],
        *,
        relay_url: str,
        health: HostHealth,
        peers: Peers,
        clock: Callable[[], float],
        files: Path,
    ) -> None:
        self.hosts = RepoHosts(client, relay_url, health, peers, clock)
        self._identities = identities
        self._collections = collections
        self._health = health
        self._peers = peers
        self._clock = clock
        self._files = files
        self._ranges = RangeSource(client, peers)
        self._whole_slots = asyncio.Semaphore(WHOLE_AT_ONCE)

    def look(self, did: str, pds: str, key: str | None, *, whole: bool = False) -> Look:
        """Return an attempt at a repo whose DID names this PDS and this did:key."""
        return Look(did, pds, OwnerKey(key, lambda: self.refresh(did)), whole)

    async def refresh(self, did: str) -> Identity | None:
        """Ask for an identity anew; None if the DID can't be resolved."""
        try:
            return await self._identities.resolve(did, refresh=True)
        except IdentityError:
            return None

    async def learn(self, look: Look) -> tuple[Contents, Way] | str:
        """Return what a repo holds and how that was proven, or the hosting of one not served.

        Raises RepoUnavailable.
        """
        peer = self._peers.get(look.pds)
        failed: frozenset[Ability] = frozenset()
        is_walked = False
        if not look.whole and peer.small.is_open():
            # Where getRepo is not to be had, also a repo of a few records is gone through.
            few = FEW if peer.can("whole") and peer.whole.is_open() else 0
            try:
                return await self._walk(look, few)
            except NotByRange as reason:
                failed = reason.failed
                is_walked = isinstance(reason, FewRecords)
                _log.debug("resync.not_by_range", did=look.did, reason=str(reason))
        async with peer.whole_slots, self._whole_slots:
            try:
                found = await self._learn_whole(look)
            except RepoUnavailable:
                if not is_walked:
                    raise
                found = None
        if is_walked and not isinstance(found, tuple):
            # It served parts of this repo a moment ago: so it is not the repo that it lacks.
            return await self._walk_after_all(look, found)
        assert found is not None  # noqa: S101 (for the type)
        if isinstance(found, tuple) and not self._health.error(look.pds):
            peer.lacks(failed)  # of this repo its own host had the whole
        return found

    async def _walk(self, look: Look, few: int) -> tuple[Contents, Way]:
        """Raises NotByRange, and RepoUnavailable for what must not be believed."""
        did, pds = look.did, look.pds
        contents, way = await self._ranges.prove(
            pds, did, self._collections, look.key, look.tally, few=few
        )
        self._check_clock(contents)
        self._health.succeeded(pds)
        return contents, way

    async def _walk_after_all(self, look: Look, hosting: str | None) -> tuple[Contents, Way] | str:
        try:
            found = await self._walk(look, 0)
        except NotByRange as reason:
            if hosting is not None:
                return hosting
            raise RepoUnavailable(f"{look.pds}: {reason}") from None
        self._peers.get(look.pds).lacks(["whole"])
        return found

    async def _learn_whole(self, look: Look) -> tuple[Contents, Way] | str:
        folder, prefix = self._files.parent, self._files.name
        try:
            made = tempfile.NamedTemporaryFile(dir=folder, prefix=prefix)  # noqa: SIM115
        except OSError as error:  # no descriptor is left, or no room
            _log.error("disk.failed", file=prefix, error=error.strerror)
            raise RepoUnavailable(f"no file for it can be made: {error.strerror}") from None
        with made as file:
            if (hosting := await self._fetch(look, Path(file.name))) is not None:
                return hosting
            return await self._read(look, Path(file.name)), "whole"

    async def _fetch(self, look: Look, file: Path) -> str | None:
        """Bring the repo's CAR; return None, or the hosting of an account that is not served."""
        did, pds = look.did, look.pds
        try:
            not_served = await self.hosts.fetch(pds, did, file, look.tally)
        except DiskError as error:
            # A repo that is too large for our disk must not end the daemon.
            _log.error("disk.failed", file=str(file), error=str(error))
            raise RepoUnavailable(f"the disk: {error}") from None
        if not_served is None:
            return None
        fresh = await self.refresh(did)
        if fresh is None or fresh.pds != pds:
            # The old host of an account that has moved says so too.
            moved = fresh is not None and fresh.pds is not None
            text = f"{pds}: {not_served.error}; the account may have moved"
            raise RepoUnavailable(text, moved=moved)
        if not_served.hosting is None:
            raise RepoUnavailable(f"{pds}: HTTP {not_served.status} {not_served.error}")
        return not_served.hosting

    async def _read(self, look: Look, file: Path) -> Contents:
        """Prove the CAR, after one refresh of the identity if need be."""
        while True:
            try:
                contents = await asyncio.to_thread(
                    read_repo, file, look.did, look.key.value, self._collections
                )
            except OSError as error:
                _log.error("disk.failed", file=str(file), error=error.strerror)
                raise RepoUnavailable(f"its file can't be read: {error.strerror}") from None
            except BadRepo as error:
                if not await look.key.renew():
                    raise RepoUnavailable(str(error)) from None
                continue
            self._check_clock(contents)
            return contents

    def _check_clock(self, contents: Contents) -> None:
        if tid_time(contents.rev) > self._clock() * 1_000_000 + MAX_AHEAD:
            # It would outlive every later revision.
            raise RepoUnavailable("the copy's rev lies in the future")
