"""A PDS that can be stopped, killed and started again, with the same data on the same port."""

import random
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.localnet import xrpc
from tests.localnet.account import Account
from tests.localnet.process import ServerProcess

# Below the ports that systems hand out by themselves: one of those could be given to somebody's
# outgoing connection while the PDS is down, and a client that retries could connect to itself.
PORTS = range(20_000, 32_000)


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port for a PDS")


@dataclass(slots=True, eq=False)
class Pds:
    """One PDS: its data directory, its port and its secrets stay, its process comes and goes."""

    directory: Path
    plc_url: str
    rotation_key: str = field(repr=False)  # hex, k256; signs the PLC operations of its accounts
    port: int = field(default_factory=_free_port)
    admin_password: str = field(default_factory=secrets.token_hex, repr=False)
    _jwt_secret: str = field(default_factory=secrets.token_hex, repr=False)
    _server: ServerProcess | None = None

    @property
    def url(self) -> str:
        """The service endpoint, as the DID documents of its accounts name it."""
        return f"http://localhost:{self.port}"

    @property
    def ws_url(self) -> str:
        """The URL for `firehose`, and for `--relay`."""
        return f"ws://localhost:{self.port}"

    @property
    def did(self) -> str:
        """The DID of the service itself."""
        return f"did:web:localhost%3A{self.port}"

    @property
    def log(self) -> Path:
        """The file that it logs to, over all its lives."""
        return self.directory / "pds.log"

    @property
    def running(self) -> bool:
        """Whether it is up."""
        return self._server is not None and self._server.running

    async def start(self) -> None:
        """Start it, or start it again; return once it answers. Raises ServerStartError."""
        if self.running:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._server = await ServerProcess.start(
            "pds.mjs",
            {
                "port": self.port,
                "directory": str(self.directory),
                "plc": self.plc_url,
                "serviceDid": self.did,
                "rotationKey": self.rotation_key,
                "jwtSecret": self._jwt_secret,
                "adminPassword": self.admin_password,
            },
            self.log,
        )

    async def stop(self) -> None:
        """End it in order (SIGTERM)."""
        if self._server is not None:
            await self._server.stop()

    async def kill(self) -> None:
        """End it without warning (SIGKILL)."""
        if self._server is not None:
            await self._server.kill()

    async def create_account(self, handle: str) -> Account:
        """Make an account under `.test` and log it in."""
        return await self._create_account(handle, {}, None)

    async def create_moved_account(self, handle: str, did: str, token: str) -> Account:
        """Make a place for an account that moves here: deactivated, its repo empty.

        `token` is service auth of the account for this PDS and createAccount.
        """
        return await self._create_account(handle, {"did": did}, token)

    async def _create_account(
        self, handle: str, extra: Mapping[str, object], token: str | None
    ) -> Account:
        password = secrets.token_hex(8)
        body = {"handle": handle, "email": f"{handle}@example.com", "password": password, **extra}
        answer = xrpc.checked(await self.procedure("com.atproto.server.createAccount", body, token))
        return Account(answer["did"], handle, password, self, answer["accessJwt"])

    async def delete_account(self, did: str) -> None:
        """Delete an account as the administrator, with all it holds."""
        await self._administer("com.atproto.admin.deleteAccount", {"did": did})

    def replace_signing_key(self, did: str) -> None:
        """Put another key where the PDS looks for one at each write. The DID has to follow."""
        [key] = self.directory.glob(f"actors/*/{did}/key")
        key.write_bytes(secrets.token_bytes(32))

    async def set_takedown(self, did: str, *, applied: bool) -> None:
        """Take an account down as the administrator, or undo that."""
        body = {
            "subject": {"$type": "com.atproto.admin.defs#repoRef", "did": did},
            "takedown": {"applied": applied},
        }
        await self._administer("com.atproto.admin.updateSubjectStatus", body)

    async def query(
        self, nsid: str, params: Mapping[str, str | int], token: str | None = None
    ) -> httpx.Response:
        """Call a query and return whatever came back."""
        return await xrpc.query(self.url, nsid, params, xrpc.bearer(token))

    async def procedure(
        self,
        nsid: str,
        body: Mapping[str, object] | bytes | None,
        token: str | None = None,
        proxy: str | None = None,
    ) -> httpx.Response:
        """Call a procedure, for the PDS itself or for the service that it shall proxy to."""
        headers = xrpc.bearer(token) | ({} if proxy is None else {"atproto-proxy": proxy})
        return await xrpc.procedure(self.url, nsid, body, headers)

    async def _administer(self, nsid: str, body: Mapping[str, object]) -> None:
        headers = xrpc.basic("admin", self.admin_password)
        xrpc.checked(await xrpc.procedure(self.url, nsid, body, headers))
