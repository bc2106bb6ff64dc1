"""The settings: from flags, `RESCIND_…` variables and a `.env` file, checked at the start."""

import re
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, quote, urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from indexer.log import Format, Level
from indexer.syntax import is_did, is_nsid

PREFIX = "RESCIND_"
KEY_BYTES = 32  # of the key that seals sessions

_LOOPBACK = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")  # noqa: S104
_FRAGMENT = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ConfigError(Exception):
    """Settings that can't be used: a line for each, with its name."""


def _split_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    return frozenset(item.strip() for item in value.split(",") if item.strip())


def _did(value: object) -> object:
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not is_did(value):
        raise ValueError(f"{value!r} is not a DID")
    return value


def _dids(value: object) -> object:
    dids = _split_list(value)
    for did in dids if isinstance(dids, frozenset) else ():
        _did(did)
    return dids


def _nsid(value: object) -> object:
    if not isinstance(value, str) or not is_nsid(value):
        raise ValueError(f"{value!r} is not a collection's NSID")
    return value


def _nsids(value: object) -> object:
    nsids = _split_list(value)
    if not nsids:
        raise ValueError("name at least one collection")
    for nsid in nsids if isinstance(nsids, frozenset) else ():
        _nsid(nsid)
    return nsids


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


def _file(value: object) -> object:
    path = Path(str(value))
    if not path.name or path.is_dir():
        raise ValueError(f"{str(value)!r} must name a file")
    return path


def _web_url(value: object) -> object:
    if value in (None, ""):
        return None
    return _origin(_url(str(value), ("https", "http")))


def _relay_url(value: object) -> object:
    parts = _url(str(value), ("wss", "ws", "https", "http"))
    scheme = {"https": "wss", "http": "ws"}.get(parts.scheme, parts.scheme)
    return _origin(parts._replace(scheme=scheme))


def _origin(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _bind(value: object) -> object:
    host, _, port = str(value).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{value!r} must be host:port, such as 127.0.0.1:8080")
    return str(value)


def _service_id(value: object) -> object:
    if not isinstance(value, str) or not _FRAGMENT.fullmatch(value):
        raise ValueError(f"{value!r} must be a DID fragment without '#', such as rescind")
    return value


def _key(value: object) -> object:
    if value in (None, ""):
        return None
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    if not re.fullmatch(rf"[0-9a-fA-F]{{{KEY_BYTES * 2}}}", text):
        # Never echoed: it is a secret, or meant to be one.
        raise ValueError(f"must be {KEY_BYTES * 2} hex digits (openssl rand -hex {KEY_BYTES})")
    return SecretStr(text)


class Settings(BaseSettings):
    """Every setting, by its name without the prefix. The README has the table."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, validate_default=True
    )

    db: Annotated[Path, BeforeValidator(_file)] = Field(
        Path("rescind.db"), description="the SQLite file"
    )
    relay: Annotated[str, BeforeValidator(_relay_url)] = Field(
        "wss://relay1.us-east.bsky.network",
        description="host whose firehose is read; a PDS will do; ws:// is for development",
    )
    plc: Annotated[str, BeforeValidator(_web_url)] = Field(
        "https://plc.directory", description="the PLC directory"
    )
    bind: Annotated[str, BeforeValidator(_bind)] = Field(
        "127.0.0.1:8080", description="host:port where XRPC is served"
    )
    public_url: Annotated[str | None, BeforeValidator(_web_url)] = Field(
        None, description="URL that others reach us at; gives the did:web (default: from --bind)"
    )
    service_id: Annotated[str, BeforeValidator(_service_id)] = Field(
        "rescind", description="fragment of our service entry: did:web:...#rescind"
    )
    space_collections: Annotated[frozenset[str], NoDecode, BeforeValidator(_nsids)] = Field(
        frozenset(("rsvp.atmo.space",)), description="the space types to index, comma-separated"
    )
    invite_collection: Annotated[str, BeforeValidator(_nsid)] = Field(
        "rsvp.atmo.space.invite", description="collection of the invites"
    )
    verification_collection: Annotated[str, BeforeValidator(_nsid)] = Field(
        "app.bsky.graph.verification", description="collection of the verifications"
    )
    operators: Annotated[frozenset[str], NoDecode, BeforeValidator(_dids)] = Field(
        frozenset(),
        description="DIDs that may act for the accounts that we hold sessions for, comma-separated",
    )
    verifier: Annotated[str | None, BeforeValidator(_did)] = Field(
        None, description="DID of the account that grants and revokes verifications for operators"
    )
    secret_key: Annotated[SecretStr | None, BeforeValidator(_key)] = Field(
        None, description="64 hex digits that seal sessions (default: a file beside the database)"
    )
    handle_resolver: Annotated[str | None, BeforeValidator(_web_url)] = Field(
        None, description="PDS or AppView that is asked for handles, in place of DNS"
    )
    allow_private_hosts: bool = Field(
        False, description="for a local network: loopback and private addresses, plain http"
    )
    refuse_old_form: bool = Field(
        False, description="reject commits of hosts that do not send prevData (sync 1.1)"
    )
    log_level: Level = Field("info", description="debug, info, warning or error")
    log_format: Format | None = Field(None, description="pretty or json (default: by terminal)")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        named = [*self.space_collections, self.invite_collection, self.verification_collection]
        if len(set(named)) != len(named):
            raise ValueError(
                f"{PREFIX}SPACE_COLLECTIONS, {PREFIX}INVITE_COLLECTION and "
                f"{PREFIX}VERIFICATION_COLLECTION must name different collections"
            )
        if not self.allow_private_hosts and not self.plc.startswith("https://"):
            raise ValueError(
                f"{PREFIX}PLC must be https://, unless {PREFIX}ALLOW_PRIVATE_HOSTS is on"
            )
        return self

    @classmethod
    def load(cls, flags: dict[str, Any]) -> Self:
        """Return the settings; a flag that is None counts as not given. Raises `ConfigError`."""
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            raise ConfigError("\n".join(_lines(error))) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the .env file can't be read: {error}") from None

    @property
    def relay_host(self) -> str:
        """The relay's name in the index: relays number their own streams."""
        return urlsplit(self.relay).netloc

    @property
    def bind_host(self) -> str:
        return self.bind.rpartition(":")[0].strip("[]")

    @property
    def bind_port(self) -> int:
        return int(self.bind.rpartition(":")[2])

    @property
    def url(self) -> str:
        """Where others reach us."""
        if self.public_url is not None:
            return self.public_url
        # An address makes no did:web; the name of the same machine does.
        host = "localhost" if self.bind_host in _LOOPBACK else self.bind_host
        return f"http://{host}:{self.bind_port}"

    @property
    def service_did(self) -> str:
        return "did:web:" + quote(urlsplit(self.url).netloc, safe="")

    @property
    def audiences(self) -> frozenset[str]:
        """Whom a service-auth token may name: our service, or our bare DID.

        A PDS still shortens the one to the other when it proxies (proposal 0014).
        """
        return frozenset((self.service_did, f"{self.service_did}#{self.service_id}"))

    @property
    def key_file(self) -> Path:
        return self.db.with_name(self.db.name + ".key")


def _lines(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        message = problem["msg"].removeprefix("Value error, ")
        field = str(problem["loc"][0]) if problem["loc"] else ""
        # No flag for the key: others on the machine can see a command line.
        flag = "" if field == "secret_key" else f" (--{field.replace('_', '-')})"
        name = f"{PREFIX}{field.upper()}{flag}: " if field else ""
        lines.append(name + message)
    return lines
