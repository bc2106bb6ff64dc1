"""A private authority and a proxy hold for all traffic, and the check of addresses with them."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import structlog

from indexer.cli.base import told_plainly
from indexer.identity.model import IdentityError
from indexer.identity.resolver import IdentityResolver
from indexer.net import egress
from indexer.net.egress import EgressError, Proxy, proxy_for, trust
from indexer.net.guard import FetchError, guarded_client
from indexer.net.requests import fetch
from indexer.stream import firehose
from indexer.stream.firehose import Firehose
from tests.support.connect_proxy import ConnectProxy, connect_proxy
from tests.support.fake_relay import relaying
from tests.support.http_host import constant, hosting, http, names, tls

__all__ = ["names", "tls"]  # fixtures

Tls = tuple[ssl.SSLContext, ssl.SSLContext]
Names = dict[str, list[tuple[str, int]]]
PUBLIC = "93.184.215.14"


@pytest.fixture(autouse=True)
def no_proxy_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def authority(tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The private authority of the test's hosts, as the operator names it."""
    path = tmp_path / "private.pem"
    async with hosting(constant(b""), tls=tls[0]) as host:
        at = ("127.0.0.1", host.port)
        path.write_text(await asyncio.to_thread(ssl.get_server_certificate, at))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ConnectProxy]:
    async with connect_proxy() as made:
        monkeypatch.setenv("HTTPS_PROXY", made.url)
        yield made


async def get(url: str, *, allow_private: bool = True) -> bytes:
    async with guarded_client(allow_private=allow_private) as client:
        return await fetch(client, url, max_bytes=99, deadline=5)


async def failure(url: str, *, allow_private: bool = True) -> str:
    with pytest.raises(FetchError) as caught:
        await get(url, allow_private=allow_private)
    return str(caught.value)


async def first_frame(relay: Firehose) -> bytes:
    async with asyncio.timeout(10):
        async with aclosing(relay.connections(lambda: 0)) as connections:
            async for connection in connections:
                async with aclosing(connection.frames()) as received:
                    async for frames in received:
                        return frames[0]
    raise AssertionError("a firehose never ends")


async def complaint(relay: Firehose, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return why there is no connection, as the log has it."""
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def warning(event: str, **values: object) -> None:
        if not told.done():
            told.set_result(f"{event}: {values['reason']}")

    monkeypatch.setattr(firehose._log, "warning", warning)
    trying = asyncio.create_task(first_frame(relay))
    try:
        return await asyncio.wait_for(told, 10)
    finally:
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)


# --- whom TLS trusts ---


@pytest.mark.usefixtures("authority")
async def test_a_private_authority_is_trusted_by_http_and_by_the_stream(
    tls: Tls, names: Names
) -> None:
    async with hosting(constant(http(b"hello")), tls=tls[0]) as host:
        names["good.example"] = [("127.0.0.1", host.port)]
        assert await get("https://good.example/") == b"hello"
    async with relaying(tls[0]) as relay:
        relay.add(1, b"frame")
        port = relay.url.rpartition(":")[2]
        names["good.example"] = [("127.0.0.1", int(port))]
        assert await first_frame(Firehose(f"wss://good.example:{port}")) == b"frame"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_authorities_that_can_not_be_used_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(EgressError, match=f"SSL_CERT_FILE: {path}: "):
        trust()
    with pytest.raises(Exception, match="SSL_CERT_FILE") as caught, told_plainly():
        Firehose("wss://relay.example")
    assert type(caught.value).__name__ == "ClickException"


def test_without_a_store_the_usual_authorities_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    nowhere = ssl.DefaultVerifyPaths(None, str(tmp_path), "", "", "", "")
    monkeypatch.setattr(egress.ssl, "get_default_verify_paths", lambda: nowhere)
    assert trust().cert_store_stats()["x509_ca"] > 50


# --- a proxy ---


@pytest.mark.usefixtures("authority")
async def test_http_goes_through_the_proxy_to_the_address_with_the_name_in_tls(
    tls: Tls, names: Names, proxy: ConnectProxy
) -> None:
    async with hosting(constant(http(b"hello")), tls=tls[0]) as host:
        names["good.example"] = [(PUBLIC, 443)]
        proxy.leads_to = host.port
        # The certificate is of the name, so the name is in TLS; and no private address is needed.
        assert await get("https://good.example/", allow_private=False) == b"hello"
        assert proxy.targets == [f"{PUBLIC}:443"]
        assert "\r\nHost: good.example\r\n" in host.heads[0].replace("host:", "Host:")


@pytest.mark.usefixtures("authority")
async def test_the_stream_goes_through_the_proxy_to_the_address_with_the_name_in_tls(
    tls: Tls, names: Names, proxy: ConnectProxy
) -> None:
    async with relaying(tls[0]) as relay:
        relay.add(1, b"frame")
        names["good.example"] = [(PUBLIC, 443)]
        proxy.leads_to = int(relay.url.rpartition(":")[2])
        assert await first_frame(Firehose("wss://good.example")) == b"frame"
        assert proxy.targets == [f"{PUBLIC}:443"]


async def test_a_private_address_is_refused_before_the_proxy_hears_of_it(
    names: Names, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    names["inside.example"] = [("10.0.0.1", 443)]
    assert await failure("https://inside.example/", allow_private=False) == "refused_address"
    assert await failure("https://[::1]/", allow_private=False) == "refused_address"
    told = await complaint(Firehose("wss://inside.example"), monkeypatch)
    assert "not public" in told
    assert proxy.targets == []


async def test_what_needs_no_proxy_goes_straight(
    tls: Tls, authority: Path, names: Names, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "good.example")
    async with hosting(constant(http(b"hello")), tls=tls[0]) as host:
        names["good.example"] = [("127.0.0.1", host.port)]
        assert await get("https://good.example/") == b"hello"
    async with hosting(constant(http(b"plain"))) as host:  # in development
        assert await get(host.url) == b"plain"
    assert proxy.targets == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nSecret", "the proxy answers 403"),
        (b"HTTP/1.1 407 Auth\r\n\r\n", "the proxy answers 407"),
        (b"SSH-2.0-x\r\n\r\n", "the proxy gives no answer that is HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nearly", "the proxy gives no answer that is HTTP"),
        (b"x" * 40_000, "the proxy gives no answer that is HTTP"),
        (b"", "the proxy gives no answer that is HTTP"),
    ],
)
async def test_a_proxy_that_does_not_connect_is_named_as_the_cause(
    names: Names,
    proxy: ConnectProxy,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    words: str,
) -> None:
    names["good.example"] = [(PUBLIC, 443)]
    proxy.answer = answer
    assert await failure("https://good.example/") == f"unreachable ({words})"
    told = await complaint(Firehose("wss://good.example"), monkeypatch)
    assert told == f"firehose.unreachable: {words}"


async def test_the_next_address_is_tried_if_the_proxy_can_not_reach_the_first(
    names: Names, proxy: ConnectProxy
) -> None:
    names["good.example"] = [(PUBLIC, 443), ("93.184.215.15", 443)]
    proxy.answer = b"HTTP/1.1 502 Bad Gateway\r\n\r\n"
    assert "502" in await failure("https://good.example/", allow_private=False)
    assert proxy.targets == [f"{PUBLIC}:443", "93.184.215.15:443"]


async def test_a_proxy_is_told_the_password_of_its_url_and_shows_it_nowhere(
    names: Names, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = proxy.url.replace("http://", "http://alice:s%40cret@")
    monkeypatch.setenv("HTTPS_PROXY", url)
    names["good.example"] = [(PUBLIC, 443)]
    proxy.answer = b"HTTP/1.1 407 Auth\r\n\r\n"
    assert "cret" not in await failure("https://good.example/")
    assert "\r\nProxy-Authorization: Basic YWxpY2U6c0BjcmV0\r\n" in proxy.heads[0]
    assert "cret" not in repr(proxy_for("x.example", 443))


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy.test:3128"}, Proxy("proxy.test", 3128)),
        ({"https_proxy": "proxy.test:3128"}, Proxy("proxy.test", 3128)),
        ({"ALL_PROXY": "http://proxy.test"}, Proxy("proxy.test", 80)),
        ({"HTTP_PROXY": "http://proxy.test"}, None),
        ({"HTTPS_PROXY": "http://proxy.test", "NO_PROXY": "other,.pds.test"}, None),
        ({"HTTPS_PROXY": "http://proxy.test", "NO_PROXY": "*"}, None),
    ],
)
def test_the_proxy_is_found_where_other_programs_find_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: Proxy | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for("a.pds.test", 443) == found


@pytest.mark.parametrize("url", ["socks5://proxy.test", "https://proxy.test", "http://:1", "[::1"])
def test_a_proxy_that_can_not_be_spoken_to_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(EgressError, match="HTTPS_PROXY"):
        guarded_client(allow_private=False)
    with pytest.raises(EgressError, match="HTTPS_PROXY"):
        Firehose("wss://relay.example")


# --- causes ---


async def test_the_cause_of_a_failure_is_named(
    tls: Tls, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    nobody = "no-such-name.invalid"

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert await failure(f"https://127.0.0.1:{closed}/") == "unreachable (connection refused)"
    told = await complaint(Firehose(f"wss://127.0.0.1:{closed}"), monkeypatch)
    assert told == "firehose.unreachable: connection refused"
    async with hosting(constant(http(b"hello")), tls=tls[0]) as host, relaying(tls[0]) as relay:
        port = relay.url.rpartition(":")[2]
        told = await complaint(Firehose(f"wss://127.0.0.1:{port}"), monkeypatch)
        assert told.startswith("firehose.unreachable: certificate: ")
        words = await failure(f"https://127.0.0.1:{host.port}/")
        assert words.startswith("unreachable (certificate: ")
    async with guarded_client(allow_private=True) as client:
        plc = f"https://127.0.0.1:{closed}"
        async with aclosing(IdentityResolver(plc, client)) as resolver:
            with structlog.testing.capture_logs() as logs:
                for letter in "ab":  # as often as they are asked for
                    with pytest.raises(IdentityError):
                        await resolver.resolve(f"did:plc:{letter * 24}")
    assert logs == [
        {
            "event": "plc.failed",
            "log_level": "warning",
            "module": "identity",
            "plc": plc,
            "error": "unreachable (connection refused)",
        }
    ]
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert await failure(f"https://{nobody}/") == "unreachable (name not found)"
