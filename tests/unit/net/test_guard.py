"""No URL of a stranger leads us inside, and what comes from outside is not kept or unpacked."""

import asyncio
import gc
import gzip
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from indexer.cli.base import network
from indexer.config.settings import Settings
from indexer.net import guard, public_addresses
from indexer.net.guard import FetchError, guarded_client
from indexer.net.requests import fetch
from tests.support.account_keys import Key, document
from tests.support.http_host import (
    constant,
    hosting,
    http,
    local,
    names,
    reason_of,
    redirect,
    strict,
    tls,
)

__all__ = ["local", "names", "strict", "tls"]  # fixtures


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
    monkeypatch.setattr(public_addresses, "_REFUSED_V4", (ipaddress.IPv4Network("127.0.0.2/32"),))
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
    monkeypatch.setattr(public_addresses, "_REFUSED_V4", ())
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
    monkeypatch.setattr(public_addresses, "_REFUSED_V4", (ipaddress.IPv4Network("127.0.0.2/32"),))
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


async def test_a_host_that_never_answers_the_handshake_is_left_at_once(
    local: httpx.AsyncClient,
) -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        left.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    gc.disable()  # which would close it at some time
    try:
        assert await reason_of(fetch(local, url, max_bytes=9, deadline=0.2)) == "timeout"
        async with asyncio.timeout(5):
            await left.wait()
    finally:
        gc.enable()
        server.close()


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


async def test_a_closed_port_and_an_unknown_name_are_unreachable(local: httpx.AsyncClient) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        assert await reason_of(fetch(local, url, max_bytes=9, deadline=5)) == "unreachable"
    reason = await reason_of(fetch(local, "http://a..b/", max_bytes=9, deadline=5))
    assert reason == "unreachable"


@pytest.fixture
def silent_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Names of evil.example.com, whose name server is silent until the event is set."""
    answers = threading.Event()
    system = socket.getaddrinfo

    def find(host: str, *args: object, **kwargs: object) -> object:
        if host.endswith(".evil.example.com"):
            answers.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        if host.endswith(".operator.example.com"):
            host = "127.0.0.1"
        return system(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    yield answers
    answers.set()


def look_ups() -> int:
    return sum(thread.name == "names" for thread in threading.enumerate())


async def test_names_that_hang_hold_up_no_host_that_the_operator_chose(
    silent_names: threading.Event,
) -> None:
    async with (
        hosting(constant(http(b"ok", "200 OK", "Connection: close"))) as host,
        guarded_client(
            allow_private=True, own_urls=["https://plc.operator.example.com/x"]
        ) as client,
    ):
        hanging = [
            asyncio.create_task(
                reason_of(fetch(client, f"http://n{n}.evil.example.com/", max_bytes=9, deadline=1))
            )
            for n in range(100)
        ]
        await asyncio.sleep(0.2)
        url = f"http://plc.operator.example.com:{host.port}/"
        assert await fetch(client, url, max_bytes=9, deadline=0.7) == b"ok"
        assert look_ups() <= guard.NAMES_AT_ONCE + 1  # the last one may be about to end

        assert set(await asyncio.gather(*hanging)) == {"timeout"}
        # Nobody waits for them any more; they go on, and more than these there are never.
        more = f"http://more.evil.example.com:{host.port}/"
        assert await reason_of(fetch(client, more, max_bytes=9, deadline=0.1)) == "timeout"
        assert look_ups() <= guard.NAMES_AT_ONCE + 1
        assert await fetch(client, url, max_bytes=9, deadline=0.7) == b"ok"

        silent_names.set()
        assert await fetch(client, f"http://localhost:{host.port}/", max_bytes=9, deadline=5)


async def test_names_of_strangers_dids_hold_up_neither_the_directory_nor_any_pds(
    silent_names: threading.Event,
) -> None:
    did = "did:plc:" + "a" * 24
    body = json.dumps(document(did, Key.k256())).encode()
    async with hosting(constant(http(body))) as host:
        settings = Settings(
            plc=f"http://plc.operator.example.com:{host.port}", allow_private_hosts=True
        )
        async with network(settings) as (client, resolver):
            share = resolver.share(100)
            hanging = [
                asyncio.create_task(share.resolve(f"did:web:n{n}.evil.example.com"))
                for n in range(100)
            ]
            await asyncio.sleep(0.2)
            async with asyncio.timeout(1.5):
                assert (await resolver.resolve(did)).did == did
                await fetch(client, f"http://localhost:{host.port}/", max_bytes=999, deadline=1)
            silent_names.set()
            await asyncio.gather(*hanging, return_exceptions=True)


async def test_a_host_that_the_operator_chose_is_judged_like_any_other(
    names: dict[str, list[tuple[str, int]]],
) -> None:
    names["plc.example"] = [("127.0.0.1", 443)]
    async with guarded_client(allow_private=False, own_urls=["https://plc.example"]) as client:
        reason = await reason_of(fetch(client, "https://plc.example/", max_bytes=9, deadline=5))
        assert reason == "refused_address"


def test_a_process_that_ends_does_not_wait_for_a_name_that_hangs() -> None:
    program = """
import asyncio, socket, time
from indexer.net.guard import FetchError, guarded_client
from indexer.net.requests import fetch

socket.getaddrinfo = lambda *_, **__: time.sleep(30)

async def main():
    async with guarded_client(allow_private=True) as client:
        try:
            await fetch(client, "http://n.evil.example.com/", max_bytes=9, deadline=0.1)
        except FetchError as error:
            print(error)

asyncio.run(main())
"""
    started = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3], timeout=25,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (found.stdout, found.stderr) == ("timeout\n", "")
    assert time.monotonic() - started < 15


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
