"""The tokens of invites. Whoever has one may use it, so only its hash is ever kept or told.

The hash is public, so anybody can put it into an invite to a space of his own. That gains him
nothing: a token that is made here carries which space it is for, and leads to no other, here or
at any service that knows the mark. Of what the mark begins, nothing is ever taken for a token of
another make.
"""

import base64
import hashlib
import re
import secrets

from indexer.records import BINDING_BYTES, binding_of

MARK = "rescind1"  # nobody's random token begins so: that is one in 2^48 of those in base64
RANDOM_BYTES = 32
UNKNOWN_BINDING = ""  # of a token with the mark that is not whole: it fits no space

_DIGITS = -(-(RANDOM_BYTES + BINDING_BYTES) * 8 // 5)  # of base32
_WHOLE = re.compile(rf"{MARK}[a-z2-7]{{{_DIGITS}}}")


def new_token(space_uri: str) -> str:
    """Return a token for one space, which nobody can guess: 85 characters, a to z and 2 to 7 only.

    `space_uri` has the owner's DID as its authority. The token outlives being pasted, put into a
    URL, marked by a double click, or taken for Markdown.
    """
    data = secrets.token_bytes(RANDOM_BYTES) + bytes.fromhex(binding_of(space_uri))
    return MARK + base64.b32encode(data).decode().rstrip("=").lower()


def hash_of(token: str) -> str:
    """Return the SHA-256 of a token's text as it was given, in 64 lower-case hex digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def binding(token: str) -> str | None:
    """Return what a token carries of its space (see `binding_of`); None if it is bound to none."""
    if not token.startswith(MARK):
        return None
    if not _WHOLE.fullmatch(token):
        return UNKNOWN_BINDING
    text = token.removeprefix(MARK).upper()
    data = base64.b32decode(text + "=" * (-len(text) % 8))
    return data[RANDOM_BYTES:].hex()
