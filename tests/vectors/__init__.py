"""Commits of whole repos, as the reference PDS puts them on the firehose, for tests of proof.

`generate.mjs` made them on `@atproto/repo`; each `*.cbor.gz` beside it is one repo. To make them
anew (the same data comes out, see there): `node tests/vectors/generate.mjs`.

The private keys come from the repos' names, so that a test can also sign what is wrong.
"""

import gzip
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import libipld
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.account_keys import K256, P256, Key

Kind = Literal[
    "commit",  # of sync 1.1: with `prevData` (but for a repo's first), and `prev` of each op
    "old_commit",  # without them, and with new blocks only
    "sync",
]


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of the firehose."""

    kind: Kind
    note: str  # what happens in it
    data: bytes  # header and body


@dataclass(frozen=True, slots=True)
class RepoVectors:
    """What the firehose says of one repo, in order and without a gap, from its first commit on."""

    name: str
    did: str
    key: str  # did:key of what signed every commit
    frames: tuple[Frame, ...]
    car: bytes  # the whole repo after the last frame, as `getRepo` gives it
    backup: bytes | None  # the whole repo at an earlier rev

    def signing_key(self) -> Key:
        """Return the private key of this repo."""
        secret = int.from_bytes(sha256(f"rescind vectors, key {self.name}".encode()).digest())
        if self.name.endswith("p256"):
            return Key(ec.derive_private_key(secret, ec.SECP256R1()), *P256)
        return Key(ec.derive_private_key(secret, ec.SECP256K1()), *K256)


@cache
def load() -> tuple[RepoVectors, ...]:
    """Return the vectors of every repo, by name."""
    files = sorted(Path(__file__).parent.glob("*.cbor.gz"))
    return tuple(_read(file) for file in files)


def _read(file: Path) -> RepoVectors:
    fields: dict[str, Any] = libipld.decode_dag_cbor(gzip.decompress(file.read_bytes()))
    frames = tuple(Frame(f["kind"], f["note"], f["frame"]) for f in fields.pop("frames"))
    return RepoVectors(frames=frames, **fields)
