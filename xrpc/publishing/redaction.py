"""What a PDS says, without the secrets that it may repeat. Pure.

Some hosts quote in an error what they were sent. Their words go to callers, to logs, to terminals
and into the outbox, and none of these is a place for a token or a password.
"""

import re
from collections.abc import Collection

HIDDEN = "[hidden]"
MAX_LOOKED_AT = 16_384  # characters, of which some hundred are shown

_PART = 8  # characters of a secret, from which on it is told as a part of it
_WHOLE = 4  # characters; a shorter secret is in too many words
_JWT_PART = 16  # characters that each part of a token has at least

# Runs of what tokens are made of, each looked at once: a host may send megabytes.
_RUN = re.compile(r"[\w.-]{8,}")


def scrub(text: str, secrets: Collection[str]) -> str:
    """Return a text without these secrets, the longer parts of them, and what looks like a JWT."""
    for secret in secrets:
        if len(secret) >= _WHOLE:
            text = text.replace(secret, HIDDEN)
    lowered = [secret.lower() for secret in secrets]

    def hide(run: re.Match[str]) -> str:
        parts = [part for part in run[0].split(".") if len(part) >= _PART]
        return HIDDEN if _looks_like_jwt(parts) or _is_known(parts, lowered) else run[0]

    return _RUN.sub(hide, text[:MAX_LOOKED_AT])


def repeats(name: str, secrets: Collection[str]) -> bool:
    """Whether a name, such as a handle, has one of these secrets in it."""
    return any(len(secret) >= _WHOLE and secret.lower() in name.lower() for secret in secrets)


def _looks_like_jwt(parts: Collection[str]) -> bool:
    # Every header and every payload of a JWT begins with `{"`, which base64 writes as `eyJ`.
    return (
        any(part.startswith("eyJ") for part in parts)
        or sum(len(part) >= _JWT_PART for part in parts) >= 3
    )


def _is_known(parts: Collection[str], secrets: Collection[str]) -> bool:
    return any(part.lower() in secret for part in parts for secret in secrets)
