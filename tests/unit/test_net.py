"""No URL of a stranger leads us inside, keeps us waiting, fills memory, or gets past FetchError."""

import asyncio
import datetime
import errno
import gzip
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import net
from indexer.net import (
    Answer,
    DiskError,
    FetchError,
    download,
    fetch,
    fetch_json,
    guarded_client,
    is_public,
    parse_json,
    request_json,
)

Reply = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Host:
    """A server on loopback that answers a path by writing what it likes."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.port = 0
        self.paths: list[str] = []
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                self.heads.append(head)
                self.paths.append(head.split(" ")[1])
                length = head.lower().partition("content-length: ")[2].partition("\r")[0]
                self.bodies.append(await reader.readexactly(int(length or 0)))
                await self._reply(self.paths[-1], writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def hosting(
    reply: Reply, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Host]:
    host = Host(reply)
    server = await asyncio.start_server(host.serve, address, 0, ssl=tls)
    host.port = server.sockets[0].getsockname()[1]
    before = asyncio.all_tasks()
    try:
        yield host
    finally:
        server.close()
        for task in asyncio.all_tasks() - before:
            if "serve" in repr(task.get_coro()):
                task.cancel()
        await asyncio.sleep(0)


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def constant(answer: bytes) -> Reply:
    async def reply(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return reply


def redirect(location: str, body: bytes = b"") -> bytes:
    return http(body, "302 Found", f"Location: {location}")


async def reason_of(awaitable: Awaitable[object]) -> str:
    with pytest.raises(FetchError) as caught:
        await awaitable
    return caught.value.reason


@pytest.fixture
async def local() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a development network."""
    async with guarded_client(allow_private=True) as client:
        yield client


@pytest.fixture
async def strict() -> AsyncIterator[httpx.AsyncClient]:
    async with guarded_client(allow_private=False) as client:
        yield client


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[str, int]]]:
    """A hosts file for the test: name to the addresses and ports that are dialled for it."""
    table: dict[str, list[tuple[str, int]]] = {}
    system = socket.getaddrinfo

    def find(host: str, *args: object, **kwargs: object) -> object:
        if host not in table:
            return system(host, *args, **kwargs)  # type: ignore[arg-type]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", to) for to in table[host]]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    return table


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for good.example and 127.0.0.1, and a client's that trusts it."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("good.example"),
                    x509.DNSName("alice.example.com"),
                    x509.DNSName("web.example.com"),
                    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                ]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = folder / "key.pem"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem, secret)
    return server, ssl.create_default_context(cafile=str(pem))


# fmt: off
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "172.32.0.1", "100.63.0.1", "2606:4700:4700::1111", "::ffff:1.1.1.1",
    "64:ff9b::101:101", "2002:101:101::1",
]
PRIVATE = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1",
    "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::101:101", "100::1", "2001::1", "2001:db8::1",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "localhost", "127.1", "",
]
# fmt: on


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_any_other_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "authority",
    [
        "localhost",
        "LOCALHOST.",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:0:0:1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "127。0。0。1",
        "①②⑦.0.0.1",
    ],
)
async def test_no_spelling_of_a_loopback_address_is_dialled(
    strict: httpx.AsyncClient, authority: str
) -> None:
    async with hosting(constant(http(b"inside"))) as host:
        url = f"https://{authority}:{host.port}/"
        reason = await reason_of(fetch(strict, url, max_bytes=99, deadline=5))
        assert reason in {"refused_address", "unreachable"}
        assert host.connections == 0


@pytest.mark.parametrize("authority", ["localhost", "127.0.0.1", "127.1", "[::1]", "10.0.0.1"])
async def test_a_refused_address_is_said_to_be(strict: httpx.AsyncClient, authority: str) -> None:
    url = f"https://{authority}:9/"
    assert await reason_of(fetch(strict, url, max_bytes=99, deadline=5)) == "refused_address"
    with pytest.raises(FetchError, match="refused_address"):
        await strict.post(url, json={})


async def test_one_private_address_among_public_ones_refuses_the_name(
    strict: httpx.AsyncClient, names: dict[str, list[tuple[str, int]]]
) -> None:
    names["mixed.example"] = [("1.1.1.1", 443), ("10.0.0.1", 443)]
    reason = await reason_of(fetch(strict, "https://mixed.example/", max_bytes=9, deadline=5))
    assert reason == "refused_address"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/", "ws://127.0.0.1:9/", "https://u:p@127.0.0.1:9/", "/x", ""]
)
async def test_a_url_that_is_not_plain_https_is_refused(
    strict: httpx.AsyncClient, url: str
) -> None:
    assert await reason_of(fetch(strict, url, max_bytes=99, deadline=5)) == "refused_url"


async def test_a_redirect_to_a_refused_address_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    # 127.0.0.1 plays the Internet, 127.0.0.2 the inside.
    monkeypatch.setattr(net, "_REFUSED_V4", (ipaddress.IPv4Network("127.0.0.2/32"),))
    async with (
        hosting(constant(http(b"secret")), address="127.0.0.2", tls=tls[0]) as inside,
        hosting(constant(redirect(f"https://127.0.0.2:{inside.port}/")), tls=tls[0]) as outside,
        guarded_client(allow_private=False, trust=tls[1]) as client,
    ):
        url = f"https://127.0.0.1:{outside.port}/"
        reason = await reason_of(fetch(client, url, max_bytes=99, deadline=5))
        assert reason == "refused_address"
        assert (outside.connections, inside.connections) == (1, 0)


async def test_a_redirect_to_plain_http_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    monkeypatch.setattr(net, "_REFUSED_V4", ())
    async with (
        hosting(constant(http(b"plain"))) as plain,
        hosting(constant(redirect(plain.url)), tls=tls[0]) as outside,
        guarded_client(allow_private=False, trust=tls[1]) as client,
    ):
        url = f"https://127.0.0.1:{outside.port}/"
        assert await reason_of(fetch(client, url, max_bytes=99, deadline=5)) == "refused_url"
        assert plain.connections == 0


async def test_a_name_that_is_rebound_is_judged_again_for_each_connection(
    monkeypatch: pytest.MonkeyPatch,
    names: dict[str, list[tuple[str, int]]],
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    monkeypatch.setattr(net, "_REFUSED_V4", (ipaddress.IPv4Network("127.0.0.2/32"),))
    closing = constant(http(b"ok", "200 OK", "Connection: close"))
    async with (
        hosting(closing, tls=tls[0]) as host,
        hosting(closing, address="127.0.0.2", tls=tls[0]) as inside,
        guarded_client(allow_private=False, trust=tls[1]) as client,
    ):
        names["good.example"] = [("127.0.0.1", host.port)]
        assert await fetch(client, "https://good.example/", max_bytes=9, deadline=5) == b"ok"
        names["good.example"] = [("127.0.0.2", inside.port)]
        reason = await reason_of(fetch(client, "https://good.example/", max_bytes=9, deadline=5))
        assert reason == "refused_address"
        assert inside.connections == 0


async def test_tls_is_for_the_name_and_not_for_the_address(
    names: dict[str, list[tuple[str, int]]], tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async with (
        hosting(constant(http(b"ok")), tls=tls[0]) as host,
        guarded_client(allow_private=True, trust=tls[1]) as client,
    ):
        names["good.example"] = names["other.example"] = [("127.0.0.1", host.port)]
        assert await fetch(client, "https://good.example/", max_bytes=9, deadline=5) == b"ok"
        assert "host: good.example\r\n" in host.heads[0].lower()
        # The open connection leads to the same address, and is not this host's.
        reason = await reason_of(fetch(client, "https://other.example/", max_bytes=9, deadline=5))
        assert reason == "unreachable"
        assert len(host.paths) == 1


async def test_a_certificate_of_an_unknown_authority_is_unreachable(
    local: httpx.AsyncClient, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async with hosting(constant(http(b"ok")), tls=tls[0]) as host:
        url = f"https://127.0.0.1:{host.port}/"
        assert await reason_of(fetch(local, url, max_bytes=9, deadline=5)) == "unreachable"


async def test_the_second_address_of_a_name_is_tried(
    local: httpx.AsyncClient, names: dict[str, list[tuple[str, int]]]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with hosting(constant(http(b"ok"))) as host:
            names["two.example"] = [closed.getsockname(), ("127.0.0.1", host.port)]
            assert await fetch(local, "http://two.example/", max_bytes=9, deadline=5) == b"ok"


async def test_a_few_redirects_are_followed_and_a_circle_ends(local: httpx.AsyncClient) -> None:
    async def reply(path: str, writer: asyncio.StreamWriter) -> None:
        answers = {"/a": redirect("/b"), "/b": redirect("/c"), "/c": http(b"there")}
        writer.write(answers.get(path) or redirect("/round"))

    async with hosting(reply) as host:
        assert await fetch(local, host.url + "/a", max_bytes=99, deadline=5) == b"there"
        reason = await reason_of(fetch(local, host.url + "/round", max_bytes=99, deadline=5))
        assert reason == "too_many_redirects"
        assert host.paths.count("/round") == net.MAX_REDIRECTS + 1


async def test_the_body_of_a_redirect_is_not_read(local: httpx.AsyncClient) -> None:
    async def reply(path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/there":
            writer.write(http(b"there"))
            return
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Encoding: gzip\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with hosting(reply) as host:
        assert await fetch(local, host.url, max_bytes=99, deadline=5) == b"there"


async def test_a_post_follows_no_redirect(local: httpx.AsyncClient) -> None:
    async with (
        hosting(constant(http(b"{}"))) as thief,
        hosting(constant(http(b"", "307 Moved", f"Location: {thief.url}"))) as host,
    ):
        answer = await request_json(
            local, "POST", host.url, json={"password": "p"}, deadline=5, max_bytes=99
        )
        assert (answer.status, answer.body) == (307, None)
        assert thief.connections == 0


async def test_a_request_gives_any_status_as_a_value(local: httpx.AsyncClient) -> None:
    body = b'{"error":"ExpiredToken","message":"m"}'
    async with hosting(constant(http(body, "400 Bad", "Retry-After: 7"))) as host:
        status, headers, parsed = await request_json(
            local,
            "POST",
            host.url + "/xrpc/a.b.c",
            json={"a": "ü"},
            headers={"authorization": "Bearer x"},
            params={"q": "1"},
            deadline=5,
            max_bytes=99,
        )
        assert (status, headers["retry-after"]) == (400, "7")
        assert parsed == {"error": "ExpiredToken", "message": "m"}
        assert host.paths == ["/xrpc/a.b.c?q=1"]
        assert json.loads(host.bodies[0]) == {"a": "ü"}
        assert "authorization: Bearer x" in host.heads[0]


async def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not(
    local: httpx.AsyncClient,
) -> None:
    async with hosting(constant(http(b"12345"))) as host:
        assert await fetch(local, host.url, max_bytes=5, deadline=5) == b"12345"
        assert await reason_of(fetch(local, host.url, max_bytes=4, deadline=5)) == "too_large"


async def test_an_endless_body_is_left_at_the_limit(local: httpx.AsyncClient) -> None:
    sent = 0

    async def reply(_path: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < 100_000_000:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with hosting(reply) as host:
        assert await reason_of(fetch(local, host.url, max_bytes=9999, deadline=5)) == "too_large"
    assert sent < 50_000_000


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_drip_is_left_at_the_deadline(local: httpx.AsyncClient, head: bytes) -> None:
    async def reply(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:  # each read gets something in time, so that only a total limit helps
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with hosting(reply) as host:
        started = time.monotonic()
        assert await reason_of(fetch(local, host.url, max_bytes=9999, deadline=0.3)) == "timeout"
        assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "deflate", "gzip, gzip"])
async def test_a_compressed_answer_is_not_opened(local: httpx.AsyncClient, encoding: str) -> None:
    bomb = gzip.compress(b"0" * 10_000_000)
    async with hosting(constant(http(bomb, "200 OK", f"Content-Encoding: {encoding}"))) as host:
        assert await reason_of(fetch(local, host.url, max_bytes=99_999, deadline=5)) == "bad_body"
        assert "accept-encoding: identity\r\n" in host.heads[0].lower()


async def test_cookies_are_not_kept(local: httpx.AsyncClient) -> None:
    async with hosting(constant(http(b"ok", "200 OK", "Set-Cookie: a=b; Path=/"))) as host:
        for _ in range(2):
            await fetch(local, host.url, max_bytes=99, deadline=5)
        assert "cookie" not in host.heads[1].lower()
        assert not local.cookies


@pytest.mark.parametrize("status", ["404 No", "410 Gone", "500 Oops", "204 Empty", "304 Same"])
async def test_only_a_2xx_is_fetched(local: httpx.AsyncClient, status: str) -> None:
    async with hosting(
        constant(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
    ) as host:
        if status.startswith("2"):
            assert await fetch(local, host.url, max_bytes=9, deadline=5) == b""
            return
        with pytest.raises(FetchError) as caught:
            await fetch(local, host.url, max_bytes=9, deadline=5)
        assert (caught.value.reason, caught.value.status) == ("bad_status", int(status[:3]))


GARBAGE = [
    b"",
    b"\x00\xff\xfe",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"HTTP/1.1 xyz\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nNo colon here\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: https://[::bad\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://xn--\xff/\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://xn--999999999/\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://a..b/\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:99999/\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: javascript:alert(1)\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: \r\n\r\n",
]


@pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_becomes_a_fetch_error(local: httpx.AsyncClient, answer: bytes) -> None:
    async def reply(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with hosting(reply) as host:
        await reason_of(fetch_json(local, host.url, max_bytes=9999, deadline=2))


@settings(max_examples=200, deadline=None)
@given(url=st.text(max_size=80) | st.text(max_size=40).map("https://".__add__))
async def test_no_url_at_all_gets_past_fetch_error(url: str) -> None:
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nobody; the usual ones take long to read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", no_names)
        async with guarded_client(allow_private=False, trust=trust) as client:
            with pytest.raises(FetchError):
                await fetch(client, url, max_bytes=1, deadline=1)


def no_names(host: str, *_args: object, **_kwargs: object) -> object:
    host.encode("idna")  # as the real one does
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def test_a_closed_port_and_an_unknown_name_are_unreachable(local: httpx.AsyncClient) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        assert await reason_of(fetch(local, url, max_bytes=9, deadline=5)) == "unreachable"
    reason = await reason_of(fetch(local, "http://a..b/", max_bytes=9, deadline=5))
    assert reason == "unreachable"


async def save(
    client: httpx.AsyncClient,
    url: str,
    sink: BytesIO,
    *,
    max_bytes: int = 1_000_000,
    deadline: float = 5,
    slowest: float = 1,
) -> Answer | None:
    return await download(
        client, url, sink, max_bytes=max_bytes, deadline=deadline, slowest=slowest
    )


async def test_a_download_is_written_to_its_file_also_behind_a_redirect(
    local: httpx.AsyncClient,
) -> None:
    async def reply(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"x" * 300_000) if path == "/there" else redirect("/there"))

    async with hosting(reply) as host:
        sink = BytesIO()
        assert await save(local, host.url, sink) is None
        assert sink.getvalue() == b"x" * 300_000


@pytest.mark.parametrize("status", ["400 Bad", "404 No", "429 Slow", "500 Oops", "206 Part"])
async def test_another_answer_than_200_is_returned_and_nothing_is_written(
    local: httpx.AsyncClient, status: str
) -> None:
    body = b'{"error":"RepoNotFound"}'
    async with hosting(constant(http(body, status, "Retry-After: 3"))) as host:
        sink = BytesIO()
        answer = await save(local, host.url, sink)
        assert answer is not None
        assert (answer.status, answer.body) == (int(status[:3]), {"error": "RepoNotFound"})
        assert answer.headers["retry-after"] == "3"
        assert sink.getvalue() == b""


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b'{"a":1,"a":2}'])
async def test_an_answer_that_refuses_without_json_has_no_body(
    local: httpx.AsyncClient, body: bytes
) -> None:
    async with hosting(constant(http(body, "503 Down"))) as host:
        answer = await save(local, host.url, BytesIO())
        assert answer is not None
        assert (answer.status, answer.body) == (503, None)


async def test_an_endless_download_is_left_at_the_limit_whatever_its_status(
    local: httpx.AsyncClient,
) -> None:
    async def reply(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %s X\r\n\r\n" % path[1:].encode())
        for _ in range(1_000):
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with hosting(reply) as host:
        sink = BytesIO()
        assert await reason_of(save(local, host.url + "/200", sink, max_bytes=99_999)) == (
            "too_large"
        )
        assert len(sink.getvalue()) < 999_999
        assert await reason_of(save(local, host.url + "/500", BytesIO())) == "too_large"


@pytest.mark.parametrize("head", ["Content-Length: 99", "Transfer-Encoding: chunked"])
async def test_a_download_that_breaks_off_is_an_error(local: httpx.AsyncClient, head: str) -> None:
    async def reply(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n".encode())
        await writer.drain()
        writer.close()

    async with hosting(reply) as host:
        assert await reason_of(save(local, host.url, BytesIO())) == "unreachable"


def dripping(size: int, pause: float) -> Reply:
    async def reply(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        for _ in range(10_000 // size):
            writer.write(b"x" * size)
            await writer.drain()
            await asyncio.sleep(pause)

    return reply


async def test_a_host_that_drips_is_left_long_before_the_deadline(
    local: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "STEP_TIMEOUT", 0.2)
    async with hosting(dripping(10, 0.01)) as host:  # at most 1,000 bytes a second
        started = time.monotonic()
        reason = await reason_of(save(local, host.url, BytesIO(), slowest=5_000))
        assert reason == "timeout"
        assert time.monotonic() - started < 1.5


async def test_a_host_that_begins_fast_and_then_drips_is_left_too(
    local: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "STEP_TIMEOUT", 0.2)

    async def reply(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + b"x" * 50_000)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with hosting(reply) as host:
        started = time.monotonic()
        assert await reason_of(save(local, host.url, BytesIO(), slowest=5_000)) == "timeout"
        assert time.monotonic() - started < 1.5


async def test_a_slow_download_that_is_fast_enough_goes_on_to_its_end(
    local: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "STEP_TIMEOUT", 0.1)
    async with hosting(dripping(500, 0.02)) as host:
        sink = BytesIO()
        assert await save(local, host.url, sink, slowest=1_000) is None
        assert len(sink.getvalue()) == 10_000


async def test_a_download_ends_at_its_deadline(local: httpx.AsyncClient) -> None:
    async with hosting(dripping(10, 0.01)) as host:
        started = time.monotonic()
        assert await reason_of(save(local, host.url, BytesIO(), deadline=0.3)) == "timeout"
        assert time.monotonic() - started < 1.5


async def test_a_disk_that_is_full_is_our_fault_and_not_the_hosts(
    local: httpx.AsyncClient,
) -> None:
    class FullDisk(BytesIO):
        def write(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    async with hosting(constant(http(b"hello"))) as host:
        with pytest.raises(DiskError, match="No space left"):
            await save(local, host.url, FullDisk())


async def test_a_cancelled_request_is_cancelled_and_leaves_the_client_usable(
    local: httpx.AsyncClient,
) -> None:
    async def reply(path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/hang":
            await asyncio.sleep(30)
        writer.write(http(b"ok"))

    async with hosting(reply) as host:
        task = asyncio.create_task(fetch(local, host.url + "/hang", max_bytes=9, deadline=9))
        while not host.paths:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await fetch(local, host.url, max_bytes=9, deadline=5) == b"ok"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{}{}",
        b"NaN",
        b"[Infinity]",
        b'{"a":1,"a":1}',
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 33 + b"]" * 33,
        b"9" * 5000,
        "{}".encode("utf-16"),
    ],
    ids=lambda raw: repr(raw[:16]),
)
def test_json_that_is_not_strict_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any kind of it)
        parse_json(raw)


def test_strict_json_is_read() -> None:
    assert parse_json(b'{"a":[1,-2.5,true,null,"\\ud83d\\ude00"]}') == {
        "a": [1, -2.5, True, None, "😀"]
    }
    assert parse_json(b"[" * 31 + b"]" * 31) is not None


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:\\udNa019', max_size=60).map(str.encode))
def test_json_is_refused_or_can_be_stored(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except ValueError:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=True).encode()
