"""A network with Alice's repo in it, and a resyncer that fetches it into an index."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.net import requests
from indexer.repos import hosts as repo_hosts
from tests.support.alices_records import CHECK, GARDEN, GARDEN_URI, ONE
from tests.support.frames import ALICE, invite, space, verification
from tests.support.index_file import opened
from tests.support.repo_host import Net, opened_net
from tests.support.streamed_repo import Owner

RECORDS = {GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: verification()}


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    async with opened(tmp_path) as index, opened_net(index) as net:
        yield net


@pytest.fixture
async def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Net]:
    """A network whose hosts are not waited for long."""
    monkeypatch.setattr(repo_hosts, "FETCH_WITHIN", 5.0)
    monkeypatch.setattr(repo_hosts, "ASK_WITHIN", 0.3)
    monkeypatch.setattr(requests, "STEP_TIMEOUT", 0.3)
    async with opened(tmp_path) as index, opened_net(index, timeout=0.3) as net:
        yield net


async def alice_in(net: Net) -> Owner:
    """Return a repo with three records of ours among others, tracked, its commits not seen."""
    owner = net.house(Owner())
    owner.wrote({f"app.bsky.feed.post/{n:03}": {"text": str(n)} for n in range(60)})
    owner.wrote(RECORDS)
    await net.track(ALICE)
    return owner


async def is_indexed(net: Net) -> bool:
    rows = await net.index.rows("repos", did=ALICE, sync="synchronized")
    tables = ("spaces", "invites", "verifications")
    return bool(rows) and all([len(await net.index.rows(table)) == 1 for table in tables])
