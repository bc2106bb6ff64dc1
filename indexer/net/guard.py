"""Where HTTP to hosts that strangers name may go: the guarded client.

A DID document, a handle or a redirect can point anywhere. So the address is checked where it is
dialled: after DNS, for every connection, and the very address that was checked is the one that is
connected to. TLS and the `Host` header still carry the name.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import httpcore
import httpx

from indexer.net.egress import (
    MAX_HEAD,
    Proxy,
    ProxyAnswer,
    ProxyRefused,
    cause_of,
    proxy_for,
    trust,
)
from indexer.net.names import Names
from indexer.net.public_addresses import is_public

MAX_REDIRECTS = 3
MAX_CONNECTIONS = 200
MAX_ADDRESSES = 4  # of one name that are tried
NAMES_AT_ONCE = 32  # that are looked up for strangers, and as many for the operator
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


class FetchError(Exception):
    """A request that gave nothing to use, with a `reason` from a closed set.

    `status` is there for `bad_status` alone, `cause` for `unreachable`: what failed, in words for
    a log. What the host said is not repeated.
    """

    def __init__(self, reason: Reason, status: int | None = None, cause: str | None = None) -> None:
        text = reason if status is None else f"{reason} {status}"
        super().__init__(text if cause is None else f"{text} ({cause})")
        self.reason: Reason = reason
        self.status = status


@contextmanager
def as_fetch_errors() -> Iterator[None]:
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
        raise FetchError("unreachable", cause=cause_of(error)) from error


def guarded_client(
    *,
    allow_private: bool,
    own_urls: Collection[str] = (),
    timeout: float = STEP_TIMEOUT,
    trust: ssl.SSLContext | None = None,
) -> httpx.AsyncClient:
    """Return a client that connects to public addresses over https only, and keeps no state.

    `allow_private` lifts both, for a network on one machine. The hosts of `own_urls` are those that
    the operator chose: however long the look-ups of other names take, these are not held up.
    `timeout` in seconds is for each step. `trust` replaces those whom this machine trusts. Through
    a proxy of the environment the client goes to the very addresses that it has checked, by https;
    it reads no netrc, keeps no cookies, follows no redirect unless asked to, and accepts no
    compressed answer. Its transport raises `FetchError`. Raises `EgressError` for a variable of the
    environment that can't be used.
    """
    return httpx.AsyncClient(
        transport=_GuardedTransport(allow_private, own_urls, trust),
        timeout=timeout,
        max_redirects=MAX_REDIRECTS,
        trust_env=False,
        # A few kilobytes of zstd or gzip can be gigabytes, and a decoder hands them out at once.
        headers={"user-agent": "rescind", "accept-encoding": "identity"},
    )


class _GuardedTransport(httpx.AsyncBaseTransport):
    """A connection pool for each scheme whose connections are dialled by `_Dialler`."""

    def __init__(
        self, allow_private: bool, own_urls: Collection[str], trusted: ssl.SSLContext | None
    ) -> None:
        trusted = trusted or trust()
        dialler = _Dialler(allow_private, own_urls)
        self._pools = {"https": _pool(trusted, _ThroughProxy(dialler))}
        if allow_private:  # plain http goes the straight way: proxies connect to TLS alone
            self._pools["http"] = _pool(trusted, dialler)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        # Here and not in `fetch`, since each redirect comes by.
        url = request.url
        pool = self._pools.get(url.scheme)
        if pool is None or url.userinfo or not url.host:
            raise FetchError("refused_url")
        assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 (for the type)
        with as_fetch_errors():
            answer = await pool.handle_async_request(
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
        for pool in self._pools.values():
            await pool.aclose()


def _pool(
    trusted: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend
) -> httpcore.AsyncConnectionPool:
    return httpcore.AsyncConnectionPool(
        ssl_context=trusted,
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=20,
        keepalive_expiry=15.0,  # seconds
        network_backend=backend,
    )


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with as_fetch_errors():
            async for chunk in self._answer.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Dialler(httpcore.AsyncNetworkBackend):
    """Resolves a name, judges what it resolves to, and connects to just that."""

    def __init__(self, allow_private: bool, own_urls: Collection[str]) -> None:
        self._allow_private = allow_private
        self._tcp = httpcore.AnyIOBackend()
        self._own_hosts = {httpx.URL(url).raw_host.decode() for url in own_urls}
        self._own_names = Names(NAMES_AT_ONCE)
        self._names = Names(NAMES_AT_ONCE)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the signature is httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        with as_fetch_errors():
            async with asyncio.timeout(timeout):
                addresses = await self.addresses(host, port)
                for address, dialled_port in addresses[:-1]:
                    share = None if timeout is None else timeout / len(addresses)
                    try:
                        return _Stream(await self._tcp.connect_tcp(address, dialled_port, share))
                    except (httpcore.ConnectError, httpcore.ConnectTimeout):
                        continue
                return _Stream(await self._tcp.connect_tcp(*addresses[-1], timeout))

    async def addresses(self, host: str, port: int) -> list[tuple[str, int]]:
        """Return what may be dialled for this host, in the system's order of preference."""
        names = self._own_names if host in self._own_hosts else self._names
        addresses = await names.find(host, port)
        if not addresses:
            raise FetchError("unreachable", cause="name not found")
        # One private address is enough to refuse a name: which one is dialled would be luck.
        if not self._allow_private and not all(is_public(address) for address, _ in addresses):
            raise FetchError("refused_address")
        return addresses[:MAX_ADDRESSES]


class _ThroughProxy(httpcore.AsyncNetworkBackend):
    """Dials by the proxy of the environment, if there is one for a host, else as `_Dialler`.

    The name is looked up and judged here all the same: the proxy is told an address. Only where
    the proxy itself is, is the operator's choice.
    """

    def __init__(self, dialler: "_Dialler") -> None:
        self._dialler = dialler
        self._tcp = httpcore.AnyIOBackend()
        proxy_for("", 443)  # what can't be used is to be told at once

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the signature is httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        proxy = proxy_for(host, port)
        if proxy is None:
            return await self._dialler.connect_tcp(host, port, timeout)
        with as_fetch_errors():
            async with asyncio.timeout(timeout):
                addresses = await self._dialler.addresses(host, port)
                for address, dialled_port in addresses[:-1]:
                    try:
                        return await self._connect(proxy, address, dialled_port)
                    except ProxyRefused:
                        continue
                return await self._connect(proxy, *addresses[-1])

    async def _connect(self, proxy: Proxy, address: str, port: int) -> httpcore.AsyncNetworkStream:
        stream = _Stream(await self._tcp.connect_tcp(proxy.host, proxy.port))
        try:
            await stream.write(proxy.request(address, port))
            answer = ProxyAnswer()
            while not answer.take(await stream.read(MAX_HEAD)):
                pass
        except BaseException:
            await stream.aclose()
            raise
        return stream


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that is closed when its TLS handshake is given up at the deadline.

    httpcore leaves such a one open, to the garbage collector: strangers' hosts would eat up our
    file descriptors.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except asyncio.CancelledError:
            await self._stream.aclose()
            raise
