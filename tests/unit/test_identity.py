"""DIDs and handles are resolved from real hosts, however those behave, and asked for sparingly."""

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rrset
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import identity as module
from indexer.identity import Identity, IdentityError, IdentityResolver, parse_document
from indexer.net import guarded_client
from tests.unit.keys import Key, document, method, service
from tests.unit.test_net import Host, Reply, constant, hosting, http, names, redirect, tls

__all__ = ["names", "tls"]  # fixtures

DID = "did:plc:" + "a" * 24
OTHER = "did:plc:" + "b" * 24
KEY = Key.k256()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Directory:
    """A PLC directory on loopback: DID to document, or to a raw HTTP answer."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.open = asyncio.Event()  # cleared: questions wait
        self.open.set()

    async def reply(self, path: str, writer: asyncio.StreamWriter) -> None:
        found = self.documents.get(path.removeprefix("/"))
        await self.open.wait()
        if found is None:
            writer.write(http(b'{"message":"not registered"}', "404 Not Found"))
        elif isinstance(found, bytes):
            writer.write(found)
        else:
            writer.write(http(json.dumps(found).encode()))


class Network:
    """A directory, a client and a resolver for them."""

    def __init__(self, plc: Directory, host: Host, client: httpx.AsyncClient) -> None:
        self.plc = plc
        self.host = host
        self.client = client
        self.clock = Clock()
        self.resolver = self.make()

    def make(self, **changes: Any) -> IdentityResolver:
        options: dict[str, Any] = {
            "allow_private": True,
            "clock": self.clock,
            "names": resolver_at(1),
            **changes,
        }
        return IdentityResolver(self.host.url + "/", self.client, **options)

    @property
    def asked(self) -> int:
        return len(self.host.paths)


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    plc = Directory()
    async with hosting(plc.reply) as host, guarded_client(allow_private=True) as client:
        made = Network(plc, host, client)
        yield made
        await made.resolver.aclose()


def resolver_at(port: int) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = port
    return resolver


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


async def failure(awaitable: Any) -> str:
    with pytest.raises(IdentityError) as caught:
        await awaitable
    return caught.value.reason


def refuses(body: Any) -> str:
    with pytest.raises(IdentityError) as caught:
        parse_document(DID, body, allow_private=False)
    return caught.value.reason


# --- documents ---


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
        ("https://pds.example/path", None),
        ("https://pds.example?q", None),
        ("https://pds.example/#f", None),
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
def test_a_pds_is_a_plain_https_origin(endpoint: Any, pds: str | None) -> None:
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


# --- the cache ---


async def test_fifty_who_wait_make_one_request(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    network.plc.open.clear()
    tasks = [asyncio.create_task(network.resolver.resolve(DID)) for _ in range(50)]
    await settled(network)
    network.plc.open.set()
    assert len(set(await asyncio.gather(*tasks))) == 1
    assert network.asked == 1


async def test_who_leaves_does_not_take_the_answer_from_those_who_stay(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    network.plc.open.clear()
    first, second = (asyncio.create_task(network.resolver.resolve(DID)) for _ in range(2))
    await settled(network)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    network.plc.open.set()
    assert (await second).did == DID
    assert network.asked == 1


async def settled(network: Network, asked: int = 1) -> None:
    async with asyncio.timeout(5):
        while network.asked < asked:
            await asyncio.sleep(0.005)


async def test_a_document_is_asked_again_when_it_is_old(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = document(DID, new := Key.p256())
    network.clock.now += module.FRESH - 1
    assert (await network.resolver.resolve(DID)).signing_key == KEY.did_key
    network.clock.now += 1
    assert (await network.resolver.resolve(DID)).signing_key == new.did_key


async def test_a_failure_is_remembered_for_a_short_time(network: Network) -> None:
    for _ in range(3):
        assert await failure(network.resolver.resolve(DID)) == "not_found"
    assert network.asked == 1
    network.plc.documents[DID] = document(DID, KEY)
    network.clock.now += module.FAILURE
    assert (await network.resolver.resolve(DID)).did == DID


async def test_an_old_document_serves_on_for_a_day_while_its_host_is_away(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = http(b"", "503 Away")
    network.clock.now += module.FRESH
    for _ in range(3):
        assert (await network.resolver.resolve(DID)).signing_key == KEY.did_key
    assert network.asked == 2  # not at each call
    network.clock.now += module.STALE
    assert await failure(network.resolver.resolve(DID)) == "unreachable"


@pytest.mark.parametrize("answer", [http(b"", "404 No"), http(b"", "410 Gone"), http(b"[]")])
async def test_an_old_document_ends_when_its_host_says_so(network: Network, answer: bytes) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = answer
    network.clock.now += module.FRESH
    assert await failure(network.resolver.resolve(DID)) in {"not_found", "bad_document"}


async def test_a_forced_refresh_asks_once_in_a_while(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = document(DID, new := Key.k256())
    assert (await network.resolver.resolve(DID, refresh=True)).signing_key == new.did_key
    for _ in range(5):
        assert (await network.resolver.resolve(DID, refresh=True)).signing_key == new.did_key
    assert network.asked == 2
    network.clock.now += module.REFRESH_PAUSE
    await network.resolver.resolve(DID, refresh=True)
    assert network.asked == 3


async def test_a_forced_refresh_of_a_host_that_is_away_gives_the_old_document(
    network: Network,
) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.plc.documents[DID] = http(b"", "503 Away")
    for _ in range(3):
        assert (await network.resolver.resolve(DID, refresh=True)).signing_key == KEY.did_key
    assert network.asked == 2


async def test_what_is_forgotten_is_asked_again(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    await network.resolver.resolve(DID)
    network.resolver.forget(DID)
    network.resolver.forget(OTHER)
    await network.resolver.resolve(DID)
    assert network.asked == 2


async def test_an_answer_from_before_it_was_forgotten_is_not_remembered(network: Network) -> None:
    network.plc.documents[DID] = document(DID, KEY)
    network.plc.open.clear()
    before = asyncio.create_task(network.resolver.resolve(DID))
    await settled(network)
    network.resolver.forget(DID)
    network.plc.documents[DID] = document(DID, new := Key.k256())
    after = asyncio.create_task(network.resolver.resolve(DID))
    await settled(network, 2)
    network.plc.open.set()
    assert (await before).signing_key == KEY.did_key
    assert (await after).signing_key == new.did_key
    assert (await network.resolver.resolve(DID)).signing_key == new.did_key


def dids(count: int) -> Iterable[str]:
    return ("did:plc:" + "a" * 21 + f"{n:03}".translate(str.maketrans("0189", "wxyz"))
            for n in range(count))  # fmt: skip


async def test_the_cache_is_bounded_and_keeps_what_is_used(network: Network) -> None:
    resolver = network.make(size=3)
    network.plc.documents = {did: document(did, KEY) for did in dids(6)}
    first, *rest = dids(6)
    for did in rest:
        await resolver.resolve(first)
        await resolver.resolve(did)
    assert network.host.paths.count(f"/{first}") == 1
    assert network.asked == 6
    assert len(resolver._identities._entries) == 3
    await resolver.resolve(rest[0])
    assert network.asked == 7


async def test_the_questions_at_once_are_bounded(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ASKING", 2)
    network.plc.open.clear()
    for did in dids(2):
        task = asyncio.create_task(network.resolver.resolve(did))
        await asyncio.sleep(0)
        task.cancel()  # the question stays
    async with asyncio.timeout(1):
        assert await failure(network.resolver.resolve(DID)) == "unreachable"
    network.plc.open.set()


async def test_closing_ends_what_is_under_way(network: Network) -> None:
    network.plc.open.clear()
    task = asyncio.create_task(network.resolver.resolve(DID))
    await settled(network)
    await network.resolver.aclose()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not network.resolver._identities._tasks


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
