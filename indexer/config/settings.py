"""The settings: from flags, `RESCIND_…` variables and a `.env` file, checked at the start."""

from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from indexer.config import values
from indexer.log import Format, Level

PREFIX = "RESCIND_"

_LOOPBACK = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")  # noqa: S104


class ConfigError(Exception):
    """Settings that can't be used: a line for each, with its name."""


class Settings(BaseSettings):
    """Every setting, by its name without the prefix. The README has the table."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, validate_default=True
    )

    db: Annotated[Path, BeforeValidator(values.file)] = Field(
        Path("rescind.db"), description="the SQLite file"
    )
    relay: Annotated[str, BeforeValidator(values.relay_url)] = Field(
        "wss://relay1.us-east.bsky.network",
        description="host whose firehose is read; a PDS will do; ws:// is for development",
    )
    plc: Annotated[str, BeforeValidator(values.web_url)] = Field(
        "https://plc.directory", description="the PLC directory"
    )
    bind: Annotated[str, BeforeValidator(values.bind)] = Field(
        "127.0.0.1:8080", description="host:port where XRPC is served"
    )
    public_url: Annotated[str | None, BeforeValidator(values.web_url)] = Field(
        None, description="URL that others reach us at; gives the did:web (default: from --bind)"
    )
    service_id: Annotated[str, BeforeValidator(values.service_id)] = Field(
        "rescind", description="fragment of our service entry: did:web:...#rescind"
    )
    space_collections: Annotated[frozenset[str], NoDecode, BeforeValidator(values.nsids)] = Field(
        frozenset(("rsvp.atmo.space",)), description="the space types to index, comma-separated"
    )
    invite_collection: Annotated[str, BeforeValidator(values.nsid)] = Field(
        "rsvp.atmo.space.invite", description="collection of the invites"
    )
    verification_collection: Annotated[str, BeforeValidator(values.nsid)] = Field(
        "app.bsky.graph.verification", description="collection of the verifications"
    )
    operators: Annotated[frozenset[str], NoDecode, BeforeValidator(values.dids)] = Field(
        frozenset(),
        description="DIDs that may act for the accounts that we hold sessions for, comma-separated",
    )
    verifier: Annotated[str | None, BeforeValidator(values.did)] = Field(
        None, description="DID of the account that grants and revokes verifications for operators"
    )
    secret_key: Annotated[SecretStr | None, BeforeValidator(values.key)] = Field(
        None, description="64 hex digits that seal sessions (default: a file beside the database)"
    )
    contact: Annotated[str | None, BeforeValidator(values.contact)] = Field(
        None, description="URL or mail address of who runs this service, for its callers"
    )
    journal: Annotated[str | None, BeforeValidator(values.journal)] = Field(
        None,
        description="file of the revocations that were acknowledged, or off "
        "(default: beside the database)",
    )
    journal_days: int = Field(90, gt=0, description="days that the journal is kept")
    handle_resolver: Annotated[str | None, BeforeValidator(values.web_url)] = Field(
        None, description="PDS or AppView that is asked for handles, in place of DNS"
    )
    allow_private_hosts: bool = Field(
        False, description="for a local network: loopback and private addresses, plain http"
    )
    refuse_old_form: bool = Field(
        False, description="reject commits of hosts that do not send prevData (sync 1.1)"
    )
    metrics_bind: Annotated[str | None, BeforeValidator(values.metrics_bind)] = Field(
        None, description="host:port of /metrics alone, or off (default: /metrics beside XRPC)"
    )
    max_lag: float = Field(
        120.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds behind the relay, beyond which /xrpc/_health answers 503",
    )
    rate_limit: int = Field(
        3_000, gt=0, description="calls that an account may make in each window"
    )
    rate_limit_address: int = Field(
        300, gt=0, description="calls in each window from one address that prove no account"
    )
    rate_window: int = Field(300, gt=0, description="seconds of such a window")
    trusted_proxies: Annotated[frozenset[str], NoDecode, BeforeValidator(values.networks)] = Field(
        frozenset(),
        description="proxies whose X-Forwarded-For counts: addresses, networks, comma-separated",
    )
    max_requests: int = Field(
        256, ge=4, description="calls under way at once; one account may have a quarter of them"
    )
    max_connections: int = Field(500, gt=0, description="connections of clients at once")
    request_timeout: float = Field(
        20.0, gt=0, allow_inf_nan=False, description="seconds that a call may take"
    )
    max_body: int = Field(256_000, gt=0, description="bytes of a call's body")
    max_params: int = Field(16_384, gt=0, description="bytes of a call's query string")
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
    def journal_file(self) -> Path | None:
        """Where acknowledged revocations are kept beside the database; None: nowhere."""
        if self.journal == "off":
            return None
        return Path(self.journal or self.db.with_name(self.db.name + ".journal"))

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
