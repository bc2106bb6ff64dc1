"""A token or a password that a PDS repeats reaches no caller, no log, no terminal and no table."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from indexer.net.guard import guarded_client
from tests.support.fake_pds import (
    APPLY,
    DELETE,
    GET,
    LOG_IN,
    LOG_OUT,
    REFRESH,
    Call,
    FakePds,
    Fault,
    fake_pds,
    says,
)
from tests.support.xrpc_world import ALICE, BOB, CAROL, OPERATOR, VERIFICATION, World, make_world
from xrpc.publishing.pds import NewRecord, PdsClient, PdsError, PdsUnavailableError, Target
from xrpc.publishing.redaction import HIDDEN, MAX_LOOKED_AT, scrub

PASSWORD = "abcd-efgh-ijkl-mnop"
TARGET = Target(f"at://{ALICE}/{VERIFICATION}/one", ALICE, VERIFICATION, "one")
RECORD = NewRecord(ALICE, VERIFICATION, "one", {})
FOREIGN = "eyJ0eXAiOiJKV1QifQ.eyJzdWIiOiJkaWQ6cGxjOngifQ.c2lnbmF0dXJlLW9mLW5vYm9keQ"


def secret_of(call: Call) -> str:
    secret = call.token or call.input["password"]
    assert isinstance(secret, str)
    return secret


def echoing(status: int, error: str, message: str) -> Fault:
    """Refuse, with what was sent in the place of SECRET."""

    async def fault(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
        texts = [text.replace("SECRET", secret_of(call)) for text in (error, message)]
        await says(status, *texts)(pds, call, writer)

    return fault


FAULTS = {
    "refused": echoing(400, "InvalidRequest", "bad header: Bearer SECRET"),
    "token refused": echoing(401, "AuthMissing", "token=SECRET; try another"),
    "expired": echoing(400, "ExpiredToken", "SECRET has expired"),
    "in the name": echoing(400, "SECRET", ""),
    "in the name of a 500": echoing(500, "SECRET", "SECRET"),
    "unavailable": echoing(503, "Down/SECRET/", "SECRET"),
    "often": echoing(400, "InvalidRequest", "SECRET" * 40),
    "where it is cut": echoing(400, "InvalidRequest", "x " * 95 + "SECRET"),
    "quoted": echoing(400, "InvalidRequest", '{"authorization": "Bearer SECRET"}'),
}


@pytest.fixture
async def pds() -> AsyncIterator[FakePds]:
    async with fake_pds() as made:
        made.add(ALICE, PASSWORD)
        yield made


@pytest.fixture
async def client() -> AsyncIterator[PdsClient]:
    async with guarded_client(allow_private=True) as http:
        yield PdsClient(http)


def parts_of(secret: str) -> list[str]:
    return [secret, *(part for part in secret.split(".") if len(part) > 5)]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_no_error_repeats_what_was_sent(
    pds: FakePds, client: PdsClient, fault: Fault
) -> None:
    access, refresh = pds.session(ALICE)
    calls: dict[str, tuple[str, Callable[[], Any]]] = {
        LOG_IN: (PASSWORD, lambda: client.create_session(pds.url, ALICE, PASSWORD)),
        REFRESH: (refresh, lambda: client.refresh_session(pds.url, refresh)),
        LOG_OUT: (refresh, lambda: client.delete_session(pds.url, refresh)),
        DELETE: (access, lambda: client.delete_record(pds.url, access, TARGET)),
        APPLY: (access, lambda: client.create_records(pds.url, access, [RECORD])),
    }
    for nsid, (secret, call) in calls.items():
        pds.fail(nsid, fault)
        with pytest.raises(PdsError) as caught:
            await call()
        shown = f"{caught.value} {getattr(caught.value, 'error', '')} {caught.value!r}"
        assert not [part for part in parts_of(secret) if part in shown]


async def test_what_an_error_means_is_still_told(pds: FakePds, client: PdsClient) -> None:
    access, _ = pds.session(ALICE)
    pds.fail(DELETE, FAULTS["quoted"])
    with pytest.raises(PdsError) as caught:
        await client.delete_record(pds.url, access, TARGET)
    assert str(caught.value) == f'InvalidRequest: {{"authorization": "Bearer {HIDDEN}"}}'


async def test_a_token_of_somebody_else_is_not_passed_on_either(
    pds: FakePds, client: PdsClient
) -> None:
    pds.fail(GET, says(400, "InvalidRequest", f"unknown session {FOREIGN}, sorry"))
    with pytest.raises(PdsError) as caught:
        await client.record_cid(pds.url, TARGET)
    assert str(caught.value) == f"InvalidRequest: unknown session {HIDDEN}, sorry"


async def test_a_name_that_a_password_was_made_into_is_no_name(
    pds: FakePds, client: PdsClient
) -> None:
    tokens = {"accessJwt": "a.b.c", "refreshJwt": "d.e.f"}
    answer = {"did": ALICE, "handle": f"{PASSWORD.upper()}.test", **tokens}
    pds.fail(LOG_IN, _gives(answer), _gives(answer | {"did": f"did:web:{PASSWORD}.test"}))
    assert (await client.create_session(pds.url, ALICE, PASSWORD)).handle is None
    with pytest.raises(PdsUnavailableError, match="without a DID"):
        await client.create_session(pds.url, ALICE, PASSWORD)


def _gives(body: dict[str, Any]) -> Fault:
    async def fault(pds: FakePds, _: Call, writer: asyncio.StreamWriter) -> None:
        pds.send(writer, 200, body)
        await writer.drain()

    return fault


# --- where it would be seen ---


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path, verifier=CAROL) as made, made.serving():
        for did in (ALICE, CAROL):
            await made.account(did)
        yield made


def are_absent(secrets: list[str], *places: object) -> bool:
    shown = json.dumps(places, default=str)
    return not any(part in shown for secret in secrets for part in parts_of(secret))


@pytest.mark.parametrize("name", FAULTS)
async def test_no_caller_log_or_table_gets_it(world: World, name: str) -> None:
    secrets = [*world.pds.access, *world.pds.refresh]
    for nsid in (APPLY, DELETE, REFRESH):
        world.pds.always[nsid] = FAULTS[name]
    uri = await world.verification(ALICE)
    verification = {"subject": BOB, "handle": "bob.test", "displayName": "Bob"}
    with capture_logs() as entries:
        created = await world.call(ALICE, "rsvp.atmo.space.createSpace", {})
        granted = await world.call(
            OPERATOR,
            "tools.ozone.verification.grantVerifications",
            {"verifications": [verification]},
        )
        _, failed = await world.revoke(ALICE, uri)
    row = await world.row(uri)
    tables = await world.db.all("select refused from sessions")
    assert world.pds.of(APPLY)
    assert failed[uri]
    assert row.error
    assert are_absent(
        secrets, created.text, granted.text, failed, row, entries, [tuple(r) for r in tables]
    )


async def test_no_terminal_gets_it(world: World) -> None:
    """`rescind login` says what the PDS says; it is run as a user runs it."""
    for fault in FAULTS.values():
        world.pds.fail(LOG_IN, fault)
        environment = {
            "PATH": os.environ["PATH"],
            "RESCIND_DB": str(world.settings.db),
            "RESCIND_PLC": world.settings.plc,
            "RESCIND_ALLOW_PRIVATE_HOSTS": "on",
            "RESCIND_SECRET_KEY": "11" * 32,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "indexer", "login", ALICE,
            env=environment, stdin=-1, stdout=-1, stderr=-1,
        )  # fmt: skip
        out, err = await process.communicate(PASSWORD.encode() + b"\n")
        assert process.returncode == 1
        assert err.startswith(b"Error: ")
        assert PASSWORD.encode() not in out + err


# --- the words alone ---

URL_SAFE = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=16)


@given(st.tuples(URL_SAFE, URL_SAFE, URL_SAFE), st.text(max_size=30), st.integers(0, 30))
def test_no_part_of_a_token_is_left(parts: tuple[str, ...], around: str, start: int) -> None:
    token = ".".join(parts)
    for said in (token, token[:-start] if start else token, token[start:], *parts):
        found = scrub(f"{around} {said}\n{around}", [token])
        assert not any(part[:-start] in found for part in parts if 0 < start <= len(part) - 8)
        assert token not in found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Token has been revoked",
        "Invalid identifier or password",
        f"Could not locate record: at://{ALICE}/app.bsky.graph.verification/3kaaaaaaaaa22",
        "Record was at bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a",
        'Missing required scope "repo:rsvp.atmo.space.invite?action=delete"',
        "see https://pds.some-very-long-organization-name.example.com/docs/errors.html",
        "Input/writes/0/value must have the property createdAt",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(text: str) -> None:
    assert scrub(text, [FOREIGN, PASSWORD]) == text


@pytest.mark.parametrize("password", ["p@ss w0rd!", "ünïcödé pass", "a+b/c=d==", "hunter2"])
def test_any_password_is_hidden(password: str) -> None:
    assert scrub(f"no: {password}.", [password]) == f"no: {HIDDEN}."


def test_a_secret_of_a_letter_does_not_hide_every_word() -> None:
    assert scrub("a bad password", ["a"]) == "a bad password"


def test_what_is_said_at_length_is_looked_at_up_to_a_limit_only() -> None:
    assert len(scrub("x" * 4_000_000, [FOREIGN])) <= MAX_LOOKED_AT
    assert FOREIGN[:20] not in scrub("x " * (MAX_LOOKED_AT // 2 - 10) + FOREIGN, [FOREIGN])
