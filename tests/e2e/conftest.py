"""The one real network that all end-to-end tests share.

It lives in the loop of the session, so every module here says
`pytestmark = pytest.mark.asyncio(loop_scope="session")`, and its accounts take their names from
`network.handle`.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.daemon import Daemon
from tests.localnet import LocalNetwork


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalNetwork]:
    """A PLC directory and a PDS, started once; a test that stops the PDS starts it again."""
    async with await LocalNetwork.start(tmp_path_factory.mktemp("network")) as network:
        yield network


@pytest_asyncio.fixture(loop_scope="session")
async def daemon(network: LocalNetwork, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A running daemon that has read the network's stream from its beginning."""
    daemon = Daemon.on(network, tmp_path / "rescind")
    await daemon.start("--cursor", "oldest")
    yield daemon
    await daemon.stop()
