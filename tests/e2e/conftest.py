"""The one real network that all end-to-end tests share.

It lives in the loop of the session, so every module here says
`pytestmark = pytest.mark.asyncio(loop_scope="session")`, and its accounts take their names from
`network.handle`.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.localnet import LocalNetwork


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalNetwork]:
    """A PLC directory and a PDS, started once; a test that stops the PDS starts it again."""
    async with await LocalNetwork.start(tmp_path_factory.mktemp("network")) as network:
        yield network
