"""The tokens of invites. Whoever has one may use it, so only its hash is ever kept or told."""

import base64
import hashlib
import secrets

TOKEN_BYTES = 32


def new_token() -> str:
    """Return a token that nobody can guess: base64url without padding, 43 characters."""
    return base64.urlsafe_b64encode(secrets.token_bytes(TOKEN_BYTES)).rstrip(b"=").decode()


def hash_of(token: str) -> str:
    """Return the SHA-256 of a token's text as it was given, in 64 lower-case hex digits."""
    return hashlib.sha256(token.encode()).hexdigest()
