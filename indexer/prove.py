"""Events to proven changes: with the keys that the DIDs name now.

`verify` does not know where keys come from, and `identity` not what they are for. Between them:
a key is asked for when it is needed, and once more when it does not fit, since the account may
have got a new one.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from indexer.events import Commit, Rejected, Sync, VerifiedCommit, VerifiedSync
from indexer.identity import Identity, IdentityError
from indexer.verify import is_old_form, verify_commit, verify_sync


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

    async def learn(self, dids: Iterable[str]) -> None:
        """Resolve DIDs side by side, so that their events are then proven without a wait."""
        await asyncio.gather(*(self._key(did) for did in set(dids)))

    async def prove(
        self, event: Commit | Sync, now: int
    ) -> VerifiedCommit | VerifiedSync | Rejected:
        """Prove one event, after one refresh of the identity if need be. `now` is Unix ms."""
        if isinstance(event, Commit) and self._refuse_old_form and is_old_form(event):
            return Rejected(event.seq, event.time, "old_form", event.repo, event.rev)
        did = event.repo if isinstance(event, Commit) else event.did
        key, is_known = await self._key(did)
        change = self._verify(event, key, now)
        if isinstance(change, Rejected) and change.reason == "bad_signature":
            fresh, is_known = await self._key(did, refresh=True)
            if fresh != key:
                change = self._verify(event, fresh, now)
            if isinstance(change, Rejected) and not is_known:
                change = replace(change, reason="no_key")
        return change

    def _verify(
        self, event: Commit | Sync, key: str | None, now: int
    ) -> VerifiedCommit | VerifiedSync | Rejected:
        if isinstance(event, Commit):
            return verify_commit(event, self._is_ours, key, now)
        return verify_sync(event, key, now)

    async def _key(self, did: str, *, refresh: bool = False) -> tuple[str | None, bool]:
        """Return a DID's key, and whether the DID could be resolved."""
        try:
            return (await self._resolver.resolve(did, refresh=refresh)).signing_key, True
        except IdentityError:
            return None, False
