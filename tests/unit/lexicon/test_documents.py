"""A lexicon document that means nothing is refused, and the place of its fault named."""

import json

import pytest

from indexer.lexicon.interpreter import LexiconError, Lexicons
from tests.support.interpreted import (
    INPUTS,
    INVITE,
    OURS,
    RECORDS,
    REVOKE_INVITE,
    REVOKE_VERIFICATIONS,
    document,
    load,
    title,
)


@pytest.mark.parametrize("case", load("lexicon/lexicon-valid.json"), ids=title)
def test_a_valid_document_of_the_official_vectors_is_taken(case):
    assert Lexicons([case["lexicon"]])


@pytest.mark.parametrize("case", load("lexicon/lexicon-invalid.json"), ids=title)
def test_an_invalid_document_of_the_official_vectors_is_refused(case):
    with pytest.raises(LexiconError):
        Lexicons([case["lexicon"]])


@pytest.mark.parametrize(
    ("broken", "path"),
    [
        ("text", ""),
        ({}, "lexicon"),
        (document(), "a.b.c/defs"),
        ({**document(x={"type": "token"}), "lexicon": 2}, "a.b.c/lexicon"),
        ({**document(x={"type": "token"}), "lexicon": True}, "a.b.c/lexicon"),
        ({**document(x={"type": "token"}), "id": "a.b.c\n"}, "a.b.c\n/id"),
        (document(x=None), "a.b.c/defs/x"),
        (document(x={"type": []}), "a.b.c/defs/x"),
        (document(x={"type": "float"}), "a.b.c/defs/x"),
        (document(x={"type": "schema"}), "a.b.c/defs/x"),
        (document(x={"type": "params"}), "a.b.c/defs/x"),
        (document(**{"x#y": {"type": "token"}}), "a.b.c/defs"),
        (document(x={"type": "query"}), "a.b.c/defs/x"),
        (document(main={"type": "record", "record": {"type": "object"}}), "a.b.c/defs/main/key"),
        (document(x={"type": "array"}), "a.b.c/defs/x/items"),
        (document(x={"type": "array", "items": {"type": "token"}}), "a.b.c/defs/x/items"),
        (document(x={"type": "string", "maxLength": -1}), "a.b.c/defs/x/maxLength"),
        (document(x={"type": "string", "maxLength": "9"}), "a.b.c/defs/x/maxLength"),
        (document(x={"type": "string", "format": "email"}), "a.b.c/defs/x/format"),
        (document(x={"type": "string", "enum": ["a", 1]}), "a.b.c/defs/x/enum/1"),
        (document(x={"type": "integer", "const": "1"}), "a.b.c/defs/x/const"),
        (document(x={"type": "integer", "maximum": 1, "default": 2}), "a.b.c/defs/x/default"),
        (
            document(x={"type": "object", "properties": {"r": {"type": "ref", "ref": "d"}}}),
            "a.b.c/defs/x/properties/r/ref",
        ),
        (
            document(x={"type": "array", "items": {"type": "union", "refs": ["#"]}}),
            "a.b.c/defs/x/items/refs/0",
        ),
        (
            document(main={"type": "procedure", "input": {"schema": {"type": "object"}}}),
            "a.b.c/defs/main/input/encoding",
        ),
        (
            document(main={"type": "query", "parameters": {"type": "object"}}),
            "a.b.c/defs/main/parameters",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:90],
)
def test_a_malformed_document_is_refused_with_the_place_of_its_fault(broken, path):
    with pytest.raises(LexiconError) as caught:
        Lexicons([broken])
    assert caught.value.path == path


def test_a_name_can_be_defined_once_only():
    with pytest.raises(LexiconError, match="defined twice"):
        Lexicons([document(x={"type": "token"}), document(x={"type": "token"})])


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "notes.txt").write_text("{")
    with pytest.raises(LexiconError, match=r"broken\.json is not JSON"):
        Lexicons.load(tmp_path)


def test_our_documents_say_what_they_are():
    kinds = {nsid: OURS.kind(nsid) for nsid in (*RECORDS, *INPUTS, "a.b.c", f"{INVITE}#x")}
    assert kinds == {
        **dict.fromkeys(RECORDS, "record"),
        **dict.fromkeys(INPUTS, "procedure"),
        "a.b.c": None,
        f"{INVITE}#x": None,
    }
    assert OURS.errors(REVOKE_INVITE) == {"NotFound", "Forbidden"}
    assert OURS.errors(REVOKE_VERIFICATIONS) == frozenset()


def test_to_ask_for_another_kind_of_thing_is_a_mistake_of_ours():
    for ask in (OURS.input, OURS.output, OURS.params):
        with pytest.raises(KeyError):
            ask(INVITE, {})
    for nsid in (REVOKE_INVITE, "a.b.c", f"{REVOKE_VERIFICATIONS}#revokeError"):
        with pytest.raises(KeyError):
            OURS.record(nsid, {})
    with pytest.raises(KeyError):
        OURS.errors(INVITE)
