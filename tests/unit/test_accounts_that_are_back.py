"""The firehose says that an account is back, or elsewhere: what was put off is due at once."""

import pytest

from indexer.store import outbox
from tests.support.consuming import consuming, cursor_at, impatient
from tests.support.fake_relay import Relay, relay
from tests.support.frames import ALICE, BOB, NOW, VERIFICATION, frame
from tests.support.index_file import Index, index

__all__ = ["impatient", "index", "relay"]  # fixtures

FAR = NOW + 3_600_000


async def put_off(index: Index, *dids: str, hosting: str = "active") -> None:
    """Let a deletion and the resync of each of these wait for an hour."""
    async with index.db.transaction() as tx:
        for did in dids:
            await outbox.enqueue(tx, [(f"at://{did}/{VERIFICATION}/one", "")], FAR)
            await tx.execute(
                """
                insert into repos (did, sync, hosting, resync_due_at, resync_attempts)
                values (:did, 'desynchronized', :hosting, :far, 9)
                """,
                {"did": did, "hosting": hosting, "far": FAR},
            )


async def due(index: Index, did: str) -> tuple[int, int]:
    """Return when its deletion and its resync are due."""
    repo = await index.db.one(
        "select resync_due_at, resync_attempts from repos where did = :did", {"did": did}
    )
    [row] = (await outbox.load(index.db, [f"at://{did}/{VERIFICATION}/one"])).values()
    assert repo
    return row.due_at, repo["resync_due_at"]


ACTIVE = {"active": True}
IDENTITY = {"handle": "alice.test"}


@pytest.mark.parametrize(
    ("kind", "body", "hosting"),
    [
        ("#account", ACTIVE, "deactivated"),
        ("#account", ACTIVE, "active"),
        ("#identity", IDENTITY, "active"),
    ],
)
async def test_what_was_put_off_is_due_at_once(
    index: Index, relay: Relay, kind: str, body: dict[str, object], hosting: str
) -> None:
    await put_off(index, ALICE, BOB, hosting=hosting)
    relay.add(1, frame(kind, {"seq": 1, "did": ALICE, "time": "2026-09-21T14:13:20.000Z", **body}))
    async with consuming(index, relay):
        await cursor_at(index, 1)
    deletion, resync = await due(index, ALICE)
    assert deletion <= NOW
    assert resync <= NOW
    assert await due(index, BOB) == (FAR, FAR)


async def test_an_account_that_is_not_active_is_not_tried_for_that(
    index: Index, relay: Relay
) -> None:
    await put_off(index, ALICE)
    body = {"seq": 1, "did": ALICE, "time": "2026-09-21T14:13:20.000Z", "active": False}
    relay.add(1, frame("#account", body))
    async with consuming(index, relay):
        await cursor_at(index, 1)
    assert await due(index, ALICE) == (FAR, FAR)


async def test_a_replay_hastens_nothing(index: Index, relay: Relay) -> None:
    await put_off(index, ALICE)
    body = {"seq": 1, "did": ALICE, "time": "2026-09-21T14:13:20.000Z", **IDENTITY}
    relay.add(1, frame("#identity", body))
    async with consuming(index, relay, is_replay=True):
        await cursor_at(index, 1)
    assert await due(index, ALICE) == (FAR, FAR)
