"""What `scripts/bench xrpc` is played on: owners of spaces, an index of their invites, and calls.

All of it follows from numbers, so that the processes that take part need not tell each other.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec

from indexer.config.settings import Settings
from indexer.records import Invite, Row, Space
from indexer.store import invites, repos, sessions, spaces
from indexer.store.db import Database, Transaction
from indexer.store.repos import Repo
from tests.support.account_keys import K256, Key, document, jwt, service
from tests.support.frames import INVITE, SPACE, cid_text, tid
from xrpc.publishing.pds import Tokens
from xrpc.publishing.sessions import Vault

LIST, REVOKE = "rsvp.atmo.space.invite.list", "rsvp.atmo.space.invite.revoke"
PDS = "https://pds.example"
HOST = "rescind.example"
START = 1_735_689_600_000  # Unix ms; the first record's
LIFE = 3_000  # seconds that a token lives: a round is over long before
BATCH = 2_000  # invites that are written in one go
OPERATORS = 100  # accounts: one may call only so often

_PLC, _LETTERS = "did:plc:", "abcdefghij"
FEW, MANY = "few", "many"  # an owner's spaces
_SPACE = Space("A garden", None, START)
_serial = count()  # of the tokens: each is of one use


@dataclass(frozen=True, slots=True)
class Size:
    """How much is in the index: an owner has one repo, with a space of a few and one of many."""

    owners: int
    few: int  # invites to a space
    many: int

    @property
    def invites(self) -> int:
        return self.owners * (self.few + self.many)

    def everybody(self) -> list["Owner"]:
        return [Owner(number) for number in range(self.owners)]


# A hundred thousand invites to two thousand spaces.
FULL = Size(owners=1_000, few=5, many=95)


@dataclass(frozen=True, slots=True)
class Owner:
    """An account whose key follows from its number."""

    number: int

    @classmethod
    def of(cls, did: str) -> "Owner":
        return cls(int("".join(str(_LETTERS.index(letter)) for letter in did[len(_PLC) :])))

    @property
    def did(self) -> str:
        return _PLC + "".join(_LETTERS[int(digit)] for digit in f"{self.number:024}")

    @property
    def key(self) -> Key:
        return _key(self.did)

    def space(self, name: str) -> str:
        return f"at://{self.did}/{SPACE}/{name}"

    def token_hash(self, name: str, number: int) -> str:
        """Return the hash of one invite's token: `name` is the space's."""
        return sha256(f"{self.did} {name} {number}".encode()).hexdigest()


@cache
def _key(did: str) -> Key:
    secret = int.from_bytes(sha256(did.encode()).digest()[:31]) + 1
    return Key(ec.derive_private_key(secret, ec.SECP256K1()), *K256)


def operators() -> list[Owner]:
    return [Owner(10**9 + number) for number in range(OPERATORS)]


def settings(db: Path) -> Settings:
    """Return what the daemon would run with, on this file: the defaults, and some operators."""
    return Settings.load(
        {"db": db, "plc": "https://plc.example", "public_url": f"https://{HOST}"}
        | {"secret_key": "5" * 64, "log_level": "info"}
        | {"operators": ",".join(owner.did for owner in operators())}
    )


async def fill(file: Path, size: Size, pds: str = PDS) -> None:
    """Make the index: all repos are whole, and there is a session for each at this PDS."""
    vault = Vault.open(settings(file))
    async with await Database.open(file) as db:
        batch: list[tuple[Row, Invite]] = []
        async with db.transaction() as tx:
            for owner in size.everybody():
                await _write_owner(tx, owner, vault, pds)
                batch += _invites(owner, FEW, size.few) + _invites(owner, MANY, size.many)
                if len(batch) >= BATCH:
                    await invites.save(tx, batch)
                    batch.clear()
            await invites.save(tx, batch)


async def _write_owner(tx: Transaction, owner: Owner, vault: Vault, pds: str) -> None:
    rev = tid(10**6, START)
    root = cid_text(owner.did.encode())
    repo = Repo(owner.did, rev, root, "synchronized", whole_rev=rev, stretch=rev)
    await repos.save(tx, [repo])
    await spaces.save(tx, [(_row(owner, SPACE, name, 0, _SPACE), _SPACE) for name in (FEW, MANY)])
    sealed = vault.seal(Tokens(owner.did, None, "access", "refresh"))
    await sessions.save(tx, owner.did, None, pds, sealed, int(time.time() * 1000))


def _invites(owner: Owner, name: str, number: int) -> list[tuple[Row, Invite]]:
    found = []
    for index in range(number):
        fields = Invite(
            owner.space(name), owner.token_hash(name, index), "join", 5, None,
            f"For the neighbours, number {index}", START + index,
        )  # fmt: skip
        rkey = f"{name}{index}"
        found.append((_row(owner, INVITE, rkey, index + 1, fields), fields))
    return found


def _row(owner: Owner, collection: str, rkey: str, number: int, fields: Space | Invite) -> Row:
    uri = f"at://{owner.did}/{collection}/{rkey}"
    return Row(uri, owner.did, cid_text(uri.encode()), tid(number, START), False, fields)


def answer(path: str, pds: str = PDS) -> tuple[int, dict[str, Any]]:
    """Return the status and the body that the directory answers, or the PDS of all owners."""
    if path.endswith(".getRecord"):
        return 400, {"error": "RecordNotFound", "message": "it was deleted"}
    if path.startswith("/xrpc/"):
        rev = tid(time.time_ns() // 1000, 0)
        return 200, {"commit": {"cid": "bafyreib", "rev": rev}, "rev": rev}
    did = path.removeprefix("/")
    return 200, document(did, Owner.of(did).key, service=[service(pds)])


def listing(owners: Iterable[Owner], name: str) -> list[bytes]:
    """Return a call of `invite.list` of each, as it goes over the wire."""
    return [
        request(owner, LIST, f"?spaceUri={quote(owner.space(name), safe='')}", None)
        for owner in owners
    ]


def revoking(owners: Sequence[Owner], name: str, number: int) -> list[bytes]:
    """Return as many calls of `invite.revoke`, each of another invite, in turn of all owners."""
    calls = []
    for call in range(number):
        index, who = divmod(call, len(owners))
        owner = owners[who]
        body = {"spaceUri": owner.space(name), "tokenHash": owner.token_hash(name, index)}
        calls.append(request(owner, REVOKE, "", body))
    return calls


def request(
    owner: Owner, nsid: str, query: str, body: dict[str, Any] | None, life: int = LIFE
) -> bytes:
    """Return a call of a query, or with a body of a procedure, as it goes over the wire.

    Its token is good for `life` seconds; a caller may have only so many that are good for long.
    """
    now = int(time.time())
    claims = {
        "iat": now, "iss": owner.did, "aud": f"did:web:{HOST}", "exp": now + life, "lxm": nsid,
        "jti": f"{next(_serial):032x}",
    }  # fmt: skip
    token = jwt(owner.key, {"typ": "JWT", "alg": "ES256K"}, claims)
    # As a PDS sends it on.
    head = [
        f"{'GET' if body is None else 'POST'} /xrpc/{nsid}{query} HTTP/1.1",
        f"host: {HOST}",
        f"authorization: Bearer {token}",
        "accept-encoding: identity",
    ]
    content = b""
    if body is not None:
        content = json.dumps(body).encode()
        head += ["content-type: application/json", f"content-length: {len(content)}"]
    return "\r\n".join([*head, "", ""]).encode() + content
