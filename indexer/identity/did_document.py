"""A DID document to what it says of its DID: signing key, PDS and handles.

Source: atproto.com/specs/did, under "DID documents".
"""

import re
from ipaddress import IPv6Address

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

MAX_SHOWN = 100  # characters of an endpoint that can't be used

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)(?:[/?#][!-~]*)?")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253})(?::([0-9]{0,5}))?")
_DEFAULT_PORTS = {"https": 443, "http": 80}
_PDS, _PDS_TYPE = "#atproto_pds", "AtprotoPersonalDataServer"


class _BadEndpoint(Exception):
    """What a serviceEndpoint is, if it is not where a PDS can be called."""


def parse_document(did: str, document: object, *, allow_private: bool) -> Identity:
    """Return what this DID document says of the DID, or raise IdentityError("bad_document")."""
    try:
        parsed = DidDocument.from_dict(document)
        pds, fault = _pds(parsed, allow_private)
        identity = Identity(
            did=parsed.id,
            signing_key=_signing_key(parsed),
            pds=pds,
            handles=_handles(parsed.also_known_as or []),
            pds_fault=fault,
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


def _pds(document: DidDocument, allow_private: bool) -> tuple[str | None, str | None]:
    """Return the origin of the PDS, or None and what stands there in its place, if anything."""
    for service in document.service or []:
        if service.id in {_PDS, document.id + _PDS} and service.type == _PDS_TYPE:
            try:
                return _origin(service.service_endpoint, allow_private), None
            except _BadEndpoint as bad:
                return None, str(bad)
    return None, None


def _origin(endpoint: object, allow_private: bool) -> str:
    """Return scheme, host and port of the endpoint, in one form; raise _BadEndpoint without them.

    XRPC is served at the root of a host, whatever path or query the document may add to it: there
    is one place that such an endpoint can mean, and it is where other software calls too.
    """
    if not isinstance(endpoint, str):
        raise _BadEndpoint("its serviceEndpoint is no URL")
    url = _URL.fullmatch(endpoint)
    shown = repr(endpoint[:MAX_SHOWN])
    if url is None:
        raise _BadEndpoint(f"{shown} is no URL")
    scheme = url[1].lower()
    if "@" in url[2]:  # not shown: it may be a password
        raise _BadEndpoint("its URL has a user name in it")
    if scheme not in ("https", "http"):
        raise _BadEndpoint(f"{shown} is no https URL")
    if scheme == "http" and not allow_private:
        raise _BadEndpoint(f"{shown} is plain http, which is for development alone")
    authority = _AUTHORITY.fullmatch(url[2])
    host, port = (authority[1].lower(), authority[2]) if authority else ("", None)
    try:
        host = f"[{IPv6Address(host[1:-1])}]" if host.startswith("[") else host
    except ValueError:
        host = ""
    number = int(port or _DEFAULT_PORTS[scheme])
    if not host.strip(".-") or not 0 < number < 65_536:
        raise _BadEndpoint(f"{shown} has no host and port that can be")
    return f"{scheme}://{host}" + ("" if number == _DEFAULT_PORTS[scheme] else f":{number}")


def _handles(names: list[str]) -> tuple[str, ...]:
    claims = (name.removeprefix("at://").lower() for name in names if name.startswith("at://"))
    return tuple(claim for claim in claims if is_handle(claim))[:MAX_HANDLES]
