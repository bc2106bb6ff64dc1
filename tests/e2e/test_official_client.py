"""The official JavaScript client works with us unchanged: through the PDS, answers checked.

It knows the Ozone methods itself, as they are published, and believes no answer that does not fit.
The methods of spaces it learns from our documents.
"""

import asyncio
import hashlib
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, eventually
from tests.e2e.records import CREATED_AT, SPACE, VERIFICATION, log_in
from tests.localnet import Account, LocalNetwork
from tests.localnet.client import ClientError, OfficialClient

pytestmark = pytest.mark.asyncio(loop_scope="session")

LEXICONS = Path(__file__).parents[2] / "xrpc" / "lexicons"
OZONE_ID = "atproto_labeler"  # Ozone's clients name the service so, whatever runs there
GRANT = "tools.ozone.verification.grantVerifications"
LIST = "tools.ozone.verification.listVerifications"
REVOKE = "tools.ozone.verification.revokeVerifications"
FULL = 100  # verifications; the most that one call takes
# Refusals, as the client's error tells them.
FORBIDDEN = (403, "Forbidden")
INVALID_INVITE = (400, "InvalidInvite")
INVALID_REQUEST = (400, "InvalidRequest")


@asynccontextmanager
async def official_client(
    daemon: Daemon, accounts: Sequence[Account], service: str | None = None
) -> AsyncIterator[OfficialClient]:
    log = daemon.directory / "client.log"
    client = await OfficialClient.start(accounts, service or daemon.service, LEXICONS, log)
    try:
        yield client
    finally:
        await client.stop()


async def read_to_the_end(
    client: OfficialClient, caller: Account, **params: object
) -> list[list[dict[str, Any]]]:
    """Return the pages of a list, one after the other."""
    pages: list[list[dict[str, Any]]] = []
    while True:
        answer = await client.call(caller, LIST, params)
        pages.append(answer.data["verifications"])
        if "cursor" not in answer.data:
            return pages
        assert len(pages) < FULL, "the list has no end"
        params["cursor"] = answer.data["cursor"]


async def refusal(call: Awaitable[object]) -> tuple[int, str]:
    """Return the status and the name of the error that the client throws."""
    with pytest.raises(ClientError) as refused:
        await call
    assert refused.value.kind == "XRPCError"
    return refused.value.status, refused.value.name


def joined(pages: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [view for page in pages for view in page]


def others(count: int) -> list[dict[str, str]]:
    """Return accounts to verify; none of them exists."""
    letters = [chr(ord("a") + n // 26) + chr(ord("a") + n % 26) for n in range(count)]
    return [
        {"subject": f"did:plc:{two:a>24}", "handle": f"{two}.test", "displayName": f"Account {two}"}
        for two in letters
    ]


async def test_an_ozone_client_grants_a_hundred_pages_through_them_and_revokes_them_in_one_call(
    network: LocalNetwork, tmp_path: Path
) -> None:
    operator, verifier, subject = [
        await network.pds.create_account(network.handle(name))
        for name in ("operator", "verifier", "subject")
    ]
    daemon = Daemon.on(
        network,
        tmp_path / "rescind",
        OPERATORS=operator.did,
        VERIFIER=verifier.did,
        SERVICE_ID=OZONE_ID,
    )
    wanted = [
        {"subject": subject.did, "handle": subject.handle, "displayName": "Zoë 🎉"},
        {**others(1)[0], "createdAt": CREATED_AT},
        *others(FULL - 1)[1:],
    ]
    try:
        await daemon.start("--cursor", "oldest")
        await log_in(daemon, verifier)
        async with official_client(
            daemon, (operator, subject), f"{daemon.did}#{OZONE_ID}"
        ) as client:
            granted = (await client.call(operator, GRANT, data={"verifications": wanted})).data

            assert granted["failedVerifications"] == []
            views = granted["verifications"]
            assert [{name: view[name] for name in wanted[0]} for view in views] == [
                {name: one[name] for name in wanted[0]} for one in wanted
            ]
            assert {view["issuer"] for view in views} == {verifier.did}
            assert views[1]["createdAt"] == CREATED_AT
            assert views[0]["valid"] is True
            records = await verifier.list_records(VERIFICATION)
            assert {record["uri"] for record in records} == {view["uri"] for view in views}

            of_verifier = {"issuers": [verifier.did]}
            for limit, sizes in ((100, [100]), (33, [33, 33, 33, 1]), (50, [50, 50])):
                pages = await read_to_the_end(client, operator, limit=limit, **of_verifier)
                assert [len(page) for page in pages] == sizes
                uris = [view["uri"] for view in joined(pages)]
                assert sorted(uris) == sorted(view["uri"] for view in views)
                assert uris[-1] == views[1]["uri"]  # the oldest
            assert joined(
                await read_to_the_end(client, operator, subjects=[subject.did], isRevoked=False)
            ) == [views[0]]
            assert joined(await read_to_the_end(client, subject)) == []  # it granted nothing

            one, too_many = wanted[:1], [*wanted, *wanted[:1]]
            asked = client.call(subject, LIST, {"issuers": [verifier.did]})
            assert await refusal(asked) == FORBIDDEN
            asked = client.call(subject, GRANT, data={"verifications": one})
            assert await refusal(asked) == FORBIDDEN
            asked = client.call(operator, GRANT, data={"verifications": too_many})
            assert await refusal(asked) == INVALID_REQUEST

            uris = [view["uri"] for view in views]
            body = {"uris": uris, "revokeReason": "granted by mistake"}
            strangers = (await client.call(subject, REVOKE, data=body)).data
            assert strangers["revokedVerifications"] == []
            assert [failed["uri"] for failed in strangers["failedRevocations"]] == uris
            revoked = (await client.call(operator, REVOKE, data=body)).data

            assert revoked == {"revokedVerifications": uris, "failedRevocations": []}
            assert await verifier.list_records(VERIFICATION) == []
            assert (
                joined(await read_to_the_end(client, operator, isRevoked=False, **of_verifier))
                == []
            )
            pages = await read_to_the_end(client, operator, isRevoked=True, limit=33, **of_verifier)
            assert [len(page) for page in pages] == [33, 33, 33, 1]
            gone = {view["uri"]: view for view in joined(pages)}
            assert len(gone) == FULL
            for view in views:
                then = gone[view["uri"]]
                assert then["revokedAt"] >= view["createdAt"]
                assert then == view | {
                    "revokedAt": then["revokedAt"],
                    "revokedBy": operator.did,
                    "revokeReason": "granted by mistake",
                    "valid": False,
                }
    finally:
        await daemon.stop()


async def test_the_client_makes_a_space_lets_a_guest_in_and_revokes_the_invites(
    network: LocalNetwork, daemon: Daemon
) -> None:
    owner, guest, late = [
        await network.pds.create_account(network.handle(name))
        for name in ("owner", "guest", "late")
    ]
    await log_in(daemon, owner)
    async with official_client(daemon, (owner, guest, late)) as client:

        async def ask(caller: Account, method: str, **params: object) -> dict[str, Any]:
            return (await client.call(caller, f"{SPACE}.{method}", params)).data

        async def tell(caller: Account, method: str, **data: object) -> dict[str, Any]:
            return (await client.call(caller, f"{SPACE}.{method}", data=data)).data

        space = (await tell(owner, "createSpace", key="party"))["space"]
        uri = space["uri"]
        assert uri == f"at://{owner.did}/{SPACE}/party"
        assert (space["ownerDid"], space["type"], space["key"]) == (owner.did, SPACE, "party")
        assert space["serviceDid"] == daemon.did

        join = await tell(owner, "invite.create", spaceUri=uri, maxUses=2, note="welcome")
        read = await tell(owner, "invite.create", spaceUri=uri, kind="read")
        assert hashlib.sha256(join["token"].encode()).hexdigest() == join["invite"]["tokenHash"]
        assert await ask(guest, "whoami", spaceUri=uri) == {"isOwner": False, "isMember": False}
        assert await refusal(ask(guest, "getSpace", uri=uri)) == FORBIDDEN
        given = {"uri": uri, "inviteToken": read["token"]}
        seen = await client.call_directly(daemon.url, f"{SPACE}.getSpace", given)
        assert seen.data == {"space": space}

        assert await tell(guest, "invite.redeem", token=join["token"]) == {
            "spaceUri": uri,
            "perms": "write",
            "kind": "join",
        }
        assert await ask(guest, "getSpace", uri=uri) == {"space": space}
        assert await ask(guest, "listSpaces") == {"spaces": [space]}
        assert await ask(guest, "whoami", spaceUri=uri) == {"isOwner": False, "isMember": True}
        assert await ask(owner, "whoami", spaceUri=uri) == {"isOwner": True, "isMember": True}
        members = (await ask(guest, "listMembers", spaceUri=uri))["members"]
        assert [member["did"] for member in members] == [owner.did, guest.did]
        listed = (await ask(owner, "invite.list", spaceUri=uri))["invites"]
        assert listed == [read["invite"], join["invite"] | {"usedCount": 1}]

        for invite in (join["invite"], read["invite"]):
            body = {"spaceUri": uri, "tokenHash": invite["tokenHash"]}
            assert await tell(owner, "invite.revoke", **body) == {"ok": True}
        assert await ask(owner, "invite.list", spaceUri=uri) == {"invites": []}
        revoked = (await ask(owner, "invite.list", spaceUri=uri, includeRevoked=True))["invites"]
        assert [one["tokenHash"] for one in revoked] == [one["tokenHash"] for one in listed]
        assert all(one["revokedAt"] >= one["createdAt"] for one in revoked)

        redeemed = tell(late, "invite.redeem", token=join["token"])
        assert await refusal(redeemed) == INVALID_INVITE
        read_again = client.call_directly(daemon.url, f"{SPACE}.getSpace", given)
        assert await refusal(read_again) == FORBIDDEN
        assert await refusal(ask(guest, "invite.list", spaceUri=uri)) == FORBIDDEN
        assert await refusal(ask(guest, "getSpace", uri=f"{uri}-not")) == (404, "NotFound")
        assert await refusal(tell(owner, "createSpace", key="party")) == (400, "AlreadyExists")
        assert await ask(guest, "whoami", spaceUri=uri) == {"isOwner": False, "isMember": True}

        async def what_the_owner_wrote_has_arrived() -> bool:
            headers = (await client.call(owner, f"{SPACE}.whoami", {"spaceUri": uri})).headers
            latest = await network.pds.query("com.atproto.sync.getLatestCommit", {"did": owner.did})
            rev: str = latest.json()["rev"]
            return headers.get("atproto-repo-rev") == rev

        # As soon as the repo is known whole; and when the invites' deletions have come round.
        await eventually(what_the_owner_wrote_has_arrived, 20, "the repo's revision in a header")


async def test_the_client_believes_no_answer_that_does_not_fit_its_lexicon(
    network: LocalNetwork, tmp_path: Path
) -> None:
    account = await network.pds.create_account(network.handle("anyone"))
    service = Daemon.on(network, tmp_path / "rescind")  # never started: only who it would be
    answer = {"verifications": [{"issuer": account.did}], "isOwner": True}
    async with liar(answer) as url, official_client(service, [account]) as client:
        for nsid, missing in ((LIST, "Output/verifications/0"), (f"{SPACE}.whoami", "isMember")):
            with pytest.raises(ClientError) as refused:
                await client.call_directly(url, nsid, {})
            assert refused.value.kind == "XRPCInvalidResponseError"
            assert missing in str(refused.value.cause)


@asynccontextmanager
async def liar(answer: dict[str, Any]) -> AsyncIterator[str]:
    """A service that answers everything with this; yields its URL."""
    body = json.dumps(answer).encode()
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
