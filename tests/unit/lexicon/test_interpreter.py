"""The lexicon interpreter: our documents at their limits, the official vectors where present."""

import json
import math
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import libipld
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.lexicon.interpreter import MAX_DEPTH, LexiconError, Lexicons
from indexer.lexicon.syntax import FORMATS

VECTORS = Path(__file__).parents[3].parent / "shared" / "fixtures" / "interop"
OURS = Lexicons.load(files("indexer") / "lexicons", files("xrpc") / "lexicons")

SPACE = "rsvp.atmo.space"
INVITE = "rsvp.atmo.space.invite"
VERIFICATION = "app.bsky.graph.verification"
REVOKE_INVITE = "rsvp.atmo.space.invite.revoke"
REVOKE_VERIFICATIONS = "tools.ozone.verification.revokeVerifications"

DID = "did:plc:7iza6de2dwap2sbkpav7c6c6"
SPACE_URI = f"at://{DID}/{SPACE}/3jzfcijpj2z2a"
URI = f"at://{DID}/{VERIFICATION}/3jzfcijpj2z2a"
TIME = "2026-01-31T12:00:00.000Z"
CID = "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq"
BINARY_CID = b"\x01\x71\x12\x20" + bytes(32)

RECORDS: dict[str, dict[str, Any]] = {
    SPACE: {"$type": SPACE, "createdAt": TIME},
    INVITE: {"$type": INVITE, "space": SPACE_URI, "tokenHash": "a" * 64, "createdAt": TIME},
    VERIFICATION: {
        "$type": VERIFICATION,
        "subject": DID,
        "handle": "alice.test",
        "displayName": "Alice",
        "createdAt": TIME,
    },
}
INPUTS: dict[str, dict[str, Any]] = {
    REVOKE_INVITE: {"spaceUri": SPACE_URI, "tokenHash": "a" * 64},
    REVOKE_VERIFICATIONS: {"uris": [URI], "revokeReason": "an impostor"},
}
# What fits no field of ours that is a string, an integer or an array of strings.
ALIENS = [None, True, 1.0, math.nan, math.inf, {}, [1], "\ud800", b"\x00", {"$bytes": "AAAA"}]


def every_type(name: str, schema: dict[str, Any]) -> Lexicons:
    """Make lexicons in which `input("a.b.c", …)` takes an object with one field of this schema."""
    defs = {
        "main": {
            "type": "procedure",
            "input": {
                "encoding": "application/json",
                "schema": {"type": "object", "properties": {name: schema}},
            },
        },
        "leaf": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
        "tree": {"type": "object", "properties": {"child": {"type": "ref", "ref": "#tree"}}},
        "short": {"type": "string", "maxLength": 2},
        "red": {"type": "token"},
    }
    other = {
        "main": {
            "type": "record",
            "key": "any",
            "record": {"type": "object", "properties": {"n": {"type": "integer"}}},
        }
    }
    return Lexicons(
        [{"lexicon": 1, "id": "a.b.c", "defs": defs}, {"lexicon": 1, "id": "a.b.d", "defs": other}]
    )


def field(schema: dict[str, Any], value: object) -> Any:
    """Check one value against one schema, and return what became of it."""
    return every_type("f", schema).input("a.b.c", {"f": value})["f"]


def refusal(schema: dict[str, Any], value: object) -> LexiconError:
    with pytest.raises(LexiconError) as caught:
        field(schema, value)
    return caught.value


def load(name: str) -> list[dict[str, Any]]:
    file = VECTORS / name
    return json.loads(file.read_bytes()) if file.exists() else []


def title(case: object) -> str | None:
    return case.get("name", case.get("note")) if isinstance(case, dict) else None


# Documents


@pytest.mark.parametrize("case", load("lexicon/lexicon-valid.json"), ids=title)
def test_a_valid_document_of_the_official_vectors_is_taken(case):
    assert Lexicons([case["lexicon"]])


@pytest.mark.parametrize("case", load("lexicon/lexicon-invalid.json"), ids=title)
def test_an_invalid_document_of_the_official_vectors_is_refused(case):
    with pytest.raises(LexiconError):
        Lexicons([case["lexicon"]])


def document(**defs: Any) -> dict[str, Any]:
    return {"lexicon": 1, "id": "a.b.c", "defs": defs}


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


# Our records and calls


@pytest.mark.parametrize("nsid", RECORDS)
def test_a_record_with_required_fields_only_is_taken(nsid):
    checked = OURS.record(nsid, RECORDS[nsid])
    assert checked == RECORDS[nsid] | ({"kind": "join"} if nsid == INVITE else {})


@pytest.mark.parametrize("nsid", RECORDS)
def test_a_record_decoded_from_cbor_is_taken_with_fields_that_we_do_not_know(nsid):
    extra = {"x": b"\x00", "y": [None, {"z": True}], "n": 2**63 - 1}
    decoded = libipld.decode_dag_cbor(libipld.encode_dag_cbor(RECORDS[nsid] | extra))
    assert OURS.record(nsid, decoded).items() >= (RECORDS[nsid] | extra).items()


@pytest.mark.parametrize(
    ("nsid", "name"), [(nsid, name) for nsid, record in RECORDS.items() for name in record]
)
def test_a_record_without_a_required_field_is_refused(nsid, name):
    record = {key: value for key, value in RECORDS[nsid].items() if key != name}
    with pytest.raises(LexiconError) as caught:
        OURS.record(nsid, record)
    assert caught.value.path == name
    assert str(caught.value).startswith(f"{name} ")


@pytest.mark.parametrize("alien", ALIENS, ids=repr)
@pytest.mark.parametrize(
    ("nsid", "name"),
    [(nsid, name) for nsid, record in RECORDS.items() for name in record]
    + [(SPACE, "name"), (SPACE, "description")]
    + [(INVITE, name) for name in ("kind", "maxUses", "expiresAt", "note")],
)
def test_a_record_with_a_field_of_another_type_is_refused(nsid, name, alien):
    with pytest.raises(LexiconError) as caught:
        OURS.record(nsid, RECORDS[nsid] | {name: alien})
    assert caught.value.path == name


@pytest.mark.parametrize(
    ("nsid", "name", "fits", "too_far"),
    [
        (SPACE, "name", "é" * 320, "é" * 320 + "a"),
        (SPACE, "name", "", "a" * 641),
        (SPACE, "description", "👩" * 750, "👩" * 750 + "a"),
        (SPACE, "createdAt", "2026-01-31T12:00:00+01:00", "2026-01-31T12:00:00-00:00"),
        (INVITE, "tokenHash", "a" * 64, "a" * 65),
        (INVITE, "tokenHash", "é" * 32, "a" * 63),
        (INVITE, "kind", "read-join", "JOIN"),
        (INVITE, "kind", "read", "read\n"),
        (INVITE, "maxUses", 1, 0),
        (INVITE, "maxUses", 2**63 - 1, 2**63),
        (INVITE, "note", "é" * 250, "é" * 250 + "a"),
        (INVITE, "expiresAt", "2024-02-29T00:00:00Z", "2023-02-29T00:00:00Z"),
        (INVITE, "space", SPACE_URI, SPACE_URI + "\n"),
        (VERIFICATION, "subject", "did:web:a.co", "a.co"),
        (VERIFICATION, "handle", "a.co", DID),
        (VERIFICATION, "displayName", "", "\udfff"),
    ],
)
def test_a_field_is_taken_up_to_its_limit_and_no_further(nsid, name, fits, too_far):
    assert OURS.record(nsid, RECORDS[nsid] | {name: fits})[name] == fits
    with pytest.raises(LexiconError) as caught:
        OURS.record(nsid, RECORDS[nsid] | {name: too_far})
    assert caught.value.path == name


def test_the_type_of_a_record_is_its_collection_as_configured():
    other = RECORDS[INVITE] | {"$type": "com.example.invite"}
    assert OURS.record(INVITE, other, "com.example.invite")["kind"] == "join"
    for record, type_ in ((other, None), (RECORDS[INVITE], "com.example.invite")):
        with pytest.raises(LexiconError, match=r"^\$type must be "):
            OURS.record(INVITE, record, type_)


@pytest.mark.parametrize("nsid", INPUTS)
def test_a_call_is_taken_and_given_back(nsid):
    assert OURS.input(nsid, INPUTS[nsid]) == INPUTS[nsid]
    assert OURS.input(nsid, INPUTS[nsid] | {"later": [{}]}) == INPUTS[nsid] | {"later": [{}]}


@pytest.mark.parametrize("nsid", INPUTS)
@pytest.mark.parametrize("body", [None, [], "x", 1, {"$bytes": "AAAA"}, b"{}"], ids=repr)
def test_a_body_that_is_no_object_is_refused(nsid, body):
    with pytest.raises(LexiconError, match=r"^The value must be an object$"):
        OURS.input(nsid, body)


@pytest.mark.parametrize("alien", ALIENS, ids=repr)
@pytest.mark.parametrize(
    ("nsid", "name"), [(nsid, name) for nsid, body in INPUTS.items() for name in body]
)
def test_a_call_with_a_field_of_another_type_is_refused(nsid, name, alien):
    with pytest.raises(LexiconError) as caught:
        OURS.input(nsid, INPUTS[nsid] | {name: alien})
    assert caught.value.path.partition("/")[0] == name


@pytest.mark.parametrize(
    ("nsid", "name"),
    [
        (REVOKE_INVITE, "spaceUri"),
        (REVOKE_INVITE, "tokenHash"),
        (REVOKE_VERIFICATIONS, "uris"),
    ],
)
def test_a_call_without_a_required_field_is_refused(nsid, name):
    body = {key: value for key, value in INPUTS[nsid].items() if key != name}
    with pytest.raises(LexiconError, match=rf"^{name} is required$"):
        OURS.input(nsid, body)


def test_a_hundred_uris_can_be_revoked_at_once_and_no_more():
    assert OURS.input(REVOKE_VERIFICATIONS, {"uris": []}) == {"uris": []}
    assert OURS.input(REVOKE_VERIFICATIONS, {"uris": [URI] * 100})
    with pytest.raises(LexiconError, match=r"^uris must have at most 100 elements$"):
        OURS.input(REVOKE_VERIFICATIONS, {"uris": [URI] * 101})


def test_a_reason_has_a_thousand_bytes_not_characters():
    assert OURS.input(REVOKE_VERIFICATIONS, {"uris": [], "revokeReason": "é" * 500})
    for reason in ("é" * 500 + "a", "a" * 1001):
        with pytest.raises(LexiconError, match=r"^revokeReason must have at most 1000 bytes"):
            OURS.input(REVOKE_VERIFICATIONS, {"uris": [], "revokeReason": reason})


@pytest.mark.parametrize("uri", [URI + "\n", "at://", DID, "https://a.co", URI + "/x", ""])
def test_a_malformed_uri_is_refused_with_its_place_and_without_its_text(uri):
    with pytest.raises(LexiconError) as caught:
        OURS.input(REVOKE_VERIFICATIONS, {"uris": [URI, URI, URI, uri]})
    assert caught.value.path == "uris/3"
    assert str(caught.value) == "uris/3 must have the format at-uri"


def test_answers_are_checked_too():
    answer = {"revokedVerifications": [URI], "failedRevocations": [{"uri": URI, "error": "no"}]}
    assert OURS.output(REVOKE_VERIFICATIONS, answer) == answer
    assert OURS.output(REVOKE_INVITE, {"ok": True}) == {"ok": True}
    answer["failedRevocations"] = [{"uri": URI}]
    with pytest.raises(LexiconError, match=r"^failedRevocations/0/error is required$"):
        OURS.output(REVOKE_VERIFICATIONS, answer)
    with pytest.raises(LexiconError, match=r"^ok must be true or false$"):
        OURS.output(REVOKE_INVITE, {"ok": 1})


# Values of every type


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
INTEGER = {"type": "integer"}
LEAF = {"type": "ref", "ref": "#leaf"}
VARIANTS = {"type": "union", "refs": ["#leaf", "a.b.d"]}
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


# Bodies and query strings


def test_a_call_without_a_declared_body_takes_none():
    lexicons = Lexicons([document(main={"type": "procedure"})])
    assert lexicons.input("a.b.c", None) is None
    with pytest.raises(LexiconError, match="must be absent"):
        lexicons.input("a.b.c", {})


def test_a_body_without_schema_is_passed_on():
    body = {"encoding": "*/*"}
    lexicons = Lexicons([document(main={"type": "procedure", "input": body, "output": body})])
    assert lexicons.input("a.b.c", b"any") == lexicons.output("a.b.c", b"any") == b"any"


QUERY = Lexicons(
    [
        document(
            main={
                "type": "query",
                "parameters": {
                    "type": "params",
                    "required": ["who"],
                    "properties": {
                        "who": {"type": "string", "format": "did"},
                        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50},
                        "offset": {"type": "integer"},
                        "all": {"type": "boolean"},
                        "ids": {"type": "array", "items": INTEGER, "maxLength": 3},
                    },
                },
            }
        )
    ]
)
WHO = ("who", DID)


def test_a_query_string_is_typed_by_its_document():
    pairs = [WHO, ("all", "true"), ("ids", "3"), ("offset", "-12"), ("ids", "1"), ("new", "x")]
    assert QUERY.params("a.b.c", pairs) == {
        "who": DID,
        "all": True,
        "ids": [3, 1],
        "limit": 50,
        "offset": -12,
    }
    assert QUERY.params("a.b.c", [WHO, ("all", "false"), ("limit", "007")]) == {
        "who": DID,
        "all": False,
        "limit": 7,
    }


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("who", []),
        ("who", ["alice"]),
        ("who", [DID, DID]),
        ("limit", ["0"]),
        ("limit", ["101"]),
        ("limit", ["1", "1"]),
        *(
            ("offset", [text])
            for text in [
                "",
                "1_0",
                "1.0",
                "+1",
                " 1",
                "1\n",
                "--1",
                "1e3",
                "0x1",
                "\u0661",
                "²",
                "-",
            ]
        ),
        ("offset", [str(2**63)]),
        ("offset", [str(-(2**63) - 1)]),
        ("offset", ["9" * 10_000]),
        *(("all", [text]) for text in ["", "True", "TRUE", "1", "yes", "true\n"]),
        ("ids", ["1", "x"]),
        ("ids", ["1"] * 4),
    ],
)
def test_a_malformed_query_string_is_refused(name, texts):
    pairs = [(name, text) for text in texts] + ([] if name == "who" else [WHO])
    with pytest.raises(LexiconError) as caught:
        QUERY.params("a.b.c", pairs)
    assert caught.value.path.partition("/")[0] == name


def test_a_call_without_declared_parameters_ignores_what_it_gets():
    assert OURS.params(REVOKE_INVITE, [("a", "b"), ("a", "c")]) == {}


# Whatever comes

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
