"""The key that a repo's DID names, asked for anew at most once while the repo is looked at."""

from collections.abc import Awaitable, Callable

from indexer.identity.model import Identity

Refresh = Callable[[], Awaitable[Identity | None]]  # None if the DID can't be resolved


class OwnerKey:
    """A did:key, or None if the DID names none: what is said of a repo is proven with it."""

    def __init__(self, value: str | None, refresh: Refresh) -> None:
        self.value = value
        self._refresh = refresh
        self._is_fresh = False

    async def renew(self) -> bool:
        """What was to be proven was not: return whether there is another key than before."""
        if self._is_fresh:
            return False
        self._is_fresh = True
        fresh = await self._refresh()
        if fresh is None or fresh.signing_key == self.value:
            return False
        self.value = fresh.signing_key
        return True
