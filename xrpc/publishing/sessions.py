"""The accounts whose repos we may write to: their tokens, sealed at rest, refreshed in turn."""

import asyncio
import base64
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from weakref import WeakValueDictionary

from cryptography.fernet import Fernet, InvalidToken

from indexer import log
from indexer.config.settings import Settings
from indexer.config.values import KEY_BYTES
from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.store import audit, outbox, sessions
from indexer.store.db import Database, Reader
from xrpc.publishing.pds import PdsClient, PdsError, PdsRefusedError, Tokens

KEEP_ALIVE = 14 * 86_400.0  # seconds; a refresh token that is never used ends after 90 days
KEEP_ALIVE_EVERY = 3_600.0  # seconds
FINISH_WITHIN = 5.0  # seconds that a refresh under way may hold up the end of the daemon

_log = log.get("sessions")


class NoSessionError(Exception):
    """Nothing can be written to this repo until a person logs in; the text says why."""


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


class Vault:
    """Seals tokens with a key that lies outside of the database."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    @classmethod
    def open(cls, settings: Settings) -> "Vault":
        """Use the key of the settings, or that of a file beside the database, made if missing."""
        if settings.secret_key is not None:
            return cls(bytes.fromhex(settings.secret_key.get_secret_value()))
        return cls(_key_from(settings.key_file))

    def seal(self, tokens: Tokens) -> bytes:
        return self._fernet.encrypt(json.dumps([tokens.access, tokens.refresh]).encode())

    def unseal(self, sealed: bytes) -> tuple[str, str]:
        """Return the access and the refresh token; raise `NoSessionError` for another key's."""
        try:
            access, refresh = json.loads(self._fernet.decrypt(sealed))
        except InvalidToken:
            raise NoSessionError(
                "the stored session was sealed with another key: restore RESCIND_SECRET_KEY "
                "(or the key file beside the database), or run `rescind login` again"
            ) from None
        return access, refresh


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
        except PdsRefusedError as refused:
            reason = (
                f"{session.did} has moved to {pds}, where its session is not taken"
                if pds != session.pds
                else f"the PDS refuses the session ({refused.error}): app password withdrawn?"
            )
            reason += f"; run `rescind login {session.did}`"
            async with self._db.transaction() as tx:
                is_ours = await sessions.refuse(tx, session.did, session.sealed, reason)
            if not is_ours and await self.exists(session.did):
                return await self.get(session.did)  # `rescind login` was quicker
            _log.warning("session.refused", did=session.did, pds=pds, error=refused.error)
            raise NoSessionError(reason) from refused
        sealed = self._vault.seal(tokens)
        now = int(self._clock() * 1000)
        async with self._db.transaction() as tx:
            await sessions.refresh(tx, session.did, pds, session.sealed, sealed, now)
        return await self.get(session.did)

    async def keep_alive(self, resolver: IdentityResolver) -> None:
        """Refresh, for ever, the sessions that are about to end because nothing was published."""
        while True:
            before = int((self._clock() - KEEP_ALIVE) * 1000)
            for did in await sessions.unused_since(self._db, before):
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
            raise NoSessionError(f"the DID document of {did} names no PDS")
        tokens = await self._pds.create_session(identity.pds, did, password)
        if tokens.did != did:
            raise NoSessionError(f"{identity.pds} gave a session of another account ({tokens.did})")
        now = int(self._clock() * 1000)
        async with self._db.transaction() as tx:
            await sessions.save(tx, did, tokens.handle, identity.pds, self._vault.seal(tokens), now)
            await outbox.unblock_repo(tx, did, now)
            await audit.write(tx, "operator", "login", [did], None, now)
        return tokens

    async def log_out(self, did: str) -> bool:
        """Forget a session, here and, if it can be reached, at its PDS; False if there is none."""
        if not await self.exists(did):
            return False
        try:
            session = await self.get(did)
            await self._pds.delete_session(session.pds, session.refresh)
        except (NoSessionError, PdsError) as error:
            # It is forgotten here all the same; unused, it runs out there.
            _log.info("session.left_at_pds", did=did, error=str(error))
        now = int(self._clock() * 1000)
        async with self._db.transaction() as tx:
            known = await sessions.delete(tx, did)
            if known:
                await audit.write(tx, "operator", "logout", [did], None, now)
        return known


def _key_from(path: Path) -> bytes:
    """Read the key file, or make it for its owner's eyes only."""
    try:
        if not path.exists():
            _make_key(path)
        text = path.read_bytes().strip()
    except OSError as error:
        raise NoSessionError(f"the key file {path} can't be used: {error.strerror}") from None
    if not re.fullmatch(rb"[0-9a-fA-F]{%d}" % (KEY_BYTES * 2), text):
        raise NoSessionError(f"the key file {path} does not hold {KEY_BYTES * 2} hex digits")
    return bytes.fromhex(text.decode())


def _make_key(path: Path) -> None:
    # Whole before it has its name: another process may look for it now, or the power may fail.
    with NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.") as file:  # has mode 0600
        file.write(os.urandom(KEY_BYTES).hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, path)
        except FileExistsError:
            return  # another process was first, and its key counts
    _log.info("key.made", file=str(path))
