"""Settings come from flags, the environment and .env; what is wrong is named, never shown."""

from pathlib import Path

import pytest

from indexer.config.settings import ConfigError, Settings

DID = "did:plc:" + "a" * 24
SECRET = "hunter2hunter2"

# A value for each setting, and how it is read.
VALUES = {
    "db": ("other.db", Path("other.db")),
    "relay": ("wss://relay.example:8443", "wss://relay.example:8443"),
    "plc": ("https://plc.example/", "https://plc.example"),
    "bind": ("127.0.0.1:9999", "127.0.0.1:9999"),
    "public_url": ("https://Rescind.example", "https://rescind.example"),
    "service_id": ("other", "other"),
    "space_collections": (
        "rsvp.atmo.space, com.example.group",
        frozenset({"rsvp.atmo.space", "com.example.group"}),
    ),
    "invite_collection": ("com.example.invite", "com.example.invite"),
    "verification_collection": ("com.example.verified", "com.example.verified"),
    "operators": (f"{DID},did:web:x.example,", frozenset({DID, "did:web:x.example"})),
    "verifier": (DID, DID),
    "contact": ("https://Example.org/help?a=1", "https://Example.org/help?a=1"),
    "journal": ("/var/lib/rescind/journal", "/var/lib/rescind/journal"),
    "journal_days": ("30", 30),
    "handle_resolver": ("https://pds.example", "https://pds.example"),
    "allow_private_hosts": ("on", True),
    "refuse_old_form": ("on", True),
    "metrics_bind": ("127.0.0.1:9100", "127.0.0.1:9100"),
    "max_lag": ("2.5", 2.5),
    "rate_limit": ("10", 10),
    "rate_limit_address": ("5", 5),
    "rate_window": ("60", 60),
    "trusted_proxies": ("10.0.0.0/8, ::1", frozenset({"10.0.0.0/8", "::1/128"})),
    "max_requests": ("8", 8),
    "max_connections": ("9", 9),
    "request_timeout": ("1.5", 1.5),
    "max_body": ("1000", 1000),
    "max_params": ("1000", 1000),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"RESCIND_{name.upper()}", raising=False)


def refusal(**flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Settings.load(flags)
    return str(caught.value)


def test_every_setting_has_a_case_here() -> None:
    assert {*VALUES, "secret_key"} == set(Settings.model_fields)


def test_the_defaults_are_those_of_the_design() -> None:
    settings = Settings.load({})
    assert settings.db == Path("rescind.db")
    assert settings.relay == "wss://relay1.us-east.bsky.network"
    assert settings.relay_host == "relay1.us-east.bsky.network"
    assert settings.plc == "https://plc.directory"
    assert settings.bind == "127.0.0.1:8080"
    assert settings.url == "http://localhost:8080"
    assert settings.service_did == "did:web:localhost%3A8080"
    assert settings.audiences == {
        "did:web:localhost%3A8080",
        "did:web:localhost%3A8080#rescind",
    }
    assert settings.space_collections == {"rsvp.atmo.space"}
    assert settings.operators == frozenset()
    assert settings.key_file == Path("rescind.db.key")
    assert settings.journal_file == Path("rescind.db.journal")
    assert Settings.load({"journal": "off"}).journal_file is None
    assert not settings.allow_private_hosts
    assert settings.metrics_bind is None
    assert settings.trusted_proxies == frozenset()
    assert settings.max_body == 256_000


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_is_read_from_flag_environment_and_file_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = VALUES[name]
    variable = f"RESCIND_{name.upper()}"

    assert getattr(Settings.load({name: text}), name) == value
    (tmp_path / ".env").write_text(f"{variable}={text}\n")
    assert getattr(Settings.load({}), name) == value
    (tmp_path / ".env").unlink()
    monkeypatch.setenv(variable, text)
    assert getattr(Settings.load({}), name) == value


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("RESCIND_BIND=127.0.0.1:1\nRESCIND_SERVICE_ID=file\n")
    monkeypatch.setenv("RESCIND_BIND", "127.0.0.1:2")
    assert Settings.load({"bind": None}).bind == "127.0.0.1:2"
    assert Settings.load({"bind": "127.0.0.1:3"}).bind == "127.0.0.1:3"
    assert Settings.load({}).service_id == "file"


def test_what_others_put_into_the_file_is_not_our_business(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\nOTHER=1\nRESCIND_APP_PASSWORD=x\n")
    Settings.load({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("db", ""),
        ("db", "/"),
        ("db", "."),
        ("db", ".."),
        ("relay", ""),
        ("relay", "relay.example"),
        ("relay", "ftp://relay.example"),
        ("relay", "wss://"),
        ("relay", "wss://relay.example/xrpc/com.atproto.sync.subscribeRepos"),
        ("relay", "wss://relay.example:99999"),
        ("relay", "wss://relay.example:0"),
        ("relay", "wss://[::1"),
        ("plc", "plc.directory"),
        ("plc", ""),
        ("plc", "http://plc.example"),
        ("bind", ""),
        ("bind", "8080"),
        ("bind", "127.0.0.1"),
        ("bind", "127.0.0.1:"),
        ("bind", "127.0.0.1:0"),
        ("bind", "127.0.0.1:65536"),
        ("bind", "127.0.0.1:\u0668\u0660"),
        ("public_url", "rescind.example"),
        ("public_url", "https://rescind.example/path"),
        ("public_url", "https://rescind.example?x"),
        ("service_id", ""),
        ("service_id", "#rescind"),
        ("service_id", "a b"),
        ("space_collections", ""),
        ("space_collections", " , "),
        ("space_collections", "rsvp.atmo.space,nonsense"),
        ("space_collections", "app.bsky.graph.verification"),
        ("invite_collection", ""),
        ("invite_collection", "rsvp.atmo.space"),
        ("verification_collection", "rsvp.atmo.space.invite"),
        ("operators", "alice.example"),
        ("operators", f"{DID} did:plc:b"),
        ("verifier", "alice.example"),
        ("contact", "ask me"),
        ("contact", "@alice.example"),
        ("contact", "alice@"),
        ("contact", "alice@example.org\nX"),
        ("contact", "javascript:alert(1)"),
        ("contact", "ftp://example.org/"),
        ("contact", "https://"),
        ("contact", "https://[::1"),
        ("contact", "https://example.org/a b"),
        ("contact", "https://example.org/\x1b[2J"),
        ("contact", "https://example.org/ä"),
        ("contact", f"https://user:{SECRET}@example.org/"),
        ("contact", "https://example.org/" + "x" * 200),
        ("handle_resolver", "alice"),
        ("allow_private_hosts", "perhaps"),
        ("metrics_bind", "nonsense"),
        ("metrics_bind", "on"),
        ("max_lag", "0"),
        ("max_lag", "inf"),
        ("max_lag", "nan"),
        ("rate_limit", "0"),
        ("rate_limit", "many"),
        ("rate_limit_address", "1.5"),
        ("rate_window", "-1"),
        ("trusted_proxies", "proxy.example"),
        ("trusted_proxies", "10.0.0.1/8"),
        ("max_requests", "3"),
        ("max_connections", "0"),
        ("request_timeout", "0"),
        ("request_timeout", "inf"),
        ("max_body", "0"),
        ("max_params", "x"),
        ("log_level", "loud"),
        ("log_format", "xml"),
    ],
)
def test_a_value_that_can_not_be_used_is_refused_by_the_name_of_its_setting(
    name: str, value: str
) -> None:
    assert f"RESCIND_{name.upper()}" in refusal(**{name: value})


def test_all_that_is_wrong_is_said_at_once() -> None:
    lines = refusal(bind="x", verifier="x", log_level="x").splitlines()
    assert [line.partition(" ")[0] for line in lines] == [
        "RESCIND_BIND",
        "RESCIND_VERIFIER",
        "RESCIND_LOG_LEVEL",
    ]


@pytest.mark.parametrize(
    "key", [SECRET, SECRET + "0" * (64 - len(SECRET)), "a" * 63, "a" * 65, "a" * 64 + "\n"]
)
def test_a_key_that_can_not_be_used_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCIND_SECRET_KEY", key)
    text = refusal()
    assert text.startswith("RESCIND_SECRET_KEY: ")  # and no flag, for there is none
    assert "64 hex digits" in text
    assert key.strip() not in text
    assert SECRET not in text


@pytest.mark.parametrize("name", ["relay", "plc", "public_url", "handle_resolver"])
@pytest.mark.parametrize(
    "url", ["wss://a:{}@x.example", "https://a:{}@x.example", "x://{}@x", "https://{}/@x:y"]
)
def test_a_password_in_a_url_is_not_shown(name: str, url: str) -> None:
    text = refusal(**{name: url.format(SECRET)})
    assert f"RESCIND_{name.upper()}" in text
    assert SECRET not in text


def test_a_good_key_is_not_shown_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESCIND_SECRET_KEY", "Ab" * 32)
    settings = Settings.load({})
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == "Ab" * 32
    assert "Ab" * 4 not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize("content", [b"RESCIND_BIND=\xff\xfe", None])
def test_a_file_that_can_not_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        (tmp_path / ".env").mkdir()
        Settings.load({})  # a directory of that name is no settings file
    else:
        (tmp_path / ".env").write_bytes(content)
        assert ".env" in refusal()


def test_a_local_network_may_have_plain_http() -> None:
    settings = Settings.load({"plc": "http://localhost:2582", "allow_private_hosts": True})
    assert settings.plc == "http://localhost:2582"


@pytest.mark.parametrize(
    ("given", "relay"),
    [
        ("https://relay.example", "wss://relay.example"),
        ("http://localhost:2583/", "ws://localhost:2583"),
        ("ws://Localhost:2583", "ws://localhost:2583"),
    ],
)
def test_a_relay_may_be_named_by_the_url_of_a_pds(given: str, relay: str) -> None:
    assert Settings.load({"relay": given}).relay == relay


@pytest.mark.parametrize(
    ("flags", "url", "service_did"),
    [
        ({"bind": "0.0.0.0:80"}, "http://localhost:80", "did:web:localhost%3A80"),
        ({"bind": "[::1]:8080"}, "http://localhost:8080", "did:web:localhost%3A8080"),
        (
            {"bind": "0.0.0.0:80", "public_url": "https://r.example/"},
            "https://r.example",
            "did:web:r.example",
        ),
        (
            {"public_url": "http://localhost:3600"},
            "http://localhost:3600",
            "did:web:localhost%3A3600",
        ),
    ],
)
def test_our_did_follows_from_where_we_are(
    flags: dict[str, str], url: str, service_did: str
) -> None:
    settings = Settings.load(flags)
    assert (settings.url, settings.service_did) == (url, service_did)
