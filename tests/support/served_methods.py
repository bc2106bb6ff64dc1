"""All methods, served, and called as their documents say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx

from indexer.lexicon.interpreter import Lexicons
from tests.support.lexicon_cases import Document
from tests.support.method_cases import Asked
from tests.support.xrpc_world import CAROL, STRANGER, World, make_world
from xrpc.methods.table import METHODS

LEXICONS = Lexicons.load(files("xrpc") / "lexicons")
DESCRIBED = {nsid: Document(nsid) for nsid in METHODS}


class Service:
    """A world that is served, and calls of it over one connection."""

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self.world = world
        self._client = client

    async def send(
        self, verb: str, nsid: str, *, caller: str | None = STRANGER, **options: Any
    ) -> httpx.Response:
        """Call a method; what holds for every answer is looked at here."""
        self.world.clock.now += 1  # tokens are forgotten, and buckets filled, in time
        headers = dict(options.pop("headers", {}))
        if caller is not None:
            headers["authorization"] = f"Bearer {self.world.token(caller, nsid)}"
        url = f"{self.world.url}/xrpc/{nsid}"
        answer = await self._client.request(verb, url, headers=headers, **options)
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        if answer.status_code != 200:
            assert 400 <= answer.status_code < 500, answer.text
            assert body.keys() == {"error", "message"}
            assert body["error"].isidentifier()
            assert body["message"].strip()
        return answer

    async def ask(self, nsid: str, asked: Asked) -> httpx.Response:
        """Call a method as its document says; a good answer must fit the document too."""
        document = DESCRIBED[nsid]
        options = document.options(asked.given)
        answer = await self.send(document.verb, nsid, caller=asked.caller, **options)
        if answer.status_code == 200:
            LEXICONS.output(nsid, answer.json())
        return answer


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Service]:
    async with (
        make_world(folder, verifier=CAROL) as world,
        world.serving(),
        httpx.AsyncClient(trust_env=False, timeout=20) as client,
    ):
        yield Service(world, client)
