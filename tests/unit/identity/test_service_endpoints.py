"""A serviceEndpoint is taken where it can mean one thing, else it is told what it is."""

from typing import Any

import pytest

from indexer.identity.did_document import parse_document
from tests.support.account_keys import document, service
from tests.support.plc_directory import DID, KEY


def read(endpoint: Any, *, allow_private: bool = False) -> tuple[str | None, str | None]:
    body = document(DID, KEY, service=[service(endpoint)])
    identity = parse_document(DID, body, allow_private=allow_private)
    return identity.pds, identity.pds_fault


@pytest.mark.parametrize(
    ("endpoint", "pds"),
    [
        ("HTTPS://pds.example", "https://pds.example"),
        ("hTTps://PDS.Example:8443/", "https://pds.example:8443"),
        ("https://pds.example/xrpc", "https://pds.example"),
        ("https://pds.example/xrpc/", "https://pds.example"),
        ("https://pds.example//", "https://pds.example"),
        ("https://pds.example/a/b?c=d#e", "https://pds.example"),
        ("https://pds.example?q", "https://pds.example"),
        ("https://pds.example/#f", "https://pds.example"),
        ("https://pds.example/@u:p", "https://pds.example"),
        ("https://pds.example:443", "https://pds.example"),
        ("https://pds.example:", "https://pds.example"),
        ("https://[2606:4700:0:0::1111]", "https://[2606:4700::1111]"),
        ("https://[2606:4700::ABCD]:8443/", "https://[2606:4700::abcd]:8443"),
        ("https://192.0.2.1:8443", "https://192.0.2.1:8443"),
    ],
)
def test_an_endpoint_that_can_mean_one_thing_is_taken(endpoint: str, pds: str) -> None:
    assert read(endpoint) == (pds, None)


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [
        ("ftp://pds.example", "'ftp://pds.example' is no https URL"),
        ("wss://pds.example", "'wss://pds.example' is no https URL"),
        (
            "http://pds.example",
            "'http://pds.example' is plain http, which is for development alone",
        ),
        ("pds.example", "'pds.example' is no URL"),
        ("", "'' is no URL"),
        ("https://pds\t.example", r"'https://pds\t.example' has no host and port that can be"),
        ("https://pds.example/\n", r"'https://pds.example/\n' is no URL"),
        ("https://pds.example\\@x.example", r"'https://pds.example\\@x.example' is no URL"),
        ("https://", "'https://' has no host and port that can be"),
        ("https:///xrpc", "'https:///xrpc' has no host and port that can be"),
        ("https://pds.example:x", "'https://pds.example:x' has no host and port that can be"),
        ("https://pds.example:0", "'https://pds.example:0' has no host and port that can be"),
        (
            "https://pds.example:65536",
            "'https://pds.example:65536' has no host and port that can be",
        ),
        ("https://[::1", "'https://[::1' has no host and port that can be"),
        ("https://[1::2::3]", "'https://[1::2::3]' has no host and port that can be"),
        ("https://[fe80::1%25eth0]", "'https://[fe80::1%25eth0]' has no host and port that can be"),
        ("https://u:secret@pds.example", "its URL has a user name in it"),
        (["https://pds.example"], "its serviceEndpoint is no URL"),
        ({"uri": "https://pds.example"}, "its serviceEndpoint is no URL"),
        (None, "its serviceEndpoint is no URL"),
    ],
)
def test_any_other_is_told_what_it_is(endpoint: Any, fault: str) -> None:
    assert read(endpoint) == (None, fault)


def test_what_is_told_is_short_and_says_more_than_that_there_is_none() -> None:
    body = document(DID, KEY, service=[service("x" * 10_000)])
    words = parse_document(DID, body, allow_private=False).without_pds
    assert words.startswith("the DID document names a PDS that can't be used: 'xxx")
    assert len(words) < 200


def test_only_without_a_service_there_is_none() -> None:
    for services in ([], [service("https://x.example", type="Labeler")]):
        identity = parse_document(DID, document(DID, KEY, service=services), allow_private=False)
        assert identity.without_pds == "the DID document names no PDS"


def test_plain_http_is_taken_in_development() -> None:
    assert read("HTTP://[::1]:2583/", allow_private=True) == ("http://[::1]:2583", None)
    assert read("http://localhost:80", allow_private=True) == ("http://localhost", None)
