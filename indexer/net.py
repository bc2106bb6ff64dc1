"""HTTP to hosts that strangers name: where it may connect, how long, how much.

A DID document, a handle or a redirect can point anywhere. So the address is checked where it is
dialled: after DNS, for every connection, and the very address that was checked is the one that is
connected to. TLS and the `Host` header still carry the name.
"""

import asyncio
import functools
import json as jsonlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, BinaryIO, Literal, NamedTuple

import httpcore
import httpx

MAX_REDIRECTS = 3
MAX_CONNECTIONS = 100
MAX_ADDRESSES = 4  # of one name that are tried
MAX_JSON_DEPTH = 32  # levels; the documents of this network have about four
NAME_THREADS = 16
MAX_ERROR_BODY = 16_384  # bytes of an answer that refuses
STEP_TIMEOUT = 10.0  # seconds for one connect, read or write; a whole request has its deadline

Reason = Literal[
    "refused_url",  # not https, or with userinfo
    "refused_address",  # leads to an address that strangers may not send us to
    "unreachable",  # no such name, no connection, TLS that fails, not HTTP
    "timeout",
    "too_many_redirects",
    "bad_status",
    "too_large",
    "bad_body",  # compressed although not asked for, or not the JSON that was promised
]

_REFUSED_V4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, and a cloud's metadata (100.100.100.200)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a public address that is a cloud's metadata service inside it
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")  # the only block that is given to hosts of the Internet
_REFUSED_V6 = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # Teredo and other protocol assignments
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


class FetchError(Exception):
    """A request that gave nothing to use, with a `reason` from a closed set.

    `status` is there for `bad_status` alone. What the host said is not repeated.
    """

    def __init__(self, reason: Reason, status: int | None = None) -> None:
        super().__init__(reason if status is None else f"{reason} {status}")
        self.reason: Reason = reason
        self.status = status


class DiskError(Exception):
    """The file that a download goes to can't be written: no fault of the host's."""


class Answer(NamedTuple):
    """What a host answered, whatever its status; `body` is None where it is not strict JSON."""

    status: int
    headers: httpx.Headers
    body: Any


def is_public(address: str) -> bool:
    """Tell whether this IP address is a host of the Internet at large; False for anything else.

    An IPv6 address that stands for an IPv4 one (mapped, NAT64, 6to4) is judged by that one.
    """
    try:
        ip = _embedded_v4(ip_address(address))
    except ValueError:
        return False
    if isinstance(ip, IPv4Address):
        return not any(ip in block for block in _REFUSED_V4)
    return ip in _GLOBAL_V6 and not any(ip in block for block in _REFUSED_V6)


def _embedded_v4(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(ip, IPv4Address):
        return ip
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def guarded_client(
    *, allow_private: bool, timeout: float = STEP_TIMEOUT, trust: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    """Return a client that connects to public addresses over https only, and keeps no state.

    `allow_private` lifts both, for a network on one machine. `timeout` in seconds is for each
    step. `trust` replaces the usual authorities. The client reads no proxy, netrc or certificate
    from the environment, keeps no cookies, follows no redirect unless asked to, and accepts no
    compressed answer. Its transport raises `FetchError`.
    """
    return httpx.AsyncClient(
        transport=_GuardedTransport(allow_private, trust),
        timeout=timeout,
        max_redirects=MAX_REDIRECTS,
        trust_env=False,
        # A few kilobytes of zstd or gzip can be gigabytes, and a decoder hands them out at once.
        headers={"user-agent": "rescind", "accept-encoding": "identity"},
    )


async def fetch(client: httpx.AsyncClient, url: str, *, max_bytes: int, deadline: float) -> bytes:
    """Return the body of a 2xx answer, at most `max_bytes` of it, within `deadline` seconds.

    Redirects are followed. Raises FetchError and, whatever the host sends, nothing else.
    """
    async with _opened(client, "GET", url, deadline, follow_redirects=True) as response:
        if not response.is_success:
            raise FetchError("bad_status", response.status_code)
        return await _body(response, max_bytes)


async def download(
    client: httpx.AsyncClient,
    url: str,
    sink: BinaryIO,
    *,
    max_bytes: int,
    deadline: float,
    slowest: float,
) -> Answer | None:
    """Write the body of a 200 answer to `sink` and return None; return any other answer.

    Redirects are followed. Raises FetchError, also when less than `slowest` bytes a second come,
    looked at every `STEP_TIMEOUT` seconds: a host that drips would hold us for all of `deadline`.
    Raises DiskError when `sink` does not take it.
    """
    async with _opened(client, "GET", url, deadline, follow_redirects=True) as response:
        if response.status_code != 200:
            return Answer(response.status_code, response.headers, await _json(response))
        clock = asyncio.get_running_loop().time
        size, looked_at, size_then = 0, clock(), 0
        async for chunk in response.aiter_raw():
            try:
                sink.write(chunk)
            except OSError as error:  # which would pass for one of the connection
                raise DiskError(str(error)) from error
            size += len(chunk)
            if size > max_bytes:
                raise FetchError("too_large")
            if (passed := clock() - looked_at) >= STEP_TIMEOUT:
                if size - size_then < slowest * passed:
                    raise FetchError("timeout")
                looked_at, size_then = clock(), size
    return None


async def fetch_json(
    client: httpx.AsyncClient, url: str, *, max_bytes: int, deadline: float
) -> Any:
    """Return the JSON of a 2xx answer (see `parse_json`), else raise FetchError as `fetch` does."""
    body = await fetch(client, url, max_bytes=max_bytes, deadline=deadline)
    try:
        return parse_json(body)
    except ValueError as error:
        raise FetchError("bad_body") from error


async def request_json(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    json: Any = None,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    deadline: float,
    max_bytes: int,
) -> Answer:
    """Make one request and return the answer of any status; `json` is the body to send, if any.

    Redirects are answers too: a password or token must not follow one to another host.
    Raises FetchError when there is no whole answer within `deadline` seconds and `max_bytes`.
    """
    async with _opened(
        client, method, url, deadline, json=json, headers=headers, params=params
    ) as response:
        return Answer(response.status_code, response.headers, await _json(response, max_bytes))


def parse_json(raw: bytes) -> Any:
    """Return the value of a strict JSON text in UTF-8, or raise ValueError.

    Strict: no key twice in an object, no NaN or Infinity, no lone surrogate in a string, at most
    `MAX_JSON_DEPTH` levels. So every string of the value can be encoded, stored and logged.
    """
    text = raw.decode()
    try:
        value = _STRICT.decode(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    if not _is_shallow(value):
        raise ValueError("JSON is nested too deeply")
    if "\\u" in text:  # only an escape can make a lone surrogate
        jsonlib.dumps(value, ensure_ascii=False).encode()
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("JSON object has a key twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_STRICT = jsonlib.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        nested = [each for each in level if isinstance(each, dict | list)]
        if not nested:
            return True
        level = [
            child
            for each in nested
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return False


@contextmanager
def _translated() -> Iterator[None]:
    """Turn every error that a host can cause into a FetchError."""
    try:
        yield
    except FetchError:
        raise
    except (TimeoutError, httpcore.TimeoutException, httpx.TimeoutException) as error:
        raise FetchError("timeout") from error
    except httpx.TooManyRedirects as error:
        raise FetchError("too_many_redirects") from error
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
        httpx.HTTPError,
        httpx.InvalidURL,
        OSError,  # ssl.SSLError and socket.gaierror are of this kind
        ValueError,  # UnicodeError and idna's errors are of this kind
        RecursionError,
    ) as error:
        raise FetchError("unreachable") from error


@asynccontextmanager
async def _opened(
    client: httpx.AsyncClient, method: str, url: str, deadline: float, **options: Any
) -> AsyncIterator[httpx.Response]:
    with _translated():
        async with (
            asyncio.timeout(deadline),
            client.stream(method, url, **options) as response,
        ):
            yield response


async def _json(response: httpx.Response, max_bytes: int = MAX_ERROR_BODY) -> Any:
    """Return the strict JSON of an answer, or None where it is none."""
    try:
        return parse_json(await _body(response, max_bytes))
    except ValueError:
        return None


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise FetchError("too_large")
    return bytes(body)


class _GuardedTransport(httpx.AsyncBaseTransport):
    """One connection pool whose connections are dialled by `_Dialler`."""

    def __init__(self, allow_private: bool, trust: ssl.SSLContext | None) -> None:
        self._schemes = {"https", "http"} if allow_private else {"https"}
        self._dialler = _Dialler(allow_private)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=trust or httpx.create_ssl_context(trust_env=False),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=20,
            keepalive_expiry=15.0,  # seconds
            network_backend=self._dialler,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        # Here and not in `fetch`, since each redirect comes by.
        url = request.url
        if url.scheme not in self._schemes or url.userinfo or not url.host:
            raise FetchError("refused_url")
        assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 (for the type)
        with _translated():
            answer = await self._pool.handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        # Cookies would be kept for as long as the client lives.
        headers = httpx.Headers([h for h in answer.headers if h[0].lower() != b"set-cookie"])
        if 300 <= answer.status < 400:
            # httpx reads the whole body of a redirect before it follows, however long that is.
            await answer.aclose()
            return httpx.Response(answer.status, headers=headers, stream=httpx.ByteStream(b""))
        if headers.get("content-encoding", "identity").lower() != "identity":
            await answer.aclose()
            raise FetchError("bad_body")
        return httpx.Response(answer.status, headers=headers, stream=_Body(answer))

    async def aclose(self) -> None:
        await self._pool.aclose()
        self._dialler.close()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated():
            async for chunk in self._answer.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Dialler(httpcore.AsyncNetworkBackend):
    """Resolves a name, judges what it resolves to, and connects to just that."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._tcp = httpcore.AnyIOBackend()
        # Threads of our own: look-ups of strangers' names that hang must not hold up those of
        # the relay and of everything else that uses the event loop's default threads.
        self._threads = ThreadPoolExecutor(NAME_THREADS, thread_name_prefix="names")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the signature is httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        with _translated():
            async with asyncio.timeout(timeout):
                addresses = await self._addresses(host, port)
                for address, dialled_port in addresses[:-1]:
                    share = None if timeout is None else timeout / len(addresses)
                    try:
                        return await self._tcp.connect_tcp(address, dialled_port, share)
                    except (httpcore.ConnectError, httpcore.ConnectTimeout):
                        continue
                return await self._tcp.connect_tcp(*addresses[-1], timeout)

    async def _addresses(self, host: str, port: int) -> list[tuple[str, int]]:
        """Return what may be dialled for this host, in the system's order of preference."""
        find = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, find)
        addresses = [(str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found]
        if not addresses:
            raise FetchError("unreachable")
        # One private address is enough to refuse a name: which one is dialled would be luck.
        if not self._allow_private and not all(is_public(address) for address, _ in addresses):
            raise FetchError("refused_address")
        return addresses[:MAX_ADDRESSES]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
