"""A token that is made here says which space it is for, and none of another make seems to."""

import re
import secrets
from base64 import urlsafe_b64encode
from urllib.parse import quote

import pytest

from indexer.records import binding_of
from tests.support.frames import ALICE, BOB
from xrpc.tokens import MARK, UNKNOWN_BINDING, binding, new_token

SPACE = f"at://{ALICE}/rsvp.atmo.space/party"


def test_a_token_is_bound_to_its_space_and_to_no_other() -> None:
    token = new_token(SPACE)
    assert binding(token) == binding_of(SPACE)
    for other in (SPACE + "2", SPACE[:-1], SPACE.replace(ALICE, BOB), SPACE.replace("atmo", "at")):
        assert binding(token) != binding_of(other)


def test_what_it_is_bound_by_is_the_beginning_of_the_hash_of_the_spaces_uri() -> None:
    # By `printf %s at://…/party | sha256sum`: another Rescind has to come to the same.
    assert binding_of(SPACE) == "9db711aaffc0c42727843daaaaf88953"


def test_no_two_tokens_are_alike_but_for_what_binds_them() -> None:
    tokens = {new_token(SPACE) for _ in range(1_000)}
    assert len(tokens) == 1_000
    # 256 bits of chance: no position of them is the same in all.
    chance = [token[len(MARK) : len(MARK) + 51] for token in tokens]
    assert all(len(set(column)) > 20 for column in zip(*chance, strict=True))


def test_a_token_survives_what_people_do_with_it() -> None:
    for _ in range(200):
        token = new_token(SPACE)
        # One word to a double click and to Markdown, nothing to escape in a URL, no end that a
        # program which finds links would cut off.
        assert re.fullmatch(r"[a-z0-9]{85}", token)
        assert quote(token, safe="") == token


@pytest.mark.parametrize(
    "token",
    ["", "x", "rescind", "a" * 43, "0f" * 32, f" {MARK}", "Rescind1"],
)
def test_a_token_of_another_make_is_bound_to_nothing(token: str) -> None:
    assert binding(token) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token[:-1],
        lambda token: token + "a",
        lambda token: token[:-1] + "1",
        lambda token: token.removesuffix(token[len(MARK) :]),
        lambda token: MARK + token[len(MARK) :].upper(),
        lambda token: token + " ",
        lambda token: token + "=",
        lambda token: token + "\n",
        lambda token: token + "\u00e9",
        lambda token: MARK + urlsafe_b64encode(secrets.token_bytes(48)).decode(),
        lambda token: MARK * 1_000,
    ],
)
def test_what_has_the_mark_and_is_not_whole_fits_no_space(change: object) -> None:
    assert callable(change)
    assert binding(change(new_token(SPACE))) == UNKNOWN_BINDING
