"""Whatever comes, it is taken or refused: nothing else happens."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.lexicon.interpreter import LexiconError, Lexicons
from indexer.lexicon.syntax import FORMATS
from tests.support.interpreted import (
    BINARY_CID,
    CID,
    DID,
    INPUTS,
    INTEGER,
    OURS,
    QUERY,
    RECORDS,
    TIME,
    URI,
    VARIANTS,
    WHO,
    document,
    every_type,
)

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=9)
    | st.binary(max_size=9)
    | st.sampled_from([DID, URI, TIME, CID, BINARY_CID, "blob", "a.b.c#leaf", 2**63, 2**70])
)
NAMES = st.sampled_from(
    ["$type", "$bytes", "$link", "n", "f", "ref", "mimeType", "size", "child", "space", "uris"]
) | st.text(st.characters(), max_size=3)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
SCHEMAS: list[dict[str, Any]] = [
    *({"type": name} for name in ("boolean", "integer", "bytes", "cid-link", "blob", "unknown")),
    {"type": "string", "minLength": 1, "maxGraphemes": 3, "enum": ["a", DID]},
    *({"type": "string", "format": name} for name in FORMATS),
    {"type": "array", "items": {"type": "unknown"}, "maxLength": 3},
    {"type": "object", "properties": {"n": INTEGER, "f": {"type": "blob"}}},
    {"type": "ref", "ref": "#tree"},
    {"type": "ref", "ref": "x.y.z"},
    VARIANTS,
    VARIANTS | {"closed": True},
]
ANY_SCHEMA = [every_type("f", schema) for schema in SCHEMAS]


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_nothing_but_a_lexicon_error_comes_from_any_value(value):
    for lexicons in ANY_SCHEMA:
        with suppress(LexiconError):
            lexicons.input("a.b.c", {"f": value})
    for nsid, record in RECORDS.items():
        with suppress(LexiconError):
            OURS.record(nsid, value)
        for name in record:
            with suppress(LexiconError):
                OURS.record(nsid, record | {name: value, "other": value})
    for nsid in INPUTS:
        with suppress(LexiconError):
            OURS.input(nsid, value)
        with suppress(LexiconError):
            OURS.output(nsid, value)


@given(VALUES)
def test_what_was_taken_is_taken_again_unchanged(value):
    for lexicons in ANY_SCHEMA:
        with suppress(LexiconError):
            checked = lexicons.input("a.b.c", {"f": value})
            assert lexicons.input("a.b.c", checked) == checked == {"f": value}


@given(VALUES)
@settings(deadline=None)
def test_nothing_but_a_lexicon_error_comes_from_any_document(value):
    for broken in (
        value,
        document(main=value),
        document(main={"type": "record", "key": "any", "record": value}),
        document(main={"type": "procedure", "input": value, "errors": value}),
        document(x={"type": "object", "properties": {"f": value}, "required": value}),
        document(x={"type": "array", "items": {"type": "union", "refs": value}}),
        document(x={"type": "string", "enum": value, "default": value, "maxLength": value}),
    ):
        with suppress(LexiconError):
            Lexicons([broken])


@given(st.lists(st.tuples(st.sampled_from(["who", "limit", "all", "ids", "x"]), st.text())))
def test_nothing_but_a_lexicon_error_comes_from_any_query_string(pairs):
    with suppress(LexiconError):
        QUERY.params("a.b.c", [WHO, *pairs])
