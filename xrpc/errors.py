"""What a caller did wrong, as XRPC says it: a status, a name from the lexicon, a sentence.

Source: atproto.com/specs/xrpc, "Error Responses".
"""

from collections.abc import Mapping
from typing import ClassVar

RETRY_AFTER = 1  # seconds until there is room again, most likely


class XrpcError(Exception):
    """An answer other than 200. `message` is for the caller's eyes: no secret, no internals.

    `error` is the name that clients branch on; a method may give the one that its lexicon declares.
    """

    status: ClassVar[int] = 500
    error: str = "InternalServerError"
    headers: Mapping[str, str] | None = None

    def __init__(self, message: str, error: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if error is not None:
            self.error = error


class InvalidRequestError(XrpcError):
    """The input does not fit the method's lexicon, or cannot be what the caller meant."""

    status = 400
    error = "InvalidRequest"


class InvalidInviteError(XrpcError):
    """The token lets nobody in."""

    status = 400
    error = "InvalidInvite"


class SessionRequiredError(XrpcError):
    """What the caller wants takes a session for a repo, and this service has none that works."""

    status = 400
    error = "SessionRequired"


class AuthRequiredError(XrpcError):
    """Nobody is proven to be calling; `error` usually names why."""

    status = 401
    error = "AuthenticationRequired"
    headers = {"www-authenticate": 'Bearer realm="atproto"'}  # noqa: RUF012 (a Mapping, as above)


class ForbiddenError(XrpcError):
    """The caller is known, and may not do this."""

    status = 403
    error = "Forbidden"


class NotFoundError(XrpcError):
    """What the caller names is not here."""

    status = 404
    error = "NotFound"


class AlreadyExistsError(XrpcError):
    """What the caller wants to make is there."""

    status = 400
    error = "AlreadyExists"


class MethodNotAllowedError(XrpcError):
    """A query was called with POST, or a procedure with GET."""

    status = 405
    error = "MethodNotAllowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.headers = {"allow": allow}  # RFC 9110, section 15.5.6


class PayloadTooLargeError(XrpcError):
    """The body is over the limit."""

    status = 413
    error = "PayloadTooLarge"


class UnsupportedMediaTypeError(XrpcError):
    """The body is in a form that is not read here; `headers` say which ones are."""

    status = 415
    error = "UnsupportedMediaType"

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class RateLimitExceededError(XrpcError):
    """Too many calls; `headers` say when there may be more, and the message says it too."""

    status = 429
    error = "RateLimitExceeded"

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class HeadTooLargeError(XrpcError):
    """The request's line and headers are over the limit."""

    status = 431
    error = "RequestHeaderFieldsTooLarge"


class InternalServerError(XrpcError):
    """Our fault; what went wrong is in our log, not in the answer."""


class NotEnoughResourcesError(XrpcError):
    """More calls are under way than this service takes on."""

    status = 503
    error = "NotEnoughResources"

    def __init__(self, message: str) -> None:
        # In words too: of an error, a PDS that proxies the call passes on nothing else.
        super().__init__(f"{message}; try again in {RETRY_AFTER} s")
        self.headers = {"retry-after": str(RETRY_AFTER)}


class UpstreamFailureError(XrpcError):
    """Another host, such as the caller's PDS, did not do what the call takes."""

    status = 502
    error = "UpstreamFailure"


class UpstreamTimeoutError(XrpcError):
    """The call took longer than calls may, which is most likely due to another host."""

    status = 504
    error = "UpstreamTimeout"


class MethodNotImplementedError(XrpcError):
    """No such method on this service."""

    status = 501
    error = "MethodNotImplemented"
