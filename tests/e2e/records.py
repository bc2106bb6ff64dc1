"""Records of ours, as a client would write them, and the two calls that revoke them."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

import httpx

from tests.e2e.daemon import Daemon
from tests.localnet import Account

SPACE = "rsvp.atmo.space"
INVITE = "rsvp.atmo.space.invite"
VERIFICATION = "app.bsky.graph.verification"
REVOKE_INVITE = "rsvp.atmo.space.invite.revoke"
REVOKE_VERIFICATIONS = "tools.ozone.verification.revokeVerifications"
CREATED_AT = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True, slots=True)
class Invite:
    """An invite of a space; `token_hash` names it, the token itself is nowhere."""

    uri: str
    cid: str
    space_uri: str
    token_hash: str

    @property
    def rkey(self) -> str:
        return self.uri.rpartition("/")[2]

    @property
    def body(self) -> dict[str, str]:
        """What revokes it."""
        return {"spaceUri": self.space_uri, "tokenHash": self.token_hash}


def token_hash() -> str:
    return hashlib.sha256(secrets.token_bytes(32)).hexdigest()


async def create_space(owner: Account, rkey: str = "party") -> str:
    record = {"name": "Party", "createdAt": CREATED_AT}
    return (await owner.create_record(SPACE, record, rkey)).uri


async def create_invite(author: Account, space_uri: str, **fields: Any) -> Invite:
    record = {"space": space_uri, "tokenHash": token_hash(), "createdAt": CREATED_AT} | fields
    uri, cid = await author.create_record(INVITE, record)
    return Invite(uri, cid, space_uri, record["tokenHash"])


def verification_of(subject: Account, name: str = "Subject") -> dict[str, str]:
    return {
        "subject": subject.did,
        "handle": subject.handle,
        "displayName": name,
        "createdAt": CREATED_AT,
    }


async def create_verifications(issuer: Account, subject: Account, count: int) -> list[str]:
    """Grant that many verifications in one commit; return their URIs."""
    answer = await issuer.apply_writes(
        [
            {
                "$type": "com.atproto.repo.applyWrites#create",
                "collection": VERIFICATION,
                "value": {"$type": VERIFICATION, **verification_of(subject, f"Subject {number}")},
            }
            for number in range(count)
        ]
    )
    return [result["uri"] for result in answer["results"]]


async def revoke_verifications(
    daemon: Daemon, caller: Account, uris: list[str], reason: str | None = None
) -> httpx.Response:
    """Call the daemon directly, with a token of the caller's PDS."""
    body = {"uris": uris} | ({} if reason is None else {"revokeReason": reason})
    token = await caller.service_auth(daemon.service, REVOKE_VERIFICATIONS)
    return await daemon.call(REVOKE_VERIFICATIONS, body, token)


async def log_in(daemon: Daemon, account: Account, name: str | None = None) -> None:
    """Give the daemon a session for the account, by an app password, as an operator would.

    `name` is a handle or a DID; by default the account's handle.
    """
    password = await account.create_app_password(secrets.token_hex(4))
    await daemon.ok("login", name or account.handle, stdin=f"{password}\n")
