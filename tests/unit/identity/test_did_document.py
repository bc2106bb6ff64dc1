"""A DID document gives what is usable of it, whoever wrote it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.identity import did_document as module
from indexer.identity.did_document import parse_document
from indexer.identity.model import Identity, IdentityError
from tests.support.account_keys import Key, document, method, service
from tests.support.plc_directory import DID, KEY, OTHER


def refuses(body: Any) -> str:
    with pytest.raises(IdentityError) as caught:
        parse_document(DID, body, allow_private=False)
    return caught.value.reason


def test_a_document_gives_key_pds_and_handles() -> None:
    body = document(DID, KEY, alsoKnownAs=["https://x.example", "at://Alice.Test", "at://not ok"])
    assert parse_document(DID, body, allow_private=False) == Identity(
        DID, KEY.did_key, "https://pds.example", ("alice.test",)
    )


@pytest.mark.parametrize("make", [Key.k256, Key.p256])
def test_both_curves_and_the_old_form_of_keys_are_read(make: Callable[[], Key]) -> None:
    key = make()
    old = {"ES256K": "Secp256k1", "ES256": "Secp256r1"}[key.alg]
    for changes in (
        {},
        {"id": "#atproto"},
        {"type": f"Ecdsa{old}VerificationKey2019", "publicKeyMultibase": uncompressed(key)},
    ):
        body = document(DID, None, verificationMethod=[method(DID, key, **changes)])
        assert parse_document(DID, body, allow_private=False).signing_key == key.did_key


def uncompressed(key: Key) -> str:
    import libipld
    from cryptography.hazmat.primitives.serialization import PublicFormat

    return libipld.encode_multibase("z", key.public(PublicFormat.UncompressedPoint))


def test_only_the_atproto_key_of_the_account_itself_counts() -> None:
    other = Key.k256()
    body = document(
        DID,
        None,
        verificationMethod=[
            method(DID, other, id=f"{DID}#other"),
            method(DID, other, id=f"{OTHER}#atproto"),
            method(DID, other, controller=OTHER),
            method(DID, KEY),
            method(DID, other),
        ],
    )
    assert parse_document(DID, body, allow_private=False).signing_key == KEY.did_key


@pytest.mark.parametrize(
    "changes",
    [
        {"publicKeyMultibase": None},
        {"publicKeyMultibase": ""},
        {"publicKeyMultibase": "z"},
        {"publicKeyMultibase": "zé"},
        {"publicKeyMultibase": KEY.multikey[:-1]},
        {"publicKeyMultibase": KEY.multikey[1:]},
        {"publicKeyMultibase": "z" + "1" * 60_000},
        {"type": "Ed25519VerificationKey2020"},
        {"type": "JsonWebKey2020"},
        {"id": "atproto"},
    ],
)
def test_an_unusable_key_is_none_and_the_rest_is_kept(changes: dict[str, Any]) -> None:
    body = document(DID, None, verificationMethod=[method(DID, KEY, **changes)])
    identity = parse_document(DID, body, allow_private=False)
    assert (identity.signing_key, identity.pds) == (None, "https://pds.example")


@pytest.mark.parametrize(
    ("endpoint", "pds"),
    [
        ("https://pds.example", "https://pds.example"),
        ("https://PDS.example/", "https://pds.example"),
        ("https://pds.example:8443", "https://pds.example:8443"),
        ("http://pds.example", None),
        ("https://u:p@pds.example", None),
        ("https://pds.example\n", None),
        ("https://pds\t.example", None),
        ("https://pds.example:x", None),
        ("https://", None),
        ("ftp://pds.example", None),
        ("pds.example", None),
        (["https://pds.example"], None),
        ({"uri": "https://pds.example"}, None),
        (None, None),
    ],
)
def test_a_pds_is_an_https_origin(endpoint: Any, pds: str | None) -> None:
    body = document(DID, KEY, service=[service(endpoint)])
    assert parse_document(DID, body, allow_private=False).pds == pds


def test_a_pds_without_tls_is_for_development() -> None:
    body = document(DID, KEY, service=[service("http://localhost:2583")])
    assert parse_document(DID, body, allow_private=True).pds == "http://localhost:2583"


def test_a_service_of_another_type_is_no_pds() -> None:
    body = document(DID, KEY, service=[service("https://x.example", type="Labeler")])
    assert parse_document(DID, body, allow_private=False).pds is None


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "x",
        7,
        {},
        {"id": 7},
        {"id": OTHER},
        {"id": DID + "#atproto"},
        document(DID, KEY, alsoKnownAs="at://alice.test"),
        document(DID, KEY, alsoKnownAs=[7]),
        document(DID, KEY, verificationMethod={}),
        document(DID, KEY, verificationMethod=[{}]),
        document(DID, KEY, verificationMethod=[None]),
        document(DID, KEY, service=[7]),
        document(DID, KEY, service=[{"id": "#atproto_pds"}]),
    ],
)
def test_what_is_not_a_document_of_this_did_is_refused(body: Any) -> None:
    assert refuses(body) == "bad_document"


def test_a_document_without_key_service_or_handle_stands() -> None:
    assert parse_document(DID, {"id": DID}, allow_private=False) == Identity(DID, None, None, ())


def test_a_key_that_takes_long_to_decode_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MULTIBASE", len(KEY.multikey) - 1)
    assert parse_document(DID, document(DID, KEY), allow_private=False).signing_key is None


def test_handles_are_bounded() -> None:
    body = document(DID, KEY, alsoKnownAs=[f"at://h{n}.test" for n in range(1000)])
    assert len(parse_document(DID, body, allow_private=False).handles) == module.MAX_HANDLES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "alsoKnownAs": json_values | st.lists(st.text()),
            "verificationMethod": json_values
            | st.lists(json_values.map(lambda v: method(DID, KEY, publicKeyMultibase=v))),
            "service": json_values | st.lists(json_values.map(service)),
        },
    )
)
def test_no_document_gets_past_identity_error(changes: dict[str, Any]) -> None:
    try:
        found = parse_document(DID, document(DID, KEY, **changes), allow_private=False)
    except IdentityError:
        return
    assert found.signing_key in {None, KEY.did_key}
