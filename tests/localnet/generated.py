"""A client that the official tool generates from lexicon documents, as a process to be told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from tests.localnet.process import HERE, NODE, ServerProcess

BUILD_TIMEOUT = 120.0  # seconds
CALL_TIMEOUT = 30.0  # seconds

Fields = Mapping[str, object]


class GeneratedClientError(Exception):
    """The client threw an error of this `kind`, which has a `name` if the service gave it."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.kind: str = error["kind"]
        self.name: str | None = error.get("name")
        self.message: str = error["message"]
        super().__init__(f"{self.kind}: {self.name}: {self.message}")


@dataclass(frozen=True, slots=True)
class GeneratedClient:
    """It knows the methods of one directory of documents, and believes no other answers."""

    server: ServerProcess

    @classmethod
    async def start(cls, documents: Path, folder: Path) -> Self:
        """Generate the client into a new `folder`, and start it. Raises ServerStartError."""
        folder.mkdir()
        (folder / "package.json").write_text(json.dumps({"type": "module"}))
        (folder / "node_modules").symlink_to(HERE / "node_modules")
        tool = HERE / "node_modules" / ".bin" / "lex"
        process = await asyncio.create_subprocess_exec(
            NODE, tool, "build", "--lexicons", documents, "--out", folder / "client",
            "--import-ext", ".ts", "--no-pretty",
        )  # fmt: skip
        async with asyncio.timeout(BUILD_TIMEOUT):
            assert await process.wait() == 0
        settings = {"generated": str(folder / "client")}
        return cls(await ServerProcess.start("generated.mjs", settings, folder / "client.log"))

    async def call(
        self,
        url: str,
        token: str,
        nsid: str,
        *,
        params: Fields | None = None,
        body: Fields | None = None,
    ) -> Any:
        """Call a method of the service at `url` with a service token; return what it answers.

        Raises GeneratedClientError, also for an answer that does not fit its document.
        """
        call = {"nsid": nsid, "url": url, "token": token, "params": params, "body": body}
        given = {name: value for name, value in call.items() if value is not None}
        async with httpx.AsyncClient(timeout=CALL_TIMEOUT, trust_env=False, verify=False) as http:
            response = await http.post(f"http://127.0.0.1:{self.server.port}", json=given)
        assert response.is_success, response.text
        answer = response.json()
        if "error" in answer:
            raise GeneratedClientError(answer["error"])
        return answer["data"]

    async def stop(self) -> None:
        """End the process."""
        await self.server.stop()
