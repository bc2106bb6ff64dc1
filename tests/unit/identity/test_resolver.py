"""DIDs and handles are resolved from real hosts, however those behave."""

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rrset
import pytest

from indexer.identity import resolver as module
from indexer.identity.resolver import IdentityResolver
from indexer.net.guard import guarded_client
from tests.support.account_keys import document
from tests.support.http_host import Reply, constant, hosting, http, names, redirect, tls
from tests.support.plc_directory import DID, KEY, OTHER, Network, failure, network, resolver_at

__all__ = ["names", "network", "tls"]  # fixtures


@asynccontextmanager
async def dns_with(
    records: dict[str, list[str]],
) -> AsyncIterator[dns.asyncresolver.Resolver]:
    """A name server on loopback that has these TXT records."""

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            name = query.question[0].name.to_text()
            if name in records:
                texts = [f'"{text}"' for text in records[name]]
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *texts))
            self.transport.sendto(answer.to_wire(), addr)  # type: ignore[attr-defined]

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    try:
        yield resolver_at(transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


# --- DIDs ---


async def test_a_plc_did_is_asked_of_the_directory(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    assert (await network.resolver.resolve(DID)).signing_key == KEY.did_key
    assert network.host.paths == [f"/{DID}"]


@pytest.mark.parametrize(
    ("did", "reason"),
    [
        ("did:plc:../../admin", "invalid_did"),
        ("did:plc:" + "a" * 23, "invalid_did"),
        ("did:plc:" + "a" * 25, "invalid_did"),
        ("did:plc:" + "A" * 24, "invalid_did"),
        ("did:plc:" + "a" * 23 + "1", "invalid_did"),
        ("did:plc:" + "a" * 24 + "\n", "invalid_did"),
        ("did:plc:" + "a" * 24 + "#atproto", "invalid_did"),
        ("did:plc:", "invalid_did"),
        ("did:plc:%2e%2e%2fadmin%2faaaaaaaaa", "invalid_did"),
        ("did:web:", "invalid_did"),
        ("did:web:example.com:user", "invalid_did"),
        ("did:web:example.com%3A8443", "invalid_did"),
        ("did:web:example.com%2Fx", "invalid_did"),
        ("did:web:127.0.0.1", "invalid_did"),
        ("did:web:localhost%3a80", "invalid_did"),
        ("did:web:localhost%3A80%3A80", "invalid_did"),
        ("did:web:-x.com", "invalid_did"),
        ("did:key:zQ3shunBKsXixLxKtC5qeSG9E4J5RkGN57im31pcTzbNQnm5w", "unsupported_method"),
        ("alice.test", "invalid_did"),
        ("", "invalid_did"),
        ("did:web:" + "a." * 1500 + "com", "invalid_did"),
    ],
)
async def test_a_did_that_is_not_one_is_asked_of_nobody(
    network: Network, did: str, reason: str
) -> None:
    assert await failure(network.resolver.resolve(did)) == reason
    assert network.asked == 0


async def test_a_web_did_is_asked_of_its_host_over_https(
    network: Network,
    names: dict[str, list[tuple[str, int]]],
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    did = "did:web:web.example.com"
    body = http(json.dumps(document(did, KEY)).encode())
    async with (
        hosting(constant(body), tls=tls[0]) as host,
        guarded_client(allow_private=True, trust=tls[1]) as client,
    ):
        names["web.example.com"] = [("127.0.0.1", host.port)]
        resolver = IdentityResolver(network.host.url, client)
        assert (await resolver.resolve(did)).signing_key == KEY.did_key
        assert host.paths == ["/.well-known/did.json"]


async def test_a_web_did_of_localhost_is_for_development(network: Network) -> None:
    did = f"did:web:localhost%3A{network.host.port}"
    network.plc.documents[".well-known/did.json"] = document(did, KEY)
    assert (await network.resolver.resolve(did)).signing_key == KEY.did_key
    resolver = network.make(allow_private=False)
    assert await failure(resolver.resolve(did)) == "invalid_did"
    assert await failure(resolver.resolve("did:web:localhost")) == "invalid_did"


async def test_a_web_did_of_a_private_address_is_unreachable(
    names: dict[str, list[tuple[str, int]]],
) -> None:
    async with (
        hosting(constant(http(b"{}"))) as host,
        guarded_client(allow_private=False) as client,
    ):
        names["inside.example.com"] = [("127.0.0.1", host.port)]
        resolver = IdentityResolver("https://plc.example", client)
        assert await failure(resolver.resolve("did:web:inside.example.com")) == "unreachable"
        assert host.connections == 0


def slow(pause: float) -> Reply:
    async def reply(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n{")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(pause)

    return reply


FAULTS: dict[str, tuple[bytes, str]] = {
    "gone": (http(b"{}", "410 Gone"), "not_found"),
    "broken": (http(b"{}", "500 Oops"), "unreachable"),
    "too large": (http(b" " * 70_000), "bad_document"),
    "compressed": (http(gzip.compress(b"0" * 9999), "200 OK", "Content-Encoding: gzip"),
                   "bad_document"),
    "not JSON": (http(b"<html>"), "bad_document"),
    "deep": (http(b'{"id":' * 9999), "bad_document"),
    "double": (http(b'{"id":"a","id":"b"}'), "bad_document"),
    "surrogate": (http(b'{"id":"\\ud800"}'), "bad_document"),
    "not HTTP": (b"220 smtp ready\r\n\r\n", "unreachable"),
    "circle": (redirect("/" + DID), "unreachable"),
    "wrong id": (http(json.dumps(document(OTHER, KEY)).encode()), "bad_document"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_host_at_fault_becomes_a_reason(network: Network, fault: str) -> None:
    answer, reason = FAULTS[fault]
    network.plc.documents[DID] = answer
    assert await failure(network.resolver.resolve(DID)) == reason


async def test_a_host_that_drips_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.2)
    async with hosting(slow(0.02)) as host, guarded_client(allow_private=True) as client:
        resolver = IdentityResolver(host.url, client)
        async with asyncio.timeout(2):
            assert await failure(resolver.resolve(DID)) == "unreachable"


# --- handles ---


async def test_a_handle_is_resolved_by_dns_and_claimed_by_its_did(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY, alsoKnownAs=["at://alice.example.com"])
    async with dns_with({"_atproto.alice.example.com.": ["hello", f"did={DID}"]}) as server:
        resolver = network.make(names=server)
        assert await resolver.resolve_handle("Alice.Example.COM") == DID
        assert await resolver.resolve_handle("alice.example.com") == DID
    assert network.asked == 1


async def test_a_handle_that_its_did_does_not_claim_is_refused(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY, alsoKnownAs=["at://bob.example.com"])
    async with dns_with({"_atproto.alice.example.com.": [f"did={DID}"]}) as server:
        resolver = network.make(names=server)
        assert await failure(resolver.resolve_handle("alice.example.com")) == "handle_mismatch"


async def test_a_handle_that_was_claimed_a_moment_ago_is_seen(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY, alsoKnownAs=["at://bob.example.com"])
    async with dns_with({"_atproto.alice.example.com.": [f"did={DID}"]}) as server:
        resolver = network.make(names=server)
        await resolver.resolve(DID)
        network.plc.documents[DID] = document(DID, KEY, alsoKnownAs=["at://alice.example.com"])
        assert await resolver.resolve_handle("alice.example.com") == DID


async def test_two_dids_in_dns_are_none(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY, alsoKnownAs=["at://alice.example.com"])
    records = {"_atproto.alice.example.com.": [f"did={DID}", f"did={OTHER}"]}
    async with dns_with(records) as server:
        resolver = network.make(names=server)
        assert await failure(resolver.resolve_handle("alice.example.com")) == "not_found"


@pytest.mark.parametrize("text", ["did=", "did=did:key:zabc", "did=did:plc:..", "did=\\255\\254"])
async def test_a_record_that_is_no_did_of_ours_is_refused(network: Network, text: str) -> None:
    async with dns_with({"_atproto.alice.example.com.": [text]}) as server:
        reason = await failure(network.make(names=server).resolve_handle("alice.example.com"))
        assert reason in {"invalid_did", "unsupported_method"}
    assert network.asked == 0


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (f" {DID}\n".encode(), DID),
        (b"<html>", "invalid_did"),
        (b"\xff", "invalid_did"),
        (b" " * 3000, "bad_document"),
    ],
)
async def test_a_handle_without_dns_record_is_resolved_by_its_well_known_document(
    network: Network,
    names: dict[str, list[tuple[str, int]]],
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    body: bytes,
    result: str,
) -> None:
    network.plc.documents[DID] = document(DID, KEY, alsoKnownAs=["at://alice.example.com"])
    async with (
        hosting(constant(http(body)), tls=tls[0]) as host,
        guarded_client(allow_private=True, trust=tls[1]) as client,
        dns_with({}) as server,
    ):
        names["alice.example.com"] = [("127.0.0.1", host.port)]
        resolver = IdentityResolver(network.host.url, client, names=server)
        if result == DID:
            assert await resolver.resolve_handle("alice.example.com") == DID
        else:
            assert await failure(resolver.resolve_handle("alice.example.com")) == result
        assert host.paths == ["/.well-known/atproto-did"]


async def test_a_local_network_asks_its_pds_instead_of_dns(network: Network) -> None:
    path = "xrpc/com.atproto.identity.resolveHandle?handle=alice.test"
    network.plc.documents = {DID: document(DID, KEY), path: {"did": DID}}
    resolver = network.make(handle_resolver=network.host.url + "/")
    assert await resolver.resolve_handle("alice.test") == DID
    assert await resolver.resolve_handle("alice.test") == DID
    assert network.host.paths == [f"/{path}", f"/{DID}"]


@pytest.mark.parametrize("answer", [{}, [], {"did": 7}, {"did": ""}, http(b"", "400 No")])
async def test_a_resolver_that_does_not_know_a_handle_is_not_believed(
    network: Network, names: dict[str, list[tuple[str, int]]], answer: Any
) -> None:
    names["alice.test"] = []
    path = "xrpc/com.atproto.identity.resolveHandle?handle=alice.test"
    network.plc.documents = {path: answer}
    resolver = network.make(handle_resolver=network.host.url)
    reason = await failure(resolver.resolve_handle("alice.test"))
    assert reason == ("invalid_did" if answer == {"did": ""} else "unreachable")


@pytest.mark.parametrize(
    "handle",
    [
        "alice.local",
        "alice.arpa",
        "alice.invalid",
        "alice.localhost",
        "alice.internal",
        "alice.example",
        "alice.alt",
        "alice.onion",
        "alice.ONION",
        "alice.test",
        "alice",
        "",
        "127.0.0.1",
        "alice.com/../x",
        "alice.com\n",
        "@alice.com",
        "a" * 64 + ".com",
    ],
)
async def test_a_name_that_is_no_handle_of_the_internet_is_asked_of_nobody(
    network: Network, handle: str
) -> None:
    resolver = network.make(allow_private=False, handle_resolver=network.host.url)
    assert await failure(resolver.resolve_handle(handle)) == "invalid_handle"
    assert network.asked == 0
