"""HTTP requests to hosts that strangers name: how long they may take, how much they may bring.

The client is one of `guard.guarded_client`, which says where they may go.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, NamedTuple

import httpx

from indexer.lexicon.strict_json import parse_json
from indexer.net.guard import STEP_TIMEOUT, FetchError, as_fetch_errors

MAX_ERROR_BODY = 16_384  # bytes of an answer that refuses
MAX_RETRY_AFTER = 3_600.0  # seconds; a host that asks for more is asked again sooner


class DiskError(Exception):
    """The file that a download goes to can't be written: no fault of the host's."""


class Answer(NamedTuple):
    """What a host answered, whatever its status; `body` is None where it is not strict JSON."""

    status: int
    headers: httpx.Headers
    body: Any


class Raw(NamedTuple):
    """What a host answered, whatever its status, as it came."""

    status: int
    headers: httpx.Headers
    body: bytes


async def request_bytes(
    client: httpx.AsyncClient, url: str, *, max_bytes: int, deadline: float
) -> Raw:
    """Make one GET request and return the answer of any status, within `deadline` seconds.

    Redirects are answers too. Raises FetchError, also for more than `max_bytes`.
    """
    async with _opened(client, "GET", url, deadline) as response:
        return Raw(response.status_code, response.headers, await _body(response, max_bytes))


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
    heard: Callable[[int, httpx.Headers], None] | None = None,
) -> Answer | None:
    """Write the body of a 200 answer to `sink` and return None; return any other answer.

    `heard` is told the status and the headers of the answer, whichever it is, once they are here.

    Redirects are followed. Raises FetchError, also when less than `slowest` bytes a second come,
    looked at every `STEP_TIMEOUT` seconds: a host that drips would hold us for all of `deadline`.
    Raises DiskError when `sink` does not take it.
    """
    async with _opened(client, "GET", url, deadline, follow_redirects=True) as response:
        if heard is not None:
            heard(response.status_code, response.headers)
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


def retry_after(answer: Answer) -> float | None:
    """Return the seconds that a host asks us to wait, an hour at most; None if it names no time.

    By `Retry-After`, or else, of a 429, by `RateLimit-Reset`, which the hosts of atproto give as
    Unix seconds.
    """
    wait = answer.headers.get("retry-after")
    reset = answer.headers.get("ratelimit-reset") if answer.status == 429 else None
    try:
        if wait is not None and wait.strip().isdecimal():
            seconds = float(wait)
        elif wait is not None:
            seconds = parsedate_to_datetime(wait).timestamp() - _sent_at(answer)
        elif reset is not None and reset.strip().isdecimal():
            seconds = float(reset) - _sent_at(answer)
        else:
            return None
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _sent_at(answer: Answer) -> float:
    """Return when that was by the clock of the host, in Unix seconds."""
    return parsedate_to_datetime(answer.headers["date"]).timestamp()


@asynccontextmanager
async def _opened(
    client: httpx.AsyncClient, method: str, url: str, deadline: float, **options: Any
) -> AsyncIterator[httpx.Response]:
    with as_fetch_errors():
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
