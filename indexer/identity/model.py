"""What a DID stands for, or why it stands for nothing: values."""

from dataclasses import dataclass
from typing import Literal

Reason = Literal[
    "invalid_did",
    "invalid_handle",  # not a handle, or of a domain that is not on the Internet
    "unsupported_method",  # neither did:plc nor did:web
    "not_found",
    "bad_document",  # not a DID document, or of another DID
    "unreachable",  # may be answered later
    "handle_mismatch",  # the DID's document does not claim the handle
]


class IdentityError(Exception):
    """A DID or handle that stands for nothing usable now, with a `reason` from a closed set."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """What the document of a DID says.

    `signing_key` is a usable did:key, compressed; None where the document has none.
    `pds` is an origin such as `https://pds.example`; None where there is none that we may call.
    `pds_fault` says then what the document names in its place; None where it names nothing.
    `handles` are claims in lower case, in the document's order, not verified from their side.
    """

    did: str
    signing_key: str | None
    pds: str | None
    handles: tuple[str, ...]
    pds_fault: str | None = None

    @property
    def without_pds(self) -> str:
        """Why there is no PDS to call, in words for logs and people."""
        if self.pds_fault is None:
            return "the DID document names no PDS"
        return f"the DID document names a PDS that can't be used: {self.pds_fault}"
