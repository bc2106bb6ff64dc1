"""The way out that the operator's network has: whom TLS trusts, and a proxy to go through.

Both are for all traffic alike, HTTP and the relay's WebSocket. They come from where other programs
look for them: `SSL_CERT_FILE` and `SSL_CERT_DIR`, else the system's store; `HTTPS_PROXY` or
`ALL_PROXY`, and `NO_PROXY`.
"""

import asyncio
import base64
import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import (  # type: ignore[attr-defined] # typeshed knows one of the two
    getproxies_environment,
    proxy_bypass_environment,
)

import httpx

MAX_HEAD = 16_384  # bytes of a proxy's answer to CONNECT

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")


class EgressError(Exception):
    """A variable of the environment that can't be used; the text names it."""


class ProxyRefused(OSError):
    """The proxy makes no connection; the text says what it answers."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is spoken to in plain HTTP. `authorization` is a header's value, if any."""

    host: str
    port: int
    authorization: str | None = None

    def __repr__(self) -> str:  # its password has no place in a traceback
        return f"Proxy({self.host}:{self.port})"

    def request(self, address: str, port: int) -> bytes:
        """Return what asks it for a connection to this address."""
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: rescind"]
        if self.authorization is not None:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode()


def trust() -> ssl.SSLContext:
    """Return a context that trusts whom this machine does. Raises EgressError for a bad variable.

    Where the system has no store, the usual public authorities are trusted.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        try:
            return ssl.create_default_context(cafile=file, capath=folder or None)
        except OSError as error:
            reason = error.strerror if error.errno else "has no certificates in it"
            raise EgressError(f"SSL_CERT_FILE: {file}: {reason}") from None
    if folder or _has_store():
        return ssl.create_default_context(capath=folder or None)
    return httpx.create_ssl_context(trust_env=False)


def _has_store() -> bool:
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None:
        return True
    return paths.capath is not None and any(Path(paths.capath).iterdir())


def proxy_for(host: str, port: int) -> Proxy | None:
    """Return the proxy that TLS to this host goes through. Raises EgressError for a bad variable.

    The host is as in the URL: a name or an address.
    """
    proxies = getproxies_environment()
    url = proxies.get("https") or proxies.get("all")
    if not url or proxy_bypass_environment(f"{host}:{port}", proxies):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        found, number = parts.hostname, parts.port or 80
    except ValueError:
        raise EgressError("HTTPS_PROXY: this is no URL") from None
    if parts.scheme != "http" or not found:
        raise EgressError("HTTPS_PROXY: a proxy is named by an http:// URL")
    if parts.username is None:
        return Proxy(found, number)
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(found, number, "Basic " + base64.b64encode(user.encode()).decode())


class ProxyAnswer:
    """A proxy's answer to CONNECT, as it comes."""

    def __init__(self) -> None:
        self._head = b""

    def take(self, data: bytes) -> bool:
        """Return whether the connection is made; False: more has to come. Raises ProxyRefused."""
        self._head += data
        if not data or len(self._head) > MAX_HEAD:
            raise ProxyRefused("the proxy gives no answer that is HTTP")
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return False
        status = _STATUS.match(head)
        if status is not None and not status[1].startswith(b"2"):
            raise ProxyRefused(f"the proxy answers {status[1].decode()}")
        if status is None or rest:
            raise ProxyRefused("the proxy gives no answer that is HTTP")
        return True


async def open_tunnel(proxy: Proxy, addresses: Sequence[tuple[str, int]]) -> socket.socket:
    """Return a socket that leads through the proxy to the first of these that it can connect to.

    Raises OSError.
    """
    loop = asyncio.get_running_loop()
    failure: OSError = OSError("there is no address to connect to")
    for address, port in addresses:
        try:
            found = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
            family, kind, number, _, at = found[0]
            made = socket.socket(family, kind, number)
            try:
                made.setblocking(False)
                await loop.sock_connect(made, at)
                await loop.sock_sendall(made, proxy.request(address, port))
                answer = ProxyAnswer()
                while not answer.take(await loop.sock_recv(made, MAX_HEAD)):
                    pass
            except BaseException:
                made.close()
                raise
        except OSError as error:
            failure = error
        else:
            return made
    raise failure


def cause_of(error: BaseException) -> str | None:
    """Return in words why a connection failed, of what is behind this error; None if unknown."""
    seen: BaseException | None = error
    while seen is not None:
        if words := _words(seen):
            return words
        seen = seen.__cause__ or seen.__context__
    return None


def _words(error: BaseException) -> str | None:
    match error:
        case ProxyRefused():
            return str(error)
        case BaseExceptionGroup():
            return cause_of(error.exceptions[0])
        case socket.gaierror():
            no_such = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
            return "name not found" if error.errno in no_such else "no name server answers"
        case ssl.SSLCertVerificationError():
            return f"certificate: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {(error.reason or 'failed').lower().replace('_', ' ')}"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionResetError() | BrokenPipeError():
            return "connection reset"
        case OSError() if error.errno is not None and error.errno > 0:
            return os.strerror(error.errno).lower()
    return None
