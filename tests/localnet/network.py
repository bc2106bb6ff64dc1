"""The network: one PLC directory and the PDSs that use it."""

import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.localnet import plc
from tests.localnet.account import Account
from tests.localnet.pds import Pds
from tests.localnet.process import ServerProcess
from tests.localnet.xrpc import checked


@dataclass(slots=True, eq=False)
class LocalNetwork:
    """A PLC directory, a PDS, and as many more as a test asks for; all on loopback."""

    directory: Path
    plc_url: str
    pds: Pds
    # One key for the accounts of all PDSs, as if each person had kept theirs: it moves them.
    _rotation_key: str = field(repr=False)
    _servers: AsyncExitStack = field(repr=False)
    _pds_count: int = 1
    _handle_count: int = 0

    @classmethod
    async def start(cls, directory: Path) -> Self:
        """Start both servers with their data and logs in `directory`, made if it is missing.

        Raises ServerStartError, with nothing left running.
        """
        directory.mkdir(parents=True, exist_ok=True)
        rotation_key = secrets.token_hex(32)
        servers = AsyncExitStack()
        try:
            plc_server = await ServerProcess.start("plc.mjs", {}, directory / "plc.log")
            servers.push_async_callback(plc_server.stop)
            plc_url = f"http://localhost:{plc_server.port}"
            pds = Pds(directory / "pds-1", plc_url, rotation_key)
            servers.push_async_callback(pds.stop)
            await pds.start()
        except BaseException:
            await servers.aclose()
            raise
        return cls(directory, plc_url, pds, rotation_key, servers)

    async def add_pds(self) -> Pds:
        """Start one more PDS. Raises ServerStartError."""
        self._pds_count += 1
        pds = Pds(self.directory / f"pds-{self._pds_count}", self.plc_url, self._rotation_key)
        self._servers.push_async_callback(pds.stop)
        await pds.start()
        return pds

    async def move(self, account: Account, pds: Pds) -> Account:
        """Move an account to another PDS and return it there; the old one is deactivated.

        The same DID and handle, another signing key. Source: atproto.com/guides/account-migration
        """
        token = await account.service_auth(pds.did, "com.atproto.server.createAccount")
        moved = await pds.create_moved_account(account.handle, account.did, token)
        repo = await account.pds.query("com.atproto.sync.getRepo", {"did": account.did})
        car = repo.raise_for_status().content
        checked(await pds.procedure("com.atproto.repo.importRepo", car, moved.token))
        await self._update_identity(moved)
        await moved.activate()
        await account.deactivate()
        return moved

    async def rotate_key(self, account: Account) -> None:
        """Give an account another signing key; its PDS announces that (`#identity`)."""
        account.pds.replace_signing_key(account.did)
        await self._update_identity(account)

    async def _update_identity(self, account: Account) -> None:
        """Have the DID document name what the account's PDS recommends: itself and its key."""
        nsid = "com.atproto.identity.getRecommendedDidCredentials"
        credentials = checked(await account.pds.query(nsid, {}, account.token))
        operation = await plc.next_operation(
            self.plc_url, account.did, credentials, self._rotation_key
        )
        nsid = "com.atproto.identity.submitPlcOperation"
        checked(await account.pds.procedure(nsid, {"operation": operation}, account.token))

    def questions(self, did: str, user_agent: str = "rescind") -> int:
        """Count how often the directory was asked for a DID, by default by us."""
        return plc.count_questions(self.directory / "plc.log", did, user_agent)

    def handle(self, name: str) -> str:
        """Return a handle that no other test has: `alice-7.test`."""
        self._handle_count += 1
        return f"{name}-{self._handle_count}.test"

    async def stop(self) -> None:
        """Stop every server, the directory last."""
        await self._servers.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
