"""Events to proven changes: with the keys that the DIDs name now.

`verify` does not know where keys come from, and `identity_resolver` not what they are for.
Between them: a key is asked for when it is needed, and once more when it does not fit, since the
account may have got a new one.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from indexer.events import Commit, Rejected, Sync, VerifiedCommit, VerifiedSync
from indexer.identity import Identity, IdentityError
from indexer.verify import is_old_form, verify_commit, verify_sync

PATIENCE = 10.0  # seconds that a batch of events waits for keys that are asked for once more


class Identities(Protocol):
    """What an `IdentityResolver` does, as far as it is needed here."""

    async def resolve(self, did: str, *, refresh: bool = ...) -> Identity: ...


class Prover:
    """Proves commits and `#sync`s, for the collections that are `is_ours`.

    With `refuse_old_form`, commits without `prevData` are rejected; else their operations are
    checked against the tree that came.
    """

    def __init__(
        self,
        resolver: Identities,
        is_ours: Callable[[str], bool],
        *,
        refuse_old_form: bool = False,
    ) -> None:
        self._resolver = resolver
        self._is_ours = is_ours
        self._refuse_old_form = refuse_old_form
        self._patience = PATIENCE

    async def learn(self, dids: Iterable[str]) -> None:
        """Resolve a batch's DIDs side by side, so that its events are proven without a wait."""
        self._patience = PATIENCE
        await asyncio.gather(*(self._key(did) for did in set(dids)))

    async def prove(
        self, event: Commit | Sync, now: int
    ) -> VerifiedCommit | VerifiedSync | Rejected:
        """Prove one event, after one refresh of the identity if need be. `now` is Unix ms."""
        if isinstance(event, Commit) and self._refuse_old_form and is_old_form(event):
            return Rejected(event.seq, event.time, "old_form", event.repo, event.rev)
        did = event.repo if isinstance(event, Commit) else event.did
        key = await self._key(did)
        change = self._verify(event, key, now)
        if isinstance(change, Rejected) and change.reason == "bad_signature":
            # Without a key it was asked for just now: that is enough.
            fresh = None if key is None else await self._fresh_key(did, key)
            if fresh is None:
                return replace(change, reason="no_key")
            if fresh != key:
                return self._verify(event, fresh, now)
        return change

    def _verify(
        self, event: Commit | Sync, key: str | None, now: int
    ) -> VerifiedCommit | VerifiedSync | Rejected:
        if isinstance(event, Commit):
            return verify_commit(event, self._is_ours, key, now)
        return verify_sync(event, key, now)

    async def _fresh_key(self, did: str, key: str) -> str | None:
        """Return the key that a DID names now, or the known one while nobody has time to ask."""
        # One after the other, hosts that hang could hold up the stream for minutes. What is
        # rejected meanwhile is repaired by a resync, which asks for itself.
        if self._patience <= 0:
            return key
        started = time.monotonic()
        try:
            return await self._key(did, refresh=True)
        finally:
            self._patience -= time.monotonic() - started

    async def _key(self, did: str, *, refresh: bool = False) -> str | None:
        """Return a DID's key, or None if it can't be resolved or names none."""
        try:
            return (await self._resolver.resolve(did, refresh=refresh)).signing_key
        except IdentityError:
            return None
