"""A relay that lists repos page by page, or answers whatever it is told to."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from indexer.repos.backfill import BY_COLLECTION
from tests.support.frames import COLLECTIONS
from tests.support.http_host import Host, hosting, http

ENTRY = dict[str, Any]


def did(number: int) -> str:
    return f"did:web:host-{number}.test"


def listed(*numbers: int, **fields: Any) -> list[ENTRY]:
    return [{"did": did(number), **fields} for number in numbers]


def refusal(status: int, name: str = "Sorry", *headers: str) -> bytes:
    return http(json.dumps({"error": name}).encode(), f"{status} No", *headers)


def page(repos: Any, cursor: Any = None) -> bytes:
    return http(
        json.dumps({"repos": repos} | ({} if cursor is None else {"cursor": cursor})).encode()
    )


class Relay:
    """Lists repos, two a page; `answers` are given first, whatever is asked."""

    host: Host

    def __init__(self) -> None:
        self.lists: dict[str, list[ENTRY]] = {name: [] for name in (*COLLECTIONS, "")}
        self.unserved: bytes | None = None  # what it answers for listReposByCollection
        self.answers: deque[bytes] = deque()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.meanwhile: Callable[[], Any] = nothing

    @property
    def pages(self) -> list[tuple[str, str | None]]:
        """What was asked for: collections ('' for all repos) and page cursors."""
        return [(params.get("collection", ""), params.get("cursor")) for _, params in self.asked]

    async def reply(self, path: str, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(path)
        nsid, params = parts.path.removeprefix("/xrpc/"), dict(parse_qsl(parts.query))
        self.asked.append((nsid, params))
        await self.meanwhile()
        if self.answers:
            writer.write(self.answers.popleft())
        elif nsid == BY_COLLECTION and self.unserved is not None:
            writer.write(self.unserved)
        else:
            repos = self.lists[params.get("collection", "")]
            first = int(params.get("cursor", "0"))
            following = first + 2
            more = str(following) if following < len(repos) else None
            writer.write(page(repos[first:following], more))


async def nothing() -> None:
    pass


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    made = Relay()
    async with hosting(made.reply) as host:
        made.host = host
        yield made
