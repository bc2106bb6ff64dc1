"""What people may do in a space, as the published documents say it: `read` or `write`.

A record says it by the kind of an invite, which tells more; so the kind decides.
"""

from collections.abc import Mapping
from typing import Any

from xrpc.errors import InvalidRequestError

_OF_KIND = {"join": "write", "read": "read", "read-join": "write"}
_KIND_OF = {"write": "join", "read": "read"}


def perms_of_kind(kind: str) -> str:
    """Return what an invite of this kind gives."""
    return _OF_KIND[kind]


def asked_perms(asked: str) -> str:
    """Return the perms that a caller names; InvalidRequest if they are none."""
    if asked not in _KIND_OF:
        raise InvalidRequestError("perms must be read or write")
    return asked


def asked_kind(wanted: Mapping[str, Any]) -> str:
    """Return the kind of invite that `kind`, `perms` or both ask for; `join` if neither is there.

    Raises InvalidRequest for what is none, and for two that contradict each other.
    """
    kind, perms = wanted.get("kind"), wanted.get("perms")
    if perms is not None:
        asked_perms(perms)
    if kind is None:
        return _KIND_OF[perms or "write"]
    if kind not in _OF_KIND:
        raise InvalidRequestError(f"kind must be one of {', '.join(_OF_KIND)}")
    if perms not in (None, _OF_KIND[kind]):
        raise InvalidRequestError(
            f"perms contradicts kind: an invite of the kind {kind} gives {_OF_KIND[kind]}; "
            "leave one of the two out"
        )
    return str(kind)
