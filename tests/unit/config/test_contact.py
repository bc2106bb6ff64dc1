"""Whom callers may ask is a page or a mail address, and shown as it was written."""

import pytest

from indexer.config.settings import ConfigError, Settings
from indexer.config.values import MAX_CONTACT


@pytest.mark.parametrize(
    ("given", "contact"),
    [
        ("https://example.org", "https://example.org"),
        ("http://localhost:8080/help#sessions", "http://localhost:8080/help#sessions"),
        ("https://example.org/".ljust(MAX_CONTACT, "x"),) * 2,
        ("help+rescind@example.org", "help+rescind@example.org"),
        ("mailto:help@example.org", "help@example.org"),
        ("root@localhost", "root@localhost"),
        ("", None),
        (None, None),
    ],
)
def test_a_contact_is_a_page_or_a_mail_address(given: str | None, contact: str | None) -> None:
    assert Settings.load({"contact": given}).contact == contact


def test_a_password_in_a_contact_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load({"contact": "https://user:hunter2@example.org/"})
    assert "RESCIND_CONTACT" in str(caught.value)
    assert "hunter2" not in str(caught.value)
