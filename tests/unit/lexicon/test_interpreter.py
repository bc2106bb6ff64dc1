"""Our records, calls and query strings are taken up to their limits and no further."""

import libipld
import pytest

from indexer.lexicon.interpreter import LexiconError, Lexicons
from tests.support.interpreted import (
    ALIENS,
    DID,
    INPUTS,
    INVITE,
    OURS,
    QUERY,
    RECORDS,
    REVOKE_INVITE,
    REVOKE_VERIFICATIONS,
    SPACE,
    SPACE_URI,
    URI,
    VERIFICATION,
    WHO,
    document,
)

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
