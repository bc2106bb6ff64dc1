"""Logs are lines of JSON off a terminal, pretty on one, and never hold a secret."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from indexer import log
from indexer.config.settings import Settings

JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
APP_PASSWORD = "abcd-ef12-gh34-ijkl"


class Stream(io.StringIO):
    def __init__(self, *, tty: bool) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(params=["json", "pretty"])
def output(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is logged, in either form."""
    return opened(monkeypatch, request.param, tty=request.param == "pretty")


def opened(monkeypatch: pytest.MonkeyPatch, form: Any, *, tty: bool) -> Stream:
    stream = Stream(tty=tty)
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure("info", form)
    return stream


def test_off_a_terminal_each_entry_is_a_line_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = opened(monkeypatch, None, tty=False)
    log.get("test").info("commit.applied", seq=7, repo="did:plc:ü", ops=2)
    try:
        raise RuntimeError("no")
    except RuntimeError:
        log.get("test").exception("daemon.died")

    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "commit.applied", "seq": 7, "repo": "did:plc:ü", "ops": 2, "level": "info",
        "module": "test",
    }  # fmt: skip
    assert "RuntimeError: no" in second["exception"]


def test_on_a_terminal_entries_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = opened(monkeypatch, None, tty=True)
    log.get("test").info("commit.applied", seq=7)
    assert not stream.getvalue().startswith("{")
    assert "commit.applied" in stream.getvalue()


def test_what_is_below_the_level_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = opened(monkeypatch, "json", tty=False)
    log.get("test").debug("frame.seen")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    "values",
    [
        {"error": f"refused {JWT}!"},
        {"error": f"with {APP_PASSWORD}"},
        {"authorization": "Basic c2VjcmV0OnNlY3JldA=="},
        {"headers": {"Authorization": f"Bearer {JWT}", "x": "y"}},
        {"headers": [("authorization", "Bearer c2VjcmV0c2VjcmV0")]},
        {"text": "Authorization: Bearer c2VjcmV0c2VjcmV0"},
        {"calls": [{"deep": ({"deeper": [JWT]},)}]},
        {"calls": [{"session": {"accessJwt": "c2VjcmV0", "did": "did:plc:x"}}]},
        {"password": "c2VjcmV0"},
        {"secret_key": b"c2VjcmV0"},
        {"tokens": ["c2VjcmV0"]},
        {"body": {"password": "c2VjcmV0"}},
        {"body": "{'identifier': 'a', 'password': 'c2VjcmV0'}"},
        {"body": '{"refreshJwt":"c2VjcmV0"}'},
        {"raw": JWT.encode()},
        {"error": RuntimeError(JWT)},
        {"url": "https://alice:c2VjcmV0@pds.example/xrpc"},
        {"each": {JWT}},
        {"deep": [[[[[[[[[JWT]]]]]]]]]},
    ],
)
def test_no_secret_is_logged_however_deep(output: io.StringIO, values: dict[str, Any]) -> None:
    log.get("test").warning("call.failed", **values)
    assert_clean(output)


def assert_clean(output: io.StringIO) -> None:
    text = output.getvalue()
    assert "[redacted]" in text
    for secret in (JWT, APP_PASSWORD, "c2VjcmV0", "c2lnbmF0dXJl"):
        assert secret not in text


def test_no_secret_is_in_a_traceback(output: io.StringIO) -> None:
    def fail(header: str) -> None:
        local = {"authorization": header, "note": "c2VjcmV0"}
        raise ValueError(f"{local['authorization']} was refused")

    try:
        fail(f"Bearer {JWT}")
    except ValueError:
        log.get("test").exception("call.failed")
    assert_clean(output)
    assert "ValueError" in output.getvalue()
    assert "in fail" in output.getvalue()


def test_the_logs_of_libraries_come_in_the_same_form_and_as_clean(output: io.StringIO) -> None:
    library = logging.getLogger("some.library")
    library.warning("failed with %s", JWT, extra={"password": "c2VjcmV0"})
    try:
        raise RuntimeError(APP_PASSWORD)
    except RuntimeError:
        library.exception("died")
    library.info("chatter")

    assert_clean(output)
    assert "chatter" not in output.getvalue()
    if output.getvalue().startswith("{"):
        first, second = [json.loads(line) for line in output.getvalue().splitlines()]
        assert first["level"] == "warning"
        assert "RuntimeError: [redacted]" in second["exception"]


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = opened(monkeypatch, "json", tty=False)
    values = {
        "token_hash": "ab" * 32,
        "uri": "at://did:plc:aaaabbbbccccddddeeeeffff/rsvp.atmo.space.invite/3kabc-1234-x",
        "repos": ["did:plc:aaaabbbbccccddddeeeeffff"],
        "tokens": 3,
        "password": None,
        "reason": "app password withdrawn? run `rescind login`",
        "uuid": "123e4567-e89b-12d3-a456-426614174000",
        "counts": {"skipped": 1, "rejected": 2.5},
    }
    log.get("test").info("entry.made", **values)
    entry = json.loads(stream.getvalue())
    assert {name: entry[name] for name in values} == values


def test_the_settings_do_not_show_their_key(output: io.StringIO) -> None:
    settings = Settings.load({"secret_key": "ab" * 32})
    log.get("test").info("settings.read", settings=settings)
    assert "abab" not in output.getvalue()


def test_what_a_stranger_wrote_can_not_steer_the_terminal(output: io.StringIO) -> None:
    log.get("test").warning("stream.failed", message="\x1b]0;owned\x07\x9b31m", name="\x1b[2J")
    logging.getLogger("library").warning("got \x1b[2J")
    text = output.getvalue()
    assert "\x07" not in text
    assert "\x9b" not in text
    assert "\x1b[2J" not in text
    assert "\x1b]" not in text
