"""Events to proven changes: with the keys that the DIDs name now.

`proof` does not know where keys come from, and `identity` not what they are for.
Between them: a key is asked for when it is needed, and once more when it does not fit, since the
account may have got a new one. A batch asks for all that it needs side by side, twice at most.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from indexer.identity.model import Identity, IdentityError
from indexer.proof.verify import is_old_form, verify_commit, verify_sync
from indexer.stream.events import Commit, Rejected, Sync, VerifiedCommit, VerifiedSync

AT_ONCE = 24  # DIDs that are asked for side by side, of PLC and of did:web hosts each
# Seconds that a batch of events waits for keys of PLC: of 1,000 DIDs, all come if it answers within
# 0.1 s. And of did:web hosts: strangers run them, who are not to hold up the stream.
PATIENCE = 5.0
PATIENCE_WEB = 2.0


class Identities(Protocol):
    """What an `IdentityResolver` does, as far as it is needed here."""

    def known(self, did: str) -> Identity | None: ...

    async def resolve(self, did: str, *, refresh: bool = ...) -> Identity: ...


class Shared(Protocol):
    """Identities, of which a part can be had."""

    def share(self, size: int) -> Identities: ...


class Prover:
    """Proves commits and `#sync`s, for the collections that are `is_ours`.

    With `refuse_old_form`, commits without `prevData` are rejected; else their operations are
    checked against the tree that came.
    """

    def __init__(
        self,
        resolver: Shared,
        is_ours: Callable[[str], bool],
        *,
        refuse_old_form: bool = False,
    ) -> None:
        self._identities = resolver.share(AT_ONCE)
        self._is_ours = is_ours
        self._refuse_old_form = refuse_old_form
        # Times of the event loop; None before the first batch: as long as it takes.
        self._until: float | None = None
        self._until_web: float | None = None
        self._keys: dict[str, str | None] = {}  # of the batch: None if a DID has none

    async def learn(self, dids: Iterable[str]) -> None:
        """Begin a batch: resolve its DIDs side by side, so that `look` needs no wait.

        From here on the batch has patience. Where that ends, events whose key is not known by then
        are rejected as `no_key`, which a resync repairs; those keys count as never asked for.
        """
        now = asyncio.get_running_loop().time()
        self._until, self._until_web = now + PATIENCE, now + PATIENCE_WEB
        self._keys = {}
        unknown = []
        for did in set(dids):
            if (identity := self._identities.known(did)) is not None:
                self._keys[did] = identity.signing_key
            else:
                unknown.append(did)
        await asyncio.gather(*map(self._learn, unknown))

    def forget(self, did: str) -> None:
        """Take a DID for unknown from here on in the batch: its identity may be another."""
        self._keys.pop(did, None)

    def look(
        self, event: Commit | Sync, now: int
    ) -> VerifiedCommit | VerifiedSync | Rejected | None:
        """Prove one event by what was learnt; None if a newer key has to be had. `now` is Unix ms.

        That is for `renew`, and then for `settle`.
        """
        if isinstance(event, Commit) and self._refuse_old_form and is_old_form(event):
            return Rejected(event.seq, event.time, "old_form", event.repo, event.rev)
        did = did_of(event)
        if did not in self._keys:
            return None
        change = self.settle(event, now)
        is_doubtful = isinstance(change, Rejected) and change.reason == "bad_signature"
        return None if is_doubtful else change

    async def renew(self, dids: Iterable[str]) -> None:
        """Ask side by side for newer keys of these DIDs: each at most once in a while."""
        await asyncio.gather(*map(self._renew, set(dids)))

    def settle(self, event: Commit | Sync, now: int) -> VerifiedCommit | VerifiedSync | Rejected:
        """Prove one event by what is known by now."""
        key = self._keys.get(did_of(event))
        change = self._verify(event, key, now)
        if key is None and isinstance(change, Rejected) and change.reason == "bad_signature":
            return replace(change, reason="no_key")
        return change

    async def prove(
        self, event: Commit | Sync, now: int
    ) -> VerifiedCommit | VerifiedSync | Rejected:
        """Prove one event for itself, after one refresh of the identity if need be."""
        did = did_of(event)
        await self._learn(did)
        change = self.look(event, now)
        if change is None:
            await self._renew(did)
            change = self.settle(event, now)
        return change

    async def _learn(self, did: str) -> None:
        self._keys[did] = await self._key(did)

    async def _renew(self, did: str) -> None:
        if did not in self._keys:
            await self._learn(did)
        elif (known := self._keys[did]) is not None:
            # Without a key it was asked for just now: that is enough.
            self._keys[did] = await self._key(did, refresh=True, known=known)

    def _verify(
        self, event: Commit | Sync, key: str | None, now: int
    ) -> VerifiedCommit | VerifiedSync | Rejected:
        if isinstance(event, Commit):
            return verify_commit(event, self._is_ours, key, now)
        return verify_sync(event, key, now)

    async def _key(
        self, did: str, *, refresh: bool = False, known: str | None = None
    ) -> str | None:
        """Return a DID's key, or None if it can't be resolved or names none.

        When the batch's patience is at its end, return what is remembered, or else `known`.
        """
        if not refresh and (identity := self._identities.known(did)) is not None:
            return identity.signing_key
        until = self._until_web if did.startswith("did:web:") else self._until
        try:
            # What is remembered comes without a wait, so also when that time has passed.
            async with asyncio.timeout_at(until):
                return (await self._identities.resolve(did, refresh=refresh)).signing_key
        except TimeoutError:
            return known
        except IdentityError:
            return None


def did_of(event: Commit | Sync) -> str:
    """Return whose repo it is of, as it claims."""
    return event.repo if isinstance(event, Commit) else event.did
