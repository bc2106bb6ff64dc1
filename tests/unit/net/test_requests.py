"""No URL of a stranger keeps us waiting, fills memory, or gets past FetchError."""

import asyncio
import errno
import json
import socket
import ssl
import time
from io import BytesIO

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.net import guard
from indexer.net import requests as net
from indexer.net.guard import FetchError, guarded_client
from indexer.net.requests import (
    Answer,
    DiskError,
    download,
    fetch,
    fetch_json,
    request_json,
)
from tests.support.http_host import Reply, constant, hosting, http, local, reason_of, redirect

__all__ = ["local"]  # a fixture


async def test_a_few_redirects_are_followed_and_a_circle_ends(local: httpx.AsyncClient) -> None:
    async def reply(path: str, writer: asyncio.StreamWriter) -> None:
        answers = {"/a": redirect("/b"), "/b": redirect("/c"), "/c": http(b"there")}
        writer.write(answers.get(path) or redirect("/round"))

    async with hosting(reply) as host:
        assert await fetch(local, host.url + "/a", max_bytes=99, deadline=5) == b"there"
        reason = await reason_of(fetch(local, host.url + "/round", max_bytes=99, deadline=5))
        assert reason == "too_many_redirects"
        assert host.paths.count("/round") == guard.MAX_REDIRECTS + 1


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
