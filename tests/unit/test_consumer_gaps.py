"""A stream that has jumped, gone back or left something out leaves no repo that is called whole."""

import asyncio

from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection

from indexer.stream.sequence import FAR_AHEAD
from tests.support.consuming import consuming, cursor_at, impatient, indexed, known, path
from tests.support.fake_relay import Relay, refusal, relay, sending
from tests.support.frames import (
    TIME,
    Author,
    error_frame,
    foreign_commit,
    frame,
    info_frame,
    verification,
)
from tests.support.index_file import Index, index
from tests.support.waiting import ready, until

__all__ = ["impatient", "index", "relay"]  # fixtures


async def test_an_outdated_cursor_makes_every_repo_desynchronized(
    index: Index, relay: Relay
) -> None:
    author = await known(index, relay)
    relay.scripts = [sending(info_frame("OutdatedCursor"), author.commit(9, {}))]
    async with consuming(index, relay, 1):
        await cursor_at(index, 9)
    assert (await index.repo())["sync"] == "desynchronized"


async def test_a_future_cursor_goes_live_forgets_the_cursor_and_marks_every_repo(
    index: Index, relay: Relay
) -> None:
    await known(index, relay)
    relay.scripts = [sending(error_frame("FutureCursor"))]
    async with consuming(index, relay, 5_000):
        await cursor_at(index, None)
        assert (await index.repo())["sync"] == "desynchronized"
        await until(lambda: ready(len(relay.cursors) == 2))
        await asyncio.sleep(0.05)
        relay.add(7, foreign_commit(7))
        await cursor_at(index, 7)
    assert relay.cursors == [5_000, None]


async def test_a_future_cursor_makes_account_events_of_the_new_sequence_count(
    index: Index, relay: Relay
) -> None:
    author = Author()
    relay.add(9_000, author.commit(9_000, {path(1): verification()}))
    body = {**author.account_body(3, active=False), "time": TIME.replace(":20", ":21")}
    async with consuming(index, relay):
        await cursor_at(index, 9_000)
    relay.frames.clear()
    relay.scripts = [sending(error_frame("FutureCursor"))]
    async with consuming(index, relay, 9_000):
        await cursor_at(index, None)
        await until(lambda: ready(len(relay.cursors) == 3))
        await asyncio.sleep(0.05)
        relay.add(3, frame("#account", body))
        await cursor_at(index, 3)
    assert (await index.repo())["hosting"] == "inactive"


async def test_a_stream_that_goes_on_far_ahead_is_followed_and_marks_every_repo(
    index: Index, relay: Relay
) -> None:
    author = await known(index, relay)
    far = 1 + FAR_AHEAD + 1
    relay.scripts = [sending(author.commit(far, {path(4): verification()}))]
    with capture_logs() as entries:
        async with consuming(index, relay, 1):
            await cursor_at(index, far)
    assert (await index.repo())["sync"] == "desynchronized"
    assert await indexed(index) == [1, 4]
    [warning] = [e for e in entries if e["event"] == "stream.broken"]
    assert warning["log_level"] == "warning"
    assert warning["action"] == "every tracked repo is checked again"


async def test_seqs_that_a_relay_leaves_out_are_no_jump(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    last = 1 + FAR_AHEAD
    relay.scripts = [sending(author.commit(last, {}))]
    async with consuming(index, relay, 1):
        await cursor_at(index, last)
    assert (await index.repo())["sync"] == "synchronized"


async def test_from_the_live_end_every_repo_is_checked_once_the_stream_is_joined(
    index: Index, relay: Relay
) -> None:
    author = await known(index, relay)

    async def in_step() -> None:
        async with index.db.transaction() as tx:
            await tx.execute("update repos set sync = 'synchronized'")

    async def in_doubt() -> bool:
        return bool(await index.rows("repos", sync="desynchronized"))

    close = asyncio.Event()

    async def closing(_: Relay, socket: ServerConnection, __: int | None) -> None:
        await close.wait()
        await socket.close()

    relay.answers = [refusal(503)] * 5
    relay.scripts = [closing]  # before there was a frame
    with capture_logs() as entries:
        async with consuming(index, relay, None):
            await until(in_doubt)
            assert relay.cursors == [None]
            await in_step()
            close.set()
            await until(in_doubt)
            await in_step()
            relay.add(9, author.commit(9, {}))
            await cursor_at(index, 9)
    assert (await index.repo())["sync"] == "synchronized"
    assert not [entry for entry in entries if entry["event"] == "stream.broken"]
    assert relay.cursors == [None, None]


async def test_a_second_gap_in_a_connection_is_seen_too(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    relay.scripts = [
        sending(info_frame("OutdatedCursor"), foreign_commit(9), author.commit(10**9, {}))
    ]
    with capture_logs() as entries:
        async with consuming(index, relay, 1):
            await cursor_at(index, 10**9)
    assert len([e for e in entries if e["event"] == "stream.broken"]) == 2


async def test_the_oldest_that_a_relay_has_is_no_jump(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    relay.scripts = [sending(author.commit(10**9, {}))]
    async with consuming(index, relay, 0):
        await cursor_at(index, 10**9)
    assert (await index.repo())["sync"] == "synchronized"


async def test_a_gap_that_the_relay_speaks_of_is_warned_of_once(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    far = 10**9
    relay.scripts = [sending(info_frame("OutdatedCursor"), author.commit(far, {}))]
    with capture_logs() as entries:
        async with consuming(index, relay, 1):
            await cursor_at(index, far)
    assert len([e for e in entries if e["event"] == "stream.broken"]) == 1


async def test_the_same_seq_again_is_no_step_back(index: Index, relay: Relay) -> None:
    author = await known(index, relay)
    relay.scripts = [sending(foreign_commit(1), author.commit(2, {}))]
    async with consuming(index, relay, 1):
        await cursor_at(index, 2)
    assert (await index.repo())["sync"] == "synchronized"
