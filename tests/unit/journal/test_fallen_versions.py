"""A version that falls under a revocation has its line too: nobody is answered that it did."""

from collections.abc import Sequence

import pytest

from indexer.store.tombstones import Tombstone
from tests.support.consuming import consumer_of, consuming, cursor_at, impatient, known, path
from tests.support.fake_relay import Relay, relay
from tests.support.frames import ALICE, BOB, VERIFICATION, verification
from tests.support.index_file import Index, index

__all__ = ["impatient", "index", "relay"]  # fixtures

URI = f"at://{ALICE}/{VERIFICATION}/1"


async def test_a_version_in_flight_is_kept_before_it_counts_as_seen(
    index: Index, relay: Relay
) -> None:
    kept: list[Tombstone] = []

    async def keep(stones: Sequence[Tombstone]) -> None:
        kept.extend(stones)

    author = await known(index, relay)
    await index.revoke(URI, actor=BOB, reason="an impostor")
    relay.add(2, author.commit(2, {path(1): verification(displayName="Caroline")}))
    relay.add(3, author.commit(3, {path(3): verification()}))
    async with consuming(index, relay, 1, keep=keep):
        await cursor_at(index, 3)
    [stone] = kept
    assert (stone.uri, stone.actor, stone.reason) == (URI, BOB, "an impostor")
    assert not await index.is_live("verifications", URI)


async def test_a_line_that_can_not_be_written_ends_the_consumer_with_the_cursor_unmoved(
    index: Index, relay: Relay
) -> None:
    async def keep(_: Sequence[Tombstone]) -> None:
        raise OSError("no room")

    author = await known(index, relay)
    await index.revoke(URI, actor=BOB)
    relay.add(2, author.commit(2, {path(1): verification(displayName="Caroline")}))
    with pytest.raises(ExceptionGroup) as caught:
        await consumer_of(index.db, relay, 1, keep=keep).run()
    assert isinstance(caught.value.exceptions[0], OSError)
    [cursor] = await index.rows("cursors")
    assert cursor["seq"] == 1
