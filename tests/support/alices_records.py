"""What stands in Alice's repo, and how it stands in an index."""

from typing import Any

from indexer.store import invites, spaces, verifications
from tests.support.frames import (
    ALICE,
    INVITE,
    SPACE,
    VERIFICATION,
    block,
    cid_text,
    invite,
    space,
    verification,
)
from tests.support.index_file import Index

GARDEN = f"{SPACE}/garden"
GARDEN_URI = f"at://{ALICE}/{GARDEN}"
ONE = f"{INVITE}/one"
TWO = f"{INVITE}/two"
CHECK = f"{VERIFICATION}/3k"
CHECK_URI = f"at://{ALICE}/{CHECK}"
OTHER_CHECK = f"{VERIFICATION}/3l"
POST = "app.bsky.feed.post/3k"

TEXT = verification()
OTHER = verification(displayName="Caroline")
EVERYTHING = {GARDEN: space(), ONE: invite(GARDEN_URI), CHECK: TEXT}


def cid(record: Any) -> str:
    return cid_text(block(record))


async def deletion(index: Index, uri: str = CHECK_URI) -> dict[str, Any]:
    row = await index.deletion(uri)
    assert row is not None
    return row


async def shown(index: Index) -> list[int]:
    """Return how many spaces, invites and verifications are live."""
    return [await table.count_live(index.db) for table in (spaces, invites, verifications)]
