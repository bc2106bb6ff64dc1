"""A frame that can't be read costs no connection, no event of others, and one check at most."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from indexer.rules.projection import CHECK_PAUSE
from tests.support.consuming import consuming, cursor_at, impatient, indexed, record_at
from tests.support.fake_relay import Relay, Script, relay, sending, text
from tests.support.frames import (
    ALICE,
    BOB,
    NOW,
    TIME,
    VERIFICATION,
    Author,
    foreign_commit,
    frame,
    identity_frame,
)
from tests.support.index_file import Index, index
from tests.support.waiting import until

GARBLED = (b"\x78\x18" + TIME.encode(), b"\x61\xff")

__all__ = ["impatient", "index", "relay"]  # fixtures


def garbled(seq: int, did: str = BOB) -> bytes:
    """Return an #identity whose time is one byte, 0xff, as anybody's host may send it."""
    return identity_frame(seq, did).replace(*GARBLED)


NOISE: dict[str, Any] = {
    "noise": b"\xff noise",
    "nothing": b"",
    "a body cut off": foreign_commit(2)[:-9],
    "a message without a seq": frame("#account", {"did": BOB}),
    "a header without an op": b"\xa1\x61t\x67#commit\xa1\x63seq\x02",
    "text that is no UTF-8": garbled(2),
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
async def test_it_is_counted_and_the_connection_goes_on(
    index: Index, relay: Relay, noise: bytes
) -> None:
    author = Author()
    relay.frames = [(1, record_at(author, 1)), (2, noise), (3, record_at(author, 3))]
    async with consuming(index, relay) as consumer:
        await cursor_at(index, 3)
    assert relay.cursors == [0]
    assert await indexed(index) == [1, 3]
    assert consumer.stats.rejected == {"malformed": 1}
    assert (await index.repo())["sync"] == "synchronized"


@pytest.mark.parametrize(
    "script", [sending("a text"), text(b"\xff\xfe")], ids=["text", "text that is none"]
)
async def test_a_text_message_is_no_frame_and_ends_nothing_either(
    index: Index, relay: Relay, script: Script
) -> None:
    author = Author()

    async def scripted(relay: Relay, socket: Any, cursor: int | None) -> None:
        class Open:
            send = socket.send

            async def close(self) -> None:
                return

        await script(relay, Open(), cursor)  # type: ignore[arg-type]
        await relay.stream(socket, cursor)

    relay.scripts = [scripted]
    relay.add(1, record_at(author, 1))
    async with consuming(index, relay) as consumer:
        await cursor_at(index, 1)
    assert relay.cursors == [0]
    assert consumer.stats.rejected == {"malformed": 1}


async def test_a_thousand_of_them_keep_nobody_waiting(index: Index, relay: Relay) -> None:
    author = Author()
    relay.frames = [(seq, garbled(seq)) for seq in range(1, 1_001)]
    relay.frames.append((1_001, record_at(author, 1_001)))
    async with consuming(index, relay) as consumer:
        await cursor_at(index, 1_001)
    assert relay.cursors == [0]
    assert consumer.stats.rejected == {"malformed": 1_000}


async def test_a_tracked_repo_that_one_names_is_checked_and_not_for_each_of_them(
    index: Index, relay: Relay
) -> None:
    async def due_at() -> int:
        return int((await index.repo())["resync_due_at"])

    async def in_doubt() -> bool:
        return bool(await index.rows("repos", sync="desynchronized"))

    async def checked() -> None:
        async with index.db.transaction() as tx:
            await tx.execute("update repos set sync = 'synchronized', resync_due_at = 0")

    relay.add(1, record_at(Author(), 1))
    now = NOW
    async with consuming(index, relay, clock=lambda: now / 1000):
        await cursor_at(index, 1)
        relay.add(2, garbled(2, ALICE))
        await until(in_doubt)
        assert await due_at() == 0
        await checked()
        for seq in range(3, 40):
            relay.add(seq, garbled(seq, ALICE))
        await cursor_at(index, 39)
        assert await in_doubt()
        assert await due_at() == NOW + CHECK_PAUSE  # those of a minute together
        await checked()
        now += 2 * CHECK_PAUSE
        relay.add(40, garbled(40, ALICE))
        await until(in_doubt)
        assert await due_at() == 0


async def test_what_is_wrong_is_named_in_the_log_once_a_minute_and_kind(
    index: Index, relay: Relay
) -> None:
    author = Author()
    relay.add(1, author.commit(1, {f"{VERIFICATION}/1": {"$type": VERIFICATION}}))
    for seq in range(2, 50):
        relay.add(seq, garbled(seq))
    relay.add(50, frame("#commit", {**author.commit_body(50, {}), "rev": "3"}))
    bad = author.commit_body(51, {f"{VERIFICATION}/3": {}})
    relay.add(51, frame("#commit", {**bad, "ops": []}))
    with capture_logs() as entries:
        async with consuming(index, relay):
            await cursor_at(index, 51)
    told = {
        (entry["reason"], entry["what"])
        for entry in entries
        if entry["event"] == "event.rejected" and entry["log_level"] == "warning"
    }
    assert len([e for e in entries if e["event"] == "event.rejected"]) == len(told)
    assert {
        ("malformed", "text that is not UTF-8"),
        ("malformed", "a rev that is no TID"),
    } < told
    assert {reason for reason, _ in told} == {"malformed", "invalid_record", "bad_tree"}
