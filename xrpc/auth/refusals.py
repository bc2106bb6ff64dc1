"""Why a token does not let its sender in, and what he is told: the claim that failed, the remedy.

A sentence never has the token, its signature or a key in it, nor what a claim was: who wrote the
token knows, and nobody else should.
"""

from typing import Literal

from xrpc.errors import AuthRequiredError, RateLimitExceededError, XrpcError

Reason = Literal[
    "missing",
    "malformed",  # not a JWT, or a claim of the wrong type
    "type",  # a token of another class
    "header",  # a header that would have us trust something else than the DID document
    "expired",
    "time",  # too far ahead, or not valid yet
    "audience",
    "method",
    "issuer",  # not the bare DID of an account
    "unresolved",
    "signature",
    "replayed",
    "crowded",  # no room to remember the token, so it cannot be taken
]

# The names of the errors are those of the reference implementation where it has one.
NAMES: dict[Reason, str] = {
    "missing": "AuthMissing",
    "malformed": "BadJwt",
    "type": "BadJwtType",
    "header": "BadJwt",
    "expired": "JwtExpired",
    "time": "BadJwt",
    "audience": "BadJwtAudience",
    "method": "BadJwtLexiconMethod",
    "issuer": "BadJwtIss",
    "unresolved": "BadJwtIss",
    "signature": "BadJwtSignature",
    "replayed": "JwtReplayed",
    "crowded": "RateLimitExceeded",
}
# RFC 6750, section 3: no error where there was no token.
_CHALLENGE = {"www-authenticate": 'Bearer realm="atproto", error="invalid_token"'}


class Refused(Exception):
    """A token does not let its sender in. `why` names the claim; `wait` is in seconds, or None."""

    def __init__(self, reason: Reason, why: str, wait: int | None = None) -> None:
        super().__init__(why)
        self.reason: Reason = reason
        self.why = why
        self.wait = wait


def used_before() -> AuthRequiredError:
    """Return what is told when only the database knew that a procedure took this token."""
    error = AuthRequiredError(
        "jti: this token was used, and a procedure takes each once; ask your PDS for a new one",
        NAMES["replayed"],
    )
    error.headers = _CHALLENGE
    return error


def answer(refused: Refused, audience: str, method_nsid: str) -> XrpcError:
    """Return what the caller is told, for this service and the method that was called."""
    if refused.wait is not None:
        return RateLimitExceededError(
            f"{refused.why}, or try again in {refused.wait} s", {"retry-after": str(refused.wait)}
        )
    # A token from there is right in all its claims, so this is the remedy for each of them.
    remedy = (
        "try again later"
        if refused.reason == "unresolved"
        else "com.atproto.server.getServiceAuth of your PDS gives the right token, "
        f"with aud={audience} and lxm={method_nsid}"
    )
    error = AuthRequiredError(f"{refused.why}; {remedy}", NAMES[refused.reason])
    if refused.reason != "missing":
        error.headers = _CHALLENGE
    return error
