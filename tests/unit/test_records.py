"""A record becomes a row only if it fits its lexicon, and an invite counts only from the owner."""

from typing import Any

import pytest

from indexer.records import MAX_RECORD, InvalidRecord, Invite, Row, Scope, Space, Verification
from tests.support.frames import (
    ALICE,
    BOB,
    CAROL,
    CREATED,
    INVITE,
    SCOPE,
    SPACE,
    VERIFICATION,
    block,
    hash_of,
    invite,
    space,
    verification,
)

GARDEN = f"at://{ALICE}/{SPACE}/garden"
CREATED_MS = 1_769_860_800_000


def test_a_space_may_have_a_name_and_a_description() -> None:
    record = space(name="é" * 320, description="x" * 3_000)
    assert SCOPE.check(SPACE, record) == Space("é" * 320, "x" * 3_000, CREATED_MS)
    bare = {"$type": SPACE, "createdAt": CREATED}
    assert SCOPE.check(SPACE, bare) == Space(None, None, CREATED_MS)


def test_an_invite_has_defaults_and_limits() -> None:
    assert SCOPE.check(INVITE, invite(GARDEN)) == Invite(
        GARDEN, hash_of("token"), "join", None, None, None, CREATED_MS
    )
    record = invite(GARDEN, kind="read-join", maxUses=2**63 - 1, expiresAt=CREATED, note="é" * 250)
    assert SCOPE.check(INVITE, record) == Invite(
        GARDEN, hash_of("token"), "read-join", 2**63 - 1, CREATED_MS, "é" * 250, CREATED_MS
    )
    once = SCOPE.check(INVITE, invite(GARDEN, kind="read", maxUses=1))
    assert isinstance(once, Invite)
    assert (once.kind, once.max_uses) == ("read", 1)


def test_a_verification_keeps_whom_it_vouches_for() -> None:
    fields = SCOPE.check(VERIFICATION, verification(handle="Carol.Test", displayName=""))
    assert fields == Verification(CAROL, "carol.test", "", CREATED_MS)


def test_unknown_fields_are_allowed() -> None:
    for collection, record in (
        (SPACE, space()),
        (INVITE, invite(GARDEN)),
        (VERIFICATION, verification()),
    ):
        assert SCOPE.check(collection, {**record, "later": [{"a": None}]})


INVALID: dict[str, tuple[str, dict[str, Any]]] = {
    "a name of 641 bytes": (SPACE, space(name="é" * 320 + "x")),
    "a description of 3001 bytes": (SPACE, space(description="x" * 3_001)),
    "a name that is null": (SPACE, space(name=None)),
    "a space of no time": (SPACE, {"$type": SPACE}),
    "a space of another type": (SPACE, space(**{"$type": INVITE})),
    "a space without a type": (SPACE, {"createdAt": CREATED}),
    "a time without a zone": (SPACE, space(createdAt="2026-01-31T12:00:00")),
    "a number with a fraction in a space": (SPACE, space(later=0.5)),
    "a number over 64 bits": (SPACE, space(later=2**63)),
    "an invite to nothing": (INVITE, invite("at:/x")),
    "an invite to no AT-URI": (INVITE, invite("https://example.com")),
    "a hash in upper case": (INVITE, invite(GARDEN, tokenHash=hash_of("token").upper())),
    "a hash of 63 digits": (INVITE, invite(GARDEN, tokenHash="a" * 63)),
    "a hash of 65 digits": (INVITE, invite(GARDEN, tokenHash="a" * 65)),
    "a hash of other letters": (INVITE, invite(GARDEN, tokenHash="g" * 64)),
    "a hash of other digits": (INVITE, invite(GARDEN, tokenHash="\uff11" * 21 + "a")),
    "a hash with a newline": (INVITE, invite(GARDEN, tokenHash="a" * 63 + "\n")),
    "another kind": (INVITE, invite(GARDEN, kind="admin")),
    "no uses": (INVITE, invite(GARDEN, maxUses=0)),
    "uses that are true": (INVITE, invite(GARDEN, maxUses=True)),
    "uses over 64 bits": (INVITE, invite(GARDEN, maxUses=2**63)),
    "an end that is no time": (INVITE, invite(GARDEN, expiresAt="soon")),
    "a note of 501 bytes": (INVITE, invite(GARDEN, note="x" * 501)),
    "an invite of no time": (INVITE, invite(GARDEN, createdAt=None)),
    "an invite without a space": (INVITE, {"$type": INVITE, "createdAt": CREATED}),
    "a subject that is a handle": (VERIFICATION, verification(subject="carol.test")),
    "a handle that is a DID": (VERIFICATION, verification(handle=CAROL)),
    "a display name that is null": (VERIFICATION, verification(displayName=None)),
    "a time of no day": (VERIFICATION, verification(createdAt="2026-02-30T12:00:00Z")),
}


@pytest.mark.parametrize(("collection", "record"), INVALID.values(), ids=INVALID)
def test_a_record_that_does_not_fit_its_lexicon_is_refused(
    collection: str, record: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRecord):
        SCOPE.check(collection, record)


UNREADABLE = {
    "no map": block([1]),
    "a number": block(1),
    "no CBOR": b"\xff",
    "nothing": b"",
    "endless nesting": b"\x81" * 10_000,
    "too large": block(space(x="y" * MAX_RECORD)),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_a_block_that_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRecord):
        SCOPE.read(SPACE, data)


def test_a_record_of_the_largest_size_is_read() -> None:
    data = block(space(x="y" * (MAX_RECORD - len(block(space(x="y" * 90_000))) + 90_000)))
    assert len(data) == MAX_RECORD
    assert isinstance(SCOPE.read(SPACE, data), Space)


def test_a_record_that_does_not_fit_is_not_repeated_in_the_error() -> None:
    with pytest.raises(InvalidRecord) as caught:
        SCOPE.check(INVITE, invite(GARDEN, tokenHash="my raw token"))
    assert "raw" not in str(caught.value)


OWN = Scope(frozenset(("com.example.club", SPACE)), "com.example.ticket", "com.example.vouch")


def test_a_space_type_of_ones_own_needs_a_time_only() -> None:
    record = {"$type": "com.example.club", "createdAt": CREATED, "name": 5, "description": []}
    assert OWN.check("com.example.club", record) == Space(None, None, CREATED_MS)
    for wrong in ({**record, "$type": SPACE}, {**record, "createdAt": 5}, {"createdAt": CREATED}):
        with pytest.raises(InvalidRecord):
            OWN.check("com.example.club", wrong)


def test_the_collections_can_be_named_otherwise_and_the_type_is_that_name() -> None:
    assert OWN.collections == {
        "com.example.club",
        SPACE,
        "com.example.ticket",
        "com.example.vouch",
    }
    assert OWN.kind("com.example.ticket") == "invite"
    assert OWN.kind("com.example.vouch") == "verification"
    assert OWN.kind("com.example.club") == OWN.kind(SPACE) == "space"
    assert OWN.kind(INVITE) is None
    ticket = {**invite(GARDEN), "$type": "com.example.ticket"}
    assert isinstance(OWN.check("com.example.ticket", ticket), Invite)
    with pytest.raises(InvalidRecord):
        OWN.check("com.example.ticket", invite(GARDEN))


@pytest.mark.parametrize(
    ("did", "uri", "trusted"),
    [
        (ALICE, GARDEN, True),
        (BOB, GARDEN, False),
        (ALICE, f"at://{BOB}/{SPACE}/garden", False),
        (ALICE, "at://alice.test/rsvp.atmo.space/garden", False),
        (ALICE, f"at://{ALICE}", False),
        (ALICE, f"at://{ALICE}/{SPACE}", False),
        (ALICE, f"at://{ALICE}a/{SPACE}/garden", False),
    ],
)
def test_only_the_repo_of_the_space_may_invite_to_it(did: str, uri: str, trusted: bool) -> None:
    fields = SCOPE.check(INVITE, invite(uri))
    assert isinstance(fields, Invite)
    assert SCOPE.is_trusted(did, fields) is trusted


def test_a_space_is_a_record_of_a_space_collection_under_a_did() -> None:
    assert SCOPE.is_space(GARDEN)
    for uri in ("at://alice.test/rsvp.atmo.space/x", f"at://{ALICE}/{INVITE}/x", "x", GARDEN[:-7]):
        assert not SCOPE.is_space(uri)


def test_a_row_knows_its_kind() -> None:
    for fields, kind in (
        (SCOPE.check(SPACE, space()), "space"),
        (SCOPE.check(INVITE, invite(GARDEN)), "invite"),
        (SCOPE.check(VERIFICATION, verification()), "verification"),
    ):
        assert Row("at://x", ALICE, "c", "r", revoked=False, fields=fields).kind == kind
