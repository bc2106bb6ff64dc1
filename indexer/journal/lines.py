"""A line of the journal: a checksum, a space, and a revocation as JSON."""

import json
from dataclasses import dataclass
from hashlib import blake2b

from indexer.store.tombstones import Tombstone

VERSION = 1
CHECK_BYTES = 8  # of the checksum: it tells damage, not malice
MAX_LINE = 16_384  # bytes; a reason has 1,000, a URI 8 KB at most


class BadLineError(ValueError):
    """Not a line that was written whole."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A revocation that was acknowledged: a version of a record, and an invite's token with it."""

    uri: str
    cid: str  # '' if no version was ever seen
    rev: str
    kind: str
    did: str
    actor: str
    reason: str | None
    at: int  # Unix ms
    space_uri: str | None = None
    token_hash: str | None = None

    @classmethod
    def of(cls, stone: Tombstone) -> "Entry":
        """Return what is to be kept of a tombstone, which is one of a revocation."""
        assert stone.actor is not None, "the schema has it so for what was revoked"  # noqa: S101
        return cls(
            stone.uri,
            stone.cid,
            stone.rev,
            stone.kind,
            stone.did,
            stone.actor,
            stone.reason,
            stone.created_at,
            stone.space_uri,
            stone.token_hash,
        )

    @property
    def key(self) -> tuple[str, str, int]:
        """What is not to be written twice."""
        if self.space_uri and self.token_hash:
            return self.space_uri, self.token_hash, self.at
        return self.uri, self.cid, self.at


def encode(entry: Entry) -> bytes:
    """Return the line of a revocation, with its line feed."""
    fields = {
        "v": VERSION,
        "at": entry.at,
        "uri": entry.uri,
        "cid": entry.cid,
        "rev": entry.rev,
        "kind": entry.kind,
        "did": entry.did,
        "actor": entry.actor,
        "reason": entry.reason,
        "space": entry.space_uri,
        "hash": entry.token_hash,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    body = json.dumps(given, separators=(",", ":")).encode()
    return b"%s %s\n" % (_check(body), body)


def decode(line: bytes) -> Entry:
    """Return what a line says, which comes with or without its line feed; or `BadLineError`."""
    check, _, body = line.rstrip(b"\n").partition(b" ")
    if check != _check(body):
        raise BadLineError("its checksum is another one")
    try:
        fields = json.loads(body)
        if fields["v"] != VERSION:
            raise BadLineError(f"it is of version {fields['v']}; this Rescind reads {VERSION}")
        return Entry(
            fields["uri"],
            fields["cid"],
            fields["rev"],
            fields["kind"],
            fields["did"],
            fields["actor"],
            fields.get("reason"),
            fields["at"],
            fields.get("space"),
            fields.get("hash"),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise BadLineError(f"it can't be read: {error}") from None


def _check(body: bytes) -> bytes:
    return blake2b(body, digest_size=CHECK_BYTES).hexdigest().encode()
