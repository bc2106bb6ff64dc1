"""Copies of a repo that an index is reconciled with."""

from indexer.proof.repo import Contents
from indexer.store import resyncs
from indexer.stream.events import Account
from tests.support.frames import ALICE, TIME
from tests.support.index_file import Index


async def reconcile(index: Index, contents: Contents) -> tuple[bool, list[str]]:
    async with index.db.transaction() as tx:
        is_whole, rejected = await index.projection.reconcile(tx, contents, index.now)
        return is_whole, list(rejected)


async def leave_and_return(index: Index) -> None:
    """Let Alice's account be deleted and be back, and its repo be taken up to be fetched."""
    await index.apply(Account(90, TIME, ALICE, active=False, status="deleted"))
    await index.apply(Account(91, TIME, ALICE, active=True, status=None))
    async with index.db.transaction() as tx:
        await resyncs.claim(tx, [ALICE], 0)
