"""The official JavaScript client, `@atproto/api`, as a process that is told what to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from tests.localnet.account import Account
from tests.localnet.process import ServerProcess

CALL_TIMEOUT = 30.0  # seconds; longer than a PDS gives a service that it proxies to

Fields = Mapping[str, object]


class ClientError(Exception):
    """The client threw an XRPCError, or `kind` of it.

    `name` is the error's name as the client tells it, `message` its sentence; `cause` is what the
    client found wrong with an answer that is not as its lexicon says.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.kind: str = error["kind"]
        self.status: int = error["status"]
        self.name: str = error["name"]
        self.message: str = error["message"]
        self.cause: str | None = error.get("cause")
        super().__init__(f"{self.kind}: {self.status} {self.name}: {self.message} ({self.cause})")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client made of an answer that it found valid."""

    data: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class OfficialClient:
    """The client, logged in as some accounts of one PDS, with its calls proxied to one service."""

    server: ServerProcess

    @classmethod
    async def start(
        cls, accounts: Sequence[Account], proxy: str, lexicons: Path, log: Path
    ) -> Self:
        """Start it; return once it is logged in. Raises ServerStartError.

        `proxy` is `did#id`; of `lexicons`, a directory, the client learns what it does not know.
        """
        settings = {
            "service": accounts[0].pds.url,
            "proxy": proxy,
            "accounts": [{"did": one.did, "password": one.password} for one in accounts],
            "lexicons": str(lexicons),
        }
        return cls(await ServerProcess.start("client.mjs", settings, log))

    async def call(
        self, caller: Account, nsid: str, params: Fields | None = None, data: Fields | None = None
    ) -> Answer:
        """Call a query with `params`, or a procedure with `data`. Raises ClientError."""
        return await self._tell({"as": caller.did, "nsid": nsid, "params": params, "data": data})

    async def call_directly(self, url: str, nsid: str, params: Fields) -> Answer:
        """Call a query of a service without its PDS and without an account. Raises ClientError."""
        return await self._tell({"at": url, "nsid": nsid, "params": params})

    async def stop(self) -> None:
        """End the process."""
        await self.server.stop()

    async def _tell(self, call: Fields) -> Answer:
        given = {name: value for name, value in call.items() if value is not None}
        async with httpx.AsyncClient(timeout=CALL_TIMEOUT, trust_env=False, verify=False) as http:
            response = await http.post(f"http://127.0.0.1:{self.server.port}", json=given)
        # Anything else than an answer or an XRPCError is a fault of the call or of the client.
        assert response.is_success, response.text
        answer = response.json()
        if "error" in answer:
            raise ClientError(answer["error"])
        return Answer(answer["data"], answer["headers"])
