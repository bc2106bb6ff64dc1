"""A value of any type is taken if its schema says so, and else refused by its place alone."""

import json
import math
from typing import Any

import pytest

from indexer.lexicon.interpreter import MAX_DEPTH, LexiconError, Lexicons
from indexer.lexicon.syntax import FORMATS
from tests.support.interpreted import (
    BINARY_CID,
    CID,
    INTEGER,
    OURS,
    RECORDS,
    SPACE,
    VARIANTS,
    VECTORS,
    every_type,
    field,
    load,
    refusal,
    title,
)


@pytest.mark.parametrize("case", load("lexicon/record-data-valid.json"), ids=title)
def test_a_valid_record_of_the_official_vectors_is_taken(case):
    catalog = Lexicons.load(VECTORS / "lexicon" / "catalog")
    checked = catalog.record("example.lexicon.record", case["data"])
    assert checked == {"defaultInteger": 42} | case["data"]


@pytest.mark.parametrize("case", load("lexicon/record-data-invalid.json"), ids=title)
def test_an_invalid_record_of_the_official_vectors_is_refused(case):
    catalog = Lexicons.load(VECTORS / "lexicon" / "catalog")
    # Some of them lack the required field as well, which would hide what they are about.
    data = case["data"] if "missing" in case["name"] else {"integer": 1} | case["data"]
    with pytest.raises(LexiconError) as caught:
        catalog.record("example.lexicon.record", data)
    assert caught.value.path != ("" if case["name"] == "missing required field" else "integer") or (
        case["name"] == "invalid integer field"
    )


@pytest.mark.parametrize("case", load("data-model/data-model-valid.json"), ids=title)
def test_what_no_schema_describes_may_be_any_data(case):
    # JSON may write an integer as 123.0, but from CBOR the same is a float; we take neither.
    data = json.loads(json.dumps(case["json"]), parse_float=lambda text: int(float(text)))
    assert field({"type": "unknown"}, data) == data


@pytest.mark.parametrize("case", load("data-model/data-model-invalid.json"), ids=title)
def test_what_no_schema_describes_must_be_data_all_the_same(case):
    refusal({"type": "unknown"}, case["json"])


STRING = {"type": "string"}
LEAF = {"type": "ref", "ref": "#leaf"}
BLOB = {"$type": "blob", "ref": {"$link": CID}, "mimeType": "image/png", "size": 20}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "boolean"}, False),
        ({"type": "boolean", "const": True}, True),
        (INTEGER, -(2**63)),
        ({"type": "integer", "minimum": -1, "maximum": 1, "enum": [-1, 1]}, -1),
        ({"type": "integer", "minimum": 1, "maximum": 1}, 1),
        ({"type": "integer", "const": 0}, 0),
        (STRING, "\0"),
        ({"type": "string", "knownValues": ["a"]}, "b"),
        ({"type": "string", "minGraphemes": 2, "maxGraphemes": 2}, "👩‍👩‍👦‍👦e\u0301"),
        ({"type": "string", "minLength": 2, "maxLength": 2}, "é"),
        ({"type": "bytes", "minLength": 3, "maxLength": 3}, {"$bytes": "AAAA"}),
        ({"type": "bytes", "maxLength": 1}, {"$bytes": "AA=="}),
        ({"type": "bytes", "maxLength": 1}, {"$bytes": "AA"}),
        ({"type": "bytes", "maxLength": 0}, {"$bytes": ""}),
        ({"type": "bytes", "minLength": 3, "maxLength": 3}, b"\0\0\0"),
        ({"type": "cid-link"}, {"$link": CID}),
        ({"type": "cid-link"}, BINARY_CID),
        ({"type": "blob"}, BLOB),
        ({"type": "blob", "maxSize": 20, "accept": ["video/*", "image/*"]}, BLOB),
        ({"type": "blob", "accept": ["image/png"]}, BLOB | {"ref": BINARY_CID}),
        ({"type": "blob", "accept": ["*/*"]}, BLOB | {"later": None}),
        ({"type": "array", "items": INTEGER, "minLength": 1, "maxLength": 2}, [1, 2]),
        ({"type": "object", "nullable": ["n"], "properties": {"n": INTEGER}}, {"n": None}),
        ({"type": "unknown"}, {"a": {"$bytes": "AAAA"}, "b": [BLOB, {"$link": CID}], "c": None}),
        (LEAF, {"n": 1}),
        ({"type": "ref", "ref": "a.b.c#leaf"}, {"n": 1}),
        ({"type": "ref", "ref": "#short"}, "ab"),
        ({"type": "ref", "ref": "a.b.d#main"}, {"$type": "a.b.d", "n": 1}),
        (VARIANTS, {"$type": "a.b.c#leaf", "n": 1}),
        (VARIANTS, {"$type": "a.b.d"}),
        (VARIANTS, {"$type": "x.y.z", "n": "any"}),
        ({"type": "union", "refs": []}, {"$type": "x.y.z"}),
    ],
)
def test_a_value_that_fits_is_given_back(schema, value):
    assert field(schema, value) == value


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "boolean"}, 0),
        ({"type": "boolean"}, "true"),
        ({"type": "boolean", "const": True}, False),
        (INTEGER, True),
        (INTEGER, 1.0),
        (INTEGER, "1"),
        (INTEGER, None),
        (INTEGER, math.nan),
        (INTEGER, -(2**63) - 1),
        (INTEGER, 2**70),
        ({"type": "integer", "minimum": -1}, -2),
        ({"type": "integer", "maximum": 1}, 2),
        ({"type": "integer", "const": 0}, 1),
        ({"type": "integer", "const": 1}, True),
        ({"type": "integer", "enum": [1, 3]}, 2),
        (STRING, None),
        (STRING, b"a"),
        (STRING, "a\ud800"),
        ({"type": "string", "const": "a"}, "A"),
        ({"type": "string", "enum": ["a"]}, "a\n"),
        ({"type": "string", "minLength": 3}, "é"),
        ({"type": "string", "maxLength": 1}, "é"),
        ({"type": "string", "minGraphemes": 2}, "👩‍👩‍👦‍👦"),
        ({"type": "string", "maxGraphemes": 1}, "ab"),
        ({"type": "bytes"}, "AAAA"),
        ({"type": "bytes"}, {"$bytes": "A"}),
        ({"type": "bytes"}, {"$bytes": "AA="}),
        ({"type": "bytes"}, {"$bytes": "AA-_"}),
        ({"type": "bytes"}, {"$bytes": "AAAA\n"}),
        ({"type": "bytes"}, {"$bytes": "AAAA", "x": 1}),
        ({"type": "bytes", "maxLength": 2}, {"$bytes": "AAAA"}),
        ({"type": "bytes", "minLength": 4}, b"abc"),
        ({"type": "cid-link"}, CID),
        ({"type": "cid-link"}, b"\x12\x20" + bytes(32)),
        ({"type": "cid-link"}, b"\x01\x71\x12\x00"),
        ({"type": "cid-link"}, BINARY_CID + bytes(93)),
        ({"type": "cid-link"}, {"$link": CID, "x": 1}),
        ({"type": "cid-link"}, {"$link": "bafy\n" * 4}),
        ({"type": "blob"}, {"$type": "blob"}),
        ({"type": "blob"}, BLOB | {"$type": "blub"}),
        ({"type": "blob"}, BLOB | {"size": 0}),
        ({"type": "blob"}, BLOB | {"mimeType": ""}),
        ({"type": "blob"}, BLOB | {"ref": CID}),
        ({"type": "blob", "maxSize": 19}, BLOB),
        ({"type": "blob", "accept": ["image/jpeg", "video/*"]}, BLOB),
        ({"type": "array", "items": INTEGER}, (1,)),
        ({"type": "array", "items": INTEGER}, {"0": 1}),
        ({"type": "array", "items": INTEGER}, [None]),
        ({"type": "array", "items": INTEGER, "minLength": 1}, []),
        ({"type": "array", "items": INTEGER, "maxLength": 1}, [1, 2]),
        ({"type": "object", "properties": {"n": INTEGER}}, {"n": None}),
        ({"type": "object", "required": ["n"], "nullable": ["n"]}, {}),
        ({"type": "object"}, {"$link": CID}),
        ({"type": "object"}, BLOB),
        ({"type": "object"}, {"x": 0.5}),
        ({"type": "object"}, {1: 1}),
        ({"type": "object"}, {"\ud800": 1}),
        ({"type": "object"}, {"$type": None}),
        ({"type": "object"}, {"$type": ""}),
        ({"type": "unknown"}, None),
        ({"type": "unknown"}, {"$bytes": "AAAA"}),
        ({"type": "unknown"}, {"a": {"$bytes": 1}}),
        ({"type": "unknown"}, {"a": [{"$type": "blob"}]}),
        ({"type": "unknown"}, {"a": {"b": 1.5}}),
        ({"type": "unknown"}, {"a": {"b": {1}}}),
        (LEAF, {}),
        (LEAF, {"n": "1"}),
        ({"type": "ref", "ref": "#short"}, "abc"),
        ({"type": "ref", "ref": "#red"}, "a.b.c#red"),
        ({"type": "ref", "ref": "a.b.d"}, {"n": 1}),
        ({"type": "ref", "ref": "x.y.z"}, {"n": 1}),
        ({"type": "ref", "ref": "#main"}, {}),
        (VARIANTS, {"n": 1}),
        (VARIANTS, {"$type": 1}),
        (VARIANTS, {"$type": "a.b.c#leaf"}),
        (VARIANTS, {"$type": "x.y.z", "n": 0.5}),
        (VARIANTS | {"closed": True}, {"$type": "x.y.z"}),
        (VARIANTS | {"closed": True}, {"$type": "a.b.d#main"}),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_value_that_does_not_fit_is_refused(schema, value):
    assert refusal(schema, value).path.startswith("f")


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_is_enforced(format_):
    refusal({"type": "string", "format": format_}, "not\nthis")


def test_defaults_are_filled_in_at_any_depth_and_the_value_stays_as_it_was():
    inner = {"type": "object", "properties": {"n": {"type": "integer", "default": 7}}}
    value = {"f": [{}, {"n": 1}]}
    checked = every_type("f", {"type": "array", "items": inner}).input("a.b.c", value)
    assert checked == {"f": [{"n": 7}, {"n": 1}]}
    assert value == {"f": [{}, {"n": 1}]}


def test_an_integer_too_long_to_print_is_refused_like_any_other():
    assert str(refusal(INTEGER, 10**5000)) == "f must be an integer of at most 64 bits"
    assert str(refusal({"type": "unknown"}, {"n": 10**5000})).startswith("f/* must be an integer")


def test_a_message_never_repeats_the_value():
    assert "s3cret" not in str(refusal({"type": "string", "format": "did"}, "s3cret"))
    assert "s3cret" not in str(refusal({"type": "string", "enum": ["a"]}, "s3cret"))
    assert "s3cret" not in str(refusal({"type": "object"}, {"s3cret": {"s3cret": 0.5}}))
    assert "s3cret" not in str(refusal(VARIANTS | {"closed": True}, {"$type": "s3cret"}))


def test_a_message_names_the_place_inside_of_known_fields_and_stars_the_rest():
    schema = {"type": "object", "properties": {"list": {"type": "array", "items": LEAF}}}
    assert refusal(schema, {"list": [{"n": 1}, {}]}).path == "f/list/1/n"
    assert refusal(schema, {"other": [{"deep": [0.5]}]}).path == "f/*"


def nested(levels: int, wrap: str) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = [value] if wrap == "list" else {wrap: value}
    return value


@pytest.mark.parametrize("wrap", ["list", "child", "x"])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 10_000])
def test_endless_nesting_is_refused_wherever_it_stands(wrap, levels):
    value = nested(levels, wrap)
    for schema in ({"type": "unknown"}, {"type": "object"}, {"type": "ref", "ref": "#tree"}):
        assert refusal(schema, {"child": value, "other": value})
    with pytest.raises(LexiconError, match="nested deeper than 64 levels"):
        OURS.record(SPACE, RECORDS[SPACE] | {"other": value})


@pytest.mark.parametrize("schema", [{"type": "unknown"}, {"type": "ref", "ref": "#tree"}])
def test_nesting_is_taken_up_to_the_limit_and_no_further(schema):
    value = nested(MAX_DEPTH - 1, "child")  # the body around it is a level too
    assert field(schema, value) == value
    refusal(schema, {"child": value})
