"""What the text of a setting may be: each function returns the value, or raises ValueError.

A refusal names what is wrong and what would be right; it never shows a secret.
"""

import ipaddress
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from indexer.lexicon.syntax import is_did, is_nsid

KEY_BYTES = 32  # of the key that seals sessions

MAX_CONTACT = 200  # characters: a message has room for a sentence beside it

_PAGE = re.compile(r"[!-~]+")  # what is not of ASCII is written with %
_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_FRAGMENT = re.compile(r"[A-Za-z0-9_-]{1,64}")


def split_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    return frozenset(item.strip() for item in value.split(",") if item.strip())


def did(value: object) -> object:
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not is_did(value):
        raise ValueError(f"{value!r} is not a DID")
    return value


def dids(value: object) -> object:
    items = split_list(value)
    for item in items if isinstance(items, frozenset) else ():
        did(item)
    return items


def nsid(value: object) -> object:
    if not isinstance(value, str) or not is_nsid(value):
        raise ValueError(f"{value!r} is not a collection's NSID")
    return value


def nsids(value: object) -> object:
    items = split_list(value)
    if not items:
        raise ValueError("name at least one collection")
    for item in items if isinstance(items, frozenset) else ():
        nsid(item)
    return items


def _url(value: str, schemes: tuple[str, ...]) -> SplitResult:
    try:
        parts = urlsplit(value)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"{_shown(value)} is not a URL: {error}") from None
    if parts.scheme not in schemes or not parts.hostname or not port_is_fine:
        names = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"{_shown(value)} must be a URL of {names}")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{_shown(value)} must name a host only, without a path, query or user")
    return parts


def _shown(url: str) -> str:
    """Return a URL for a message, without the password that somebody put in."""
    return repr(re.sub(r"(?<=//).*@", "...@", url))


def file(value: object) -> object:
    path = Path(str(value))
    if not path.name or path.is_dir():
        raise ValueError(f"{str(value)!r} must name a file")
    return path


def journal(value: object) -> object:
    """None stands for a file beside the database."""
    if value in (None, ""):
        return None
    return value if value == "off" else str(file(value))


def web_url(value: object) -> object:
    if value in (None, ""):
        return None
    return _origin(_url(str(value), ("https", "http")))


def relay_url(value: object) -> object:
    parts = _url(str(value), ("wss", "ws", "https", "http"))
    scheme = {"https": "wss", "http": "ws"}.get(parts.scheme, parts.scheme)
    return _origin(parts._replace(scheme=scheme))


def _origin(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc.lower()}"


def contact(value: object) -> object:
    """Return a URL of a web page, or a mail address; either is shown to callers as it is."""
    if value in (None, ""):
        return None
    text = str(value).removeprefix("mailto:")
    is_url = text.startswith(("https://", "http://")) and _is_page(text)
    if len(text) > MAX_CONTACT or not (is_url or _MAIL.fullmatch(text)):
        raise ValueError(
            f"{_shown(text)} must be a URL of https:// or a mail address, "
            f"of at most {MAX_CONTACT} characters"
        )
    return text


def _is_page(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(_PAGE.fullmatch(text) and parts.hostname and parts.port != 0) and (
            parts.username is None
        )
    except ValueError:
        return False


def bind(value: object) -> object:
    host, _, port = str(value).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{value!r} must be host:port, such as 127.0.0.1:8080")
    return str(value)


def service_id(value: object) -> object:
    if not isinstance(value, str) or not _FRAGMENT.fullmatch(value):
        raise ValueError(f"{value!r} must be a DID fragment without '#', such as rescind")
    return value


def key(value: object) -> SecretStr | None:
    if value in (None, ""):
        return None
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    if not re.fullmatch(rf"[0-9a-fA-F]{{{KEY_BYTES * 2}}}", text):
        # Never echoed: it is a secret, or meant to be one.
        raise ValueError(f"must be {KEY_BYTES * 2} hex digits (openssl rand -hex {KEY_BYTES})")
    return SecretStr(text)


def metrics_bind(value: object) -> object:
    """None stands for the address of XRPC."""
    if value in (None, ""):
        return None
    return value if value == "off" else bind(value)


def networks(value: object) -> object:
    """Return addresses and networks in their usual form: `10.0.0.0/8`, `::1/128`."""
    given = split_list(value)
    found = set()
    for item in given if isinstance(given, frozenset) else ():
        try:
            found.add(str(ipaddress.ip_network(item)))
        except ValueError:
            raise ValueError(
                f"{item!r} must be an address or a network, such as 10.0.0.0/8"
            ) from None
    return frozenset(found)
