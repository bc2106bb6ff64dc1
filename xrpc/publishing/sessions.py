"""The accounts whose repos we may write to: their tokens, sealed at rest, refreshed in turn."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from indexer import log
from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.store import audit, outbox, pause, resyncs, sessions
from indexer.store.db import Database, Reader
from xrpc.publishing.keys import NoSessionError
from xrpc.publishing.pds import (
    AccountInactiveError,
    PdsClient,
    PdsError,
    PdsRefusedError,
    TokenRefusedError,
    Tokens,
)
from xrpc.publishing.vault import Vault

__all__ = ["NoSessionError", "Session", "Sessions", "Vault"]

KEEP_ALIVE = 14 * 86_400.0  # seconds; a refresh token that is never used ends after 90 days
KEEP_ALIVE_EVERY = 3_600.0  # seconds
FINISH_WITHIN = 5.0  # seconds that a refresh under way may hold up the end of the daemon

_log = log.get("sessions")


@dataclass(frozen=True, slots=True)
class Session:
    """The tokens of one account, as they are stored now."""

    did: str
    pds: str  # the host that issued them
    access: str
    refresh: str
    sealed: bytes  # the stored form, to tell these tokens from newer ones

    def __repr__(self) -> str:  # tokens have no place in a traceback
        return f"Session(did={self.did!r}, pds={self.pds!r})"


class Sessions:
    """The stored sessions. Every method may be called from many tasks at once."""

    def __init__(
        self,
        db: Database,
        vault: Vault,
        pds: PdsClient,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._vault = vault
        self._pds = pds
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get(self, did: str) -> Session:
        """Return the session of an account; raise `NoSessionError` if there is none to use."""
        return await self._get(self._db, did)

    async def is_usable(self, db: Reader, did: str) -> bool:
        """Whether `get` would return a session, by what is stored or a transaction is to store."""
        try:
            await self._get(db, did)
        except NoSessionError:
            return False
        return True

    async def _get(self, db: Reader, did: str) -> Session:
        stored = await sessions.load(db, did)
        if stored is None:
            raise NoSessionError(f"no session for {did}: run `rescind login {did}`")
        if stored.refused is not None:
            raise NoSessionError(stored.refused)
        access, refresh = self._vault.unseal(stored.sealed)
        return Session(did, stored.pds, access, refresh, stored.sealed)

    async def did_of(self, name: str) -> str | None:
        """Return the DID that a name stands for: itself, or the handle of a session here."""
        if name.startswith("did:"):
            return name
        stored = await sessions.listing(self._db)
        return next((row.did for row in stored if row.handle == name.lower()), None)

    async def exists(self, did: str) -> bool:
        return await sessions.load(self._db, did) is not None

    async def renew(self, session: Session, pds: str) -> Session:
        """Return a session with new tokens from `pds`, the host that serves the repo now.

        Raises `NoSessionError` when a person is needed, else what `PdsClient` raises.
        """
        # A refresh token is used up by its use: two refreshes at once would lose the session.
        turn = self._turns.setdefault(session.did, asyncio.Lock())
        async with turn:
            current = await self.get(session.did)
            if current.sealed != session.sealed:
                return current  # another task, or `rescind login`, was first
            # Once the PDS has answered, the old tokens are worthless: no cancellation may come
            # between its answer and our disk, and nothing may be closed before that.
            exchange = asyncio.ensure_future(self._exchange(current, pds))
            try:
                return await asyncio.shield(exchange)
            except asyncio.CancelledError:
                await asyncio.wait([exchange], timeout=FINISH_WITHIN)
                raise

    async def _exchange(self, session: Session, pds: str) -> Session:
        try:
            tokens = await self._pds.refresh_session(pds, session.refresh)
        except AccountInactiveError:
            raise  # the session is as good as before once the account is back
        except PdsRefusedError as refused:
            reason = (
                f"{session.did} has moved to {pds}, where its session is not taken"
                if pds != session.pds
                else f"the PDS refuses the session ({refused.error}): app password withdrawn?"
            )
            return await self._refused(session, pds, refused, reason)
        sealed = self._vault.seal(tokens)
        now = int(self._clock() * 1000)
        async with self._db.transaction() as tx:
            await sessions.refresh(tx, session.did, pds, session.sealed, sealed, now)
        return await self.get(session.did)

    async def give_up(self, session: Session, pds: str, refused: TokenRefusedError) -> Session:
        """Note that `pds` refuses a token that it has just given: only a person helps.

        Raises `NoSessionError`, or returns the newer session if `rescind login` was quicker.
        """
        reason = f"the PDS refuses also the token that it has just renewed ({refused.error})"
        return await self._refused(session, pds, refused, reason)

    async def _refused(
        self, session: Session, pds: str, refused: PdsRefusedError, reason: str
    ) -> Session:
        reason += f"; run `rescind login {session.did}`"
        async with self._db.transaction() as tx:
            is_ours = await sessions.refuse(tx, session.did, session.sealed, reason)
        if not is_ours and await self.exists(session.did):
            return await self.get(session.did)  # `rescind login` was quicker
        _log.warning("session.refused", did=session.did, pds=pds, error=refused.error)
        raise NoSessionError(reason) from refused

    async def keep_alive(self, resolver: IdentityResolver) -> None:
        """Refresh, for ever, the sessions that are about to end because nothing was published."""
        while True:
            before = int((self._clock() - KEEP_ALIVE) * 1000)
            # A copy that refreshed them would end those of the index that it was copied from.
            is_paused = await pause.load(self._db) is not None
            for did in [] if is_paused else await sessions.unused_since(self._db, before):
                try:
                    session = await self.get(did)
                    pds = (await resolver.resolve(did)).pds
                    if pds is not None:
                        await self.renew(session, pds)
                except (NoSessionError, PdsError, IdentityError) as error:
                    _log.warning("session.not_refreshed", did=did, error=str(error))
            await asyncio.sleep(KEEP_ALIVE_EVERY)

    async def log_in(self, resolver: IdentityResolver, name: str, password: str) -> Tokens:
        """Log in at the account's own PDS, store the session, take up what waited for it.

        `name` is a DID or a handle. Raises `IdentityError`, `PdsError`, or `NoSessionError`.
        """
        did = name if name.startswith("did:") else await resolver.resolve_handle(name)
        identity = await resolver.resolve(did, refresh=True)
        if identity.pds is None:
            raise NoSessionError(f"{did}: {identity.without_pds}")
        tokens = await self._pds.create_session(identity.pds, did, password)
        if tokens.did != did:
            raise NoSessionError(f"{identity.pds} gave a session of another account ({tokens.did})")
        now = int(self._clock() * 1000)
        async with self._db.transaction() as tx:
            await sessions.save(tx, did, tokens.handle, identity.pds, self._vault.seal(tokens), now)
            await outbox.unblock_repo(tx, did, now)
            await outbox.hasten(tx, [did], now)
            await resyncs.hasten(tx, [did], now)
            await audit.write(tx, "operator", "login", [did], None, now)
        return tokens

    async def log_out(self, did: str) -> "LoggedOut | None":
        """Forget a session, here and, if it can be told, at its PDS; None if there is none."""
        if not await self.exists(did):
            return None
        left: str | None = None
        try:
            session = await self.get(did)
            await self._pds.delete_session(session.pds, session.refresh)
        except (NoSessionError, PdsError) as error:
            # It is forgotten here all the same; unused, it runs out there.
            left = str(error)
            _log.info("session.left_at_pds", did=did, error=str(error))
        now = int(self._clock() * 1000)
        async with self._db.transaction() as tx:
            known = await sessions.delete(tx, did)
            if known:
                await audit.write(tx, "operator", "logout", [did], None, now)
        return LoggedOut(left) if known else None


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """A session that is forgotten here; `left` says why its PDS was not told, None if it was."""

    left: str | None
