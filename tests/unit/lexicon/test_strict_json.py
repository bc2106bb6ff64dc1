"""JSON is taken only if it can be read in one way, and stored."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.lexicon.strict_json import parse_json


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{}{}",
        b"NaN",
        b"[Infinity]",
        b'{"a":1,"a":1}',
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 33 + b"]" * 33,
        b"9" * 5000,
        "{}".encode("utf-16"),
    ],
    ids=lambda raw: repr(raw[:16]),
)
def test_json_that_is_not_strict_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any kind of it)
        parse_json(raw)


def test_strict_json_is_read() -> None:
    assert parse_json(b'{"a":[1,-2.5,true,null,"\\ud83d\\ude00"]}') == {
        "a": [1, -2.5, True, None, "😀"]
    }
    assert parse_json(b"[" * 31 + b"]" * 31) is not None


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:\\udNa019', max_size=60).map(str.encode))
def test_json_is_refused_or_can_be_stored(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except ValueError:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=True).encode()
