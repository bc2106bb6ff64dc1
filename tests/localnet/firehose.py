"""The stream as an outsider sees it: frames, decoded and otherwise untouched."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

import libipld
from websockets.asyncio.client import connect

MAX_FRAME = 5_000_000  # bytes; the hard limit of atproto.com/specs/sync


class Frame(NamedTuple):
    """One message of the stream: `header` has `op` and `t`, `body` what the lexicon says."""

    header: dict[str, Any]
    body: dict[str, Any]

    @property
    def type(self) -> str | None:
        """The message's type (`#commit`), or None in an error frame."""
        return self.header.get("t")


async def firehose(ws_url: str, cursor: int | None = 0) -> AsyncGenerator[Frame, None]:
    """Yield the frames after a cursor, or only new ones if it is None, until the host closes.

    Raises the errors of `websockets` when the connection breaks.
    """
    query = "" if cursor is None else f"?cursor={cursor}"
    url = f"{ws_url}/xrpc/com.atproto.sync.subscribeRepos{query}"
    async with connect(url, max_size=MAX_FRAME, proxy=None) as stream:
        async for message in stream:
            assert isinstance(message, bytes)
            header, body = libipld.decode_dag_cbor_multi(message)
            yield Frame(header, body)


async def collect(
    ws_url: str, until: Callable[[Frame], bool], cursor: int = 0, within: float = 20.0
) -> list[Frame]:
    """Read from a cursor up to the first frame for which `until` holds; return all of them.

    Raises AssertionError with what was seen if that takes more than `within` seconds, or if
    the stream ends first.
    """
    seen: list[Frame] = []
    try:
        async with asyncio.timeout(within), aclosing(firehose(ws_url, cursor)) as frames:
            async for frame in frames:
                seen.append(frame)
                if until(frame):
                    return seen
    except TimeoutError:
        pass
    last = [(frame.type, frame.body.get("seq")) for frame in seen[-20:]]
    raise AssertionError(
        f"the frame did not come within {within} s; the last of {len(seen)}: {last}"
    )
