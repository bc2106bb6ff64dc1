"""A record as its repo wrote it, checked against its lexicon, to typed fields (`Scope.read`).

The collections can be configured; the lexicon documents of the three kinds lie in
`indexer/lexicons/`. A `Row` is such fields with where they stand; `rules.projection` makes it.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import libipld

from indexer.cbor import has_more_values, without_depths
from indexer.lexicon.interpreter import LexiconError, Lexicons
from indexer.lexicon.syntax import is_did, parse_at_uri, parse_datetime

Kind = Literal["space", "invite", "verification"]
KINDS: tuple[Kind, ...] = ("space", "invite", "verification")

SPACE_LEXICON = "rsvp.atmo.space"
INVITE_LEXICON = "rsvp.atmo.space.invite"
VERIFICATION_LEXICON = "app.bsky.graph.verification"
# What a record may cost us: unknown fields are allowed, and are decoded and checked too. A PDS
# takes no more than a million bytes, and for the rest whatever its stack allows.
MAX_RECORD = 1_000_000  # bytes
MAX_VALUES = 20_000
MAX_NAME = 6_400  # bytes of a display name that are kept; no profile's has more than 640
MAX_LEVELS = 200  # within a field; a deeper one is none that we know, and is left unread
BINDING_BYTES = 16  # of the hash of a space's URI; to find another space with the same takes 2^128

_TOKEN_HASH = re.compile(r"[0-9a-f]{64}")


class InvalidRecord(ValueError):
    """The record does not fit its lexicon."""


class Space(NamedTuple):
    name: str | None
    description: str | None
    created_at: int  # Unix ms


class Invite(NamedTuple):
    space_uri: str
    token_hash: str  # SHA-256 of the token, 64 lower-case hex digits
    kind: str  # join, read or read-join
    max_uses: int | None  # None: no limit
    expires_at: int | None  # Unix ms; None: never
    note: str | None
    created_at: int  # Unix ms


class Verification(NamedTuple):
    subject: str  # a DID
    handle: str  # the subject's at that time
    display_name: str  # up to `MAX_NAME` bytes of it: longer ones fit no profile
    created_at: int  # Unix ms


class Row(NamedTuple):
    """A record in the index: the newest version that is known of its URI.

    Its first five fields and then those of `fields` are, in this order, the columns of its table.
    """

    uri: str
    did: str
    cid: str
    rev: str
    revoked: bool  # a tombstone with the cause 'revoked' stands for this URI and CID
    fields: Space | Invite | Verification
    trusted: bool = True  # False for an invite that not the space's owner wrote

    @property
    def kind(self) -> Kind:
        match self.fields:
            case Space():
                return "space"
            case Invite():
                return "invite"
            case Verification():
                return "verification"


def binding_of(space_uri: str) -> str:
    """Return what a token that is bound to a space carries of it, in lower-case hex digits.

    That is the beginning of the SHA-256 of the space's URI, whose authority is the owner's DID.
    """
    return sha256(space_uri.encode()).hexdigest()[: 2 * BINDING_BYTES]


class Scope:
    """The collections that are indexed, and how a record of each is read."""

    def __init__(self, spaces: frozenset[str], invite: str, verification: str) -> None:
        self._kinds: dict[str, Kind] = {
            **dict.fromkeys(spaces, "space"),
            invite: "invite",
            verification: "verification",
        }
        self._spaces = spaces
        self.collections = frozenset(self._kinds)
        self._lexicons = Lexicons.load(files("indexer") / "lexicons")

    def kind(self, collection: str) -> Kind | None:
        """Return the kind of a collection's records; None if we don't index it."""
        return self._kinds.get(collection)

    def is_trusted(self, did: str, invite: Invite) -> bool:
        """Whether this repo may invite to the space that the invite names: its owner only."""
        space = parse_at_uri(invite.space_uri)
        return space.authority == did and space.rkey is not None

    def is_space(self, uri: str) -> bool:
        """Whether an AT-URI can name a space here: a DID's record of a space collection."""
        try:
            parts = parse_at_uri(uri)
        except ValueError:
            return False
        return (
            is_did(parts.authority) and parts.collection in self._spaces and parts.rkey is not None
        )

    def read(self, collection: str, block: bytes) -> Space | Invite | Verification:
        """Return what a record says, as it came; raise `InvalidRecord` like `check`."""
        return self.check(collection, _decode(block))

    def check(self, collection: str, record: Mapping[str, Any]) -> Space | Invite | Verification:
        """Return what a record says; raise `InvalidRecord` if it does not fit its lexicon."""
        try:
            match self._kinds[collection]:
                case "space":
                    return self._space(collection, record)
                case "invite":
                    return self._invite(collection, record)
                case "verification":
                    return self._verification(collection, record)
        except LexiconError as error:
            raise InvalidRecord(str(error)) from None

    def _space(self, collection: str, record: Mapping[str, Any]) -> Space:
        if collection == SPACE_LEXICON:
            self._lexicons.stored_record(SPACE_LEXICON, record)
            name, description = record.get("name"), record.get("description")
        else:
            # A type of space that we have no document of needs `createdAt` only. The rest may
            # be of any type there, so it is not read.
            if record.get("$type") != collection:
                raise InvalidRecord("$type: must be the collection")
            name = description = None
        return Space(name, description, _time(record.get("createdAt")))

    def _invite(self, collection: str, record: Mapping[str, Any]) -> Invite:
        self._lexicons.stored_record(INVITE_LEXICON, record, type_=collection)
        token_hash = record["tokenHash"]
        if not _TOKEN_HASH.fullmatch(token_hash):
            raise InvalidRecord("tokenHash: must be 64 lower-case hex digits")
        expires_at = record.get("expiresAt")
        return Invite(
            space_uri=record["space"],
            token_hash=token_hash,
            kind=record.get("kind", "join"),
            max_uses=record.get("maxUses"),
            expires_at=None if expires_at is None else _time(expires_at),
            note=record.get("note"),
            created_at=_time(record["createdAt"]),
        )

    def _verification(self, collection: str, record: Mapping[str, Any]) -> Verification:
        self._lexicons.stored_record(VERIFICATION_LEXICON, record, type_=collection)
        return Verification(
            subject=record["subject"],
            handle=record["handle"].lower(),
            display_name=record["displayName"].encode()[:MAX_NAME].decode(errors="ignore"),
            created_at=_time(record["createdAt"]),
        )


def _decode(block: bytes) -> Mapping[str, Any]:
    # Decoded, hostile CBOR takes up to 200 times its size: it is counted before.
    if len(block) > MAX_RECORD:
        raise InvalidRecord(f"the record is larger than {MAX_RECORD:,} bytes")
    if has_more_values(block, MAX_VALUES):
        raise InvalidRecord(f"the record has more than {MAX_VALUES:,} values")
    try:
        record = libipld.decode_dag_cbor(block)
    except RecursionError:
        shallow = without_depths(block, MAX_LEVELS, MAX_VALUES)
        record = None if shallow is None else libipld.decode_dag_cbor(shallow)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise InvalidRecord("the block is no record")
    return record


def _time(value: object) -> int:
    try:
        return parse_datetime(value if isinstance(value, str) else "")
    except ValueError as error:
        raise InvalidRecord(f"createdAt: {error}") from None
