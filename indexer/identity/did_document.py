"""A DID document to what it says of its DID: signing key, PDS and handles.

Source: atproto.com/specs/did, under "DID documents".
"""

import re

from atproto_core.did_doc import DidDocument
from atproto_crypto.did import (
    format_did_key,
    get_did_key,
    parse_did_key,
)

from indexer.identity.model import Identity, IdentityError
from indexer.lexicon.syntax import is_handle

MAX_HANDLES = 32  # of one document that are kept
MAX_MULTIBASE = 256  # characters; base58 decodes in quadratic time

_ORIGIN = re.compile(r"(https?)://([A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?)/?")


def parse_document(did: str, document: object, *, allow_private: bool) -> Identity:
    """Return what this DID document says of the DID, or raise IdentityError("bad_document")."""
    try:
        parsed = DidDocument.from_dict(document)
        identity = Identity(
            did=parsed.id,
            signing_key=_signing_key(parsed),
            pds=_origin(parsed.get_pds_endpoint(), allow_private),
            handles=_handles(parsed.also_known_as or []),
        )
    except Exception as error:  # the SDK leaks KeyError, TypeError, pydantic's and more
        raise IdentityError("bad_document") from error
    if identity.did != did:
        raise IdentityError("bad_document")
    return identity


def _signing_key(document: DidDocument) -> str | None:
    for method in document.verification_method or []:
        multibase = method.public_key_multibase
        ours = method.id in {"#atproto", f"{document.id}#atproto"}
        if not ours or method.controller != document.id or not multibase:
            continue
        if len(multibase) > MAX_MULTIBASE:
            return None
        try:
            key = get_did_key(method.type, multibase)
            # There and back: what is given out is on its curve, and written in one way only.
            parsed = parse_did_key(key) if key else None
        except Exception:  # as above; a document without a usable key still names a PDS
            return None
        return format_did_key(parsed.jwt_alg, parsed.key_bytes) if parsed else None
    return None


def _origin(url: object, allow_private: bool) -> str | None:
    """Return the URL without its slash if it is scheme, host and port alone, else None."""
    match = _ORIGIN.fullmatch(url) if isinstance(url, str) else None
    if match is None or (match[1] == "http" and not allow_private):
        return None
    return f"{match[1]}://{match[2].lower()}"


def _handles(names: list[str]) -> tuple[str, ...]:
    claims = (name.removeprefix("at://").lower() for name in names if name.startswith("at://"))
    return tuple(claim for claim in claims if is_handle(claim))[:MAX_HANDLES]
