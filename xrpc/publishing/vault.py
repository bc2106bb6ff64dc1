"""Tokens sealed at rest, with a key that lies outside of the database."""

import base64
import json

from cryptography.fernet import Fernet, InvalidToken

from indexer import log
from indexer.config.settings import Settings
from indexer.store import sessions
from indexer.store.db import Reader, Transaction
from xrpc.publishing import keys
from xrpc.publishing.keys import KeyFileError, NoSessionError
from xrpc.publishing.pds import Tokens

SHOWN = 5  # accounts that a message names

_log = log.get("sessions")


class Vault:
    """Seals and unseals, with one key."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    @classmethod
    def open(cls, settings: Settings) -> "Vault":
        """Use the key of the settings, or that of a file beside the database, made if missing.

        Raises `KeyFileError`.
        """
        return cls(keys.load(settings) or keys.make(settings.key_file))

    @classmethod
    async def fitting(cls, settings: Settings, db: Reader) -> "Vault":
        """Open, and see that every stored session can be unsealed: else `KeyFileError`.

        Never makes a new key beside sessions that are sealed with another one.
        """
        stored = await sessions.listing(db)
        if not stored:
            return cls.open(settings)
        key = keys.load(settings)
        vault = cls(key) if key is not None else None
        strange = [s.did for s in stored if vault is None or not vault.opens(s.sealed)]
        if not strange and vault is not None:
            return vault
        if (finished := _finish_rotation(settings, [s.sealed for s in stored])) is not None:
            return finished
        shown = ", ".join(strange[:SHOWN]) + (", ..." if len(strange) > SHOWN else "")
        what = (
            f"{keys.name(settings)} is missing, and"
            if vault is None
            else f"{keys.name(settings)} does not fit:"
        )
        raise KeyFileError(
            f"{what} {len(strange)} of {len(stored)} stored sessions are sealed with another key "
            f"({shown}). Put back the key that they were sealed with, or, if it is lost, run "
            "`rescind logout DID` for each, and `rescind login DID` again."
        )

    def opens(self, sealed: bytes) -> bool:
        try:
            self._fernet.decrypt(sealed)
        except InvalidToken:
            return False
        return True

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

    async def reseal_all(self, tx: Transaction, other: "Vault") -> int:
        """Seal every session with another vault's key; return how many there are."""
        stored = await sessions.listing(tx)
        for session in stored:
            plain = self._fernet.decrypt(session.sealed)
            sealed = other._fernet.encrypt(plain)
            await sessions.reseal(tx, session.did, session.sealed, sealed)
        return len(stored)


def _finish_rotation(settings: Settings, sealed: list[bytes]) -> Vault | None:
    """Return the vault of a new key if a rotation has sealed all with it, and was killed then."""
    path = keys.next_file(settings)
    key = keys.read(path) if settings.secret_key is None else None
    if key is None or not all(Vault(key).opens(each) for each in sealed):
        return None
    path.replace(settings.key_file)
    _log.warning("key.rotation_finished", file=str(settings.key_file))
    return Vault(key)
