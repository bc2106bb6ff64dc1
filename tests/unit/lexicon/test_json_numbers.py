"""JSON has one kind of number: what is an integer is taken as one, however it is written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.lexicon.interpreter import LexiconError, Lexicons
from indexer.lexicon.strict_json import parse_json

LEXICONS = Lexicons(
    [
        {
            "lexicon": 1,
            "id": "com.example.add",
            "defs": {
                "main": {
                    "type": "procedure",
                    "input": {
                        "encoding": "application/json",
                        "schema": {
                            "type": "object",
                            "properties": {
                                "count": {"type": "integer", "maximum": 100},
                                "counts": {"type": "array", "items": {"type": "integer"}},
                            },
                        },
                    },
                }
            },
        }
    ]
)


def read(raw: str) -> Any:
    return LEXICONS.input("com.example.add", parse_json(raw.encode()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5.0", 5),
        ("-5.0", -5),
        ("0.0", 0),
        ("-0.0", 0),
        ("1e2", 100),
        ("1E+2", 100),
        ("50e-1", 5),
        ("0.05e2", 5),
        ("5." + "0" * 5000, 5),
        ("0e999999999999", 0),
    ],
)
def test_an_integer_written_as_a_fraction_is_one(text: str, value: int) -> None:
    for found in (read(f'{{"count":{text}}}')["count"], parse_json(text.encode())):
        assert (found, type(found)) == (value, int)


def test_an_integer_written_as_a_fraction_is_one_also_within() -> None:
    assert read('{"counts":[1.0,2e0]}') == {"counts": [1, 2]}
    found = read('{"later":{"deep":[{"n":5.0}]}}')  # which no schema describes
    assert found == {"later": {"deep": [{"n": 5}]}}
    assert type(found["later"]["deep"][0]["n"]) is int


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9007199254740993.0", 2**53 + 1),
        ("9223372036854775807.0", 2**63 - 1),
        ("-9.223372036854775808e18", -(2**63)),
        ("9223372036854775807" + "0" * 100 + "e-100", 2**63 - 1),
    ],
)
def test_a_large_integer_is_read_to_its_last_digit(text: str, value: int) -> None:
    assert read(f'{{"counts":[{text}]}}') == {"counts": [value]}


@pytest.mark.parametrize(
    "text",
    [
        "5.5",
        "0.1",
        "5e-1",
        "1e-400",  # no zero, though a double can't tell
        "5.00000000000000000001",
        "4503599627370496.25",
        "9007199254740993.5",
        "9223372036854775808.0",
        "1e19",
        "1e300",
        "1e400",
        "-1e999999999",
        "1e" + "9" * 5000,
        "1e-" + "9" * 5000,
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_integer_of_64_bits_is_none_however_it_is_written(text: str) -> None:
    for raw in (f'{{"counts":[{text}]}}', f'{{"later":{{"deep":[{text}]}}}}'):
        with pytest.raises((LexiconError, ValueError)):
            read(raw)


@pytest.mark.parametrize(
    "raw",
    [
        "1e400",
        "9" * 250_000 + ".0",
        "1e999999999",
        "1e" + "9" * 250_000,
        "0." + "0" * 250_000 + "1",
        "[" + ",".join(["9" * 300 + "e-290"] * 800) + "]",
        "[" + ",".join(["1e300"] * 40_000) + "]",
    ],
    ids=lambda raw: f"{raw[:12]} {len(raw)}",
)
def test_a_huge_number_is_never_written_out(raw: str) -> None:
    """Its digits would be a gigabyte: it is refused, or stays the double that it is near."""
    try:
        value = parse_json(raw.encode())
    except ValueError:
        return
    numbers = value if isinstance(value, list) else [value]
    assert all(type(number) is float or number < 2**64 for number in numbers)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 30))
def test_every_integer_survives_every_way_to_write_it(value: int, shift: int) -> None:
    for text in (f"{value}.{'0' * (shift + 1)}", f"{value}{'0' * shift}e-{shift}", f"{value}e0"):
        found = parse_json(text.encode())
        assert (found, type(found)) == (value, int)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_is_read_as_what_it_is(value: float) -> None:
    found = parse_json(json.dumps(value).encode())
    assert float(found) == value
    assert isinstance(found, int) == (value.is_integer() and abs(value) < 2**64)
