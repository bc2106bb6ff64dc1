"""`rescind run` as a process of its own, called and ended from outside."""

import asyncio
import json
import signal
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support.command import free_address, spawn
from tests.support.xrpc_world import ALICE, REVOKE_VERIFICATIONS, World


class Daemon:
    """`rescind run` on the world's database."""

    def __init__(self, world: World, address: str) -> None:
        self.world = world
        self.address = address
        self.process: Process
        self.out = b""
        self.err = b""

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def answers(self) -> bool:
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=15) as client:
            try:
                answer = await client.get(f"{self.url}/.well-known/did.json")
            except httpx.TransportError:
                return False
        return answer.status_code == 200

    async def call(self, uri: str) -> httpx.Response:
        did = f"did:web:localhost%3A{self.address.rpartition(':')[2]}"
        now = int(time.time())
        token = self.world.token(ALICE, REVOKE_VERIFICATIONS, aud=did, iat=now, exp=now + 60)
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=15) as client:
            return await client.post(
                f"{self.url}/xrpc/{REVOKE_VERIFICATIONS}",
                json={"uris": [uri]},
                headers={"authorization": f"Bearer {token}"},
            )

    async def end(self, number: signal.Signals | None = None, within: float = 15.0) -> int:
        """Send a signal, if any, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(within):
            out, err = await self.process.communicate()
        self.out += out
        self.err += err
        return self.process.returncode or 0

    def logged(self) -> list[dict[str, Any]]:
        lines = self.err.decode().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@asynccontextmanager
async def running(world: World, **settings: str) -> AsyncIterator[Daemon]:
    daemon = Daemon(world, free_address())
    daemon.process = await spawn(
        world, "run", BIND=daemon.address, **{"LOG_FORMAT": "json", **settings}
    )
    try:
        async with asyncio.timeout(15):
            while not await daemon.answers():
                assert daemon.process.returncode is None, await daemon.process.communicate()
                await asyncio.sleep(0.05)
        yield daemon
    finally:
        if daemon.process.returncode is None:
            daemon.process.kill()
            await daemon.process.communicate()
