"""What a caller is told who needs a session that this service does not have: the same everywhere.

A service-auth token lets nobody write into a repo; only a log-in at the service does.
"""

from indexer.config.settings import Settings
from xrpc.errors import SessionRequiredError


def session_required(settings: Settings, reason: object) -> SessionRequiredError:
    """Return the refusal. `reason` is what is missing, and how an operator mends it."""
    who = "that is for the operator of this service to do"
    if settings.contact is not None:
        who += f": {settings.contact}"
    return SessionRequiredError(f"{reason}; {who}")


def as_item(refusal: SessionRequiredError) -> str:
    """Return the refusal as the error of one item in a list that has no names for errors."""
    return f"{refusal.error}: {refusal.message}"
