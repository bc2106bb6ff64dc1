"""A record as its repo wrote it, checked against its lexicon, to typed fields (`Scope.read`).

The collections can be configured; the lexicon documents of the three kinds lie in
`indexer/lexicons/`. A `Row` is such fields with where they stand; `rules.projection` makes it.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import libipld

from indexer.lexicon.interpreter import LexiconError, Lexicons
from indexer.lexicon.syntax import is_did, parse_at_uri, parse_datetime

Kind = Literal["space", "invite", "verification"]
KINDS: tuple[Kind, ...] = ("space", "invite", "verification")

SPACE_LEXICON = "rsvp.atmo.space"
INVITE_LEXICON = "rsvp.atmo.space.invite"
VERIFICATION_LEXICON = "app.bsky.graph.verification"
MAX_RECORD = 65_536  # bytes; unknown fields are allowed, but to decode and check them costs us
MAX_DISPLAY_NAME = 6_400  # bytes: ten times a profile's; the lexicon itself names no limit

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
    display_name: str
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
            self._lexicons.record(SPACE_LEXICON, record)
            name, description = record.get("name"), record.get("description")
        else:
            # A type of space that we have no document of needs `createdAt` only. The rest may
            # be of any type there, so it is not read.
            if record.get("$type") != collection:
                raise InvalidRecord("$type: must be the collection")
            name = description = None
        return Space(name, description, _time(record.get("createdAt")))

    def _invite(self, collection: str, record: Mapping[str, Any]) -> Invite:
        self._lexicons.record(INVITE_LEXICON, record, type_=collection)
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
        self._lexicons.record(VERIFICATION_LEXICON, record, type_=collection)
        if len(record["displayName"].encode()) > MAX_DISPLAY_NAME:
            raise InvalidRecord(f"displayName: must be at most {MAX_DISPLAY_NAME} bytes")
        return Verification(
            subject=record["subject"],
            handle=record["handle"].lower(),
            display_name=record["displayName"],
            created_at=_time(record["createdAt"]),
        )


def _decode(block: bytes) -> Mapping[str, Any]:
    # Decoded, hostile CBOR takes up to 70 times its size.
    if len(block) > MAX_RECORD:
        raise InvalidRecord(f"the record is larger than {MAX_RECORD} bytes")
    try:
        record = libipld.decode_dag_cbor(block)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise InvalidRecord("the block is no record")
    return record


def _time(value: object) -> int:
    try:
        return parse_datetime(value if isinstance(value, str) else "")
    except ValueError as error:
        raise InvalidRecord(f"createdAt: {error}") from None
