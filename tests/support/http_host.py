"""A server on loopback that may do whatever it likes, and clients that meet it."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from indexer.net.guard import FetchError, guarded_client

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


async def silence(_path: str, _writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


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
