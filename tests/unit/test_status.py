"""The status says what is so, in words for people and in keys for programs."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from indexer import status
from indexer.lock import daemon_lock
from indexer.store import backfills, cursors, daemon, outbox, repos, resyncs
from indexer.store.cursors import Cursor
from indexer.stream.events import Account
from tests.support.xrpc_world import ALICE, BOB, CAROL, INVITE, SPACE, World, make_world

HASH = "ab" * 32
RELAY = "relay.test"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


async def gather(world: World, relay: str = RELAY) -> dict[str, Any]:
    found = await status.gather(world.db, relay, world.now)
    assert json.loads(json.dumps(found)) == found
    return found


async def started(world: World, relay: str = RELAY) -> None:
    async with world.db.transaction() as tx:
        await daemon.start(tx, pid=4711, version="1.2.3", relay=relay, now=world.now)


async def at(world: World, seq: int, time: str | None, relay: str = RELAY) -> None:
    async with world.db.transaction() as tx:
        await cursors.save(tx, relay, Cursor(seq, time, world.now))


async def test_an_empty_database_has_a_status_too(world: World) -> None:
    found = await gather(world)
    nothing = {"space": 0, "invite": 0, "verification": 0}
    assert found == {
        "daemon": {"running": False, "pid": None, "version": None, "started_at": None},
        "cursor": {"relay": RELAY, "seq": None, "time": None},
        "lag_seconds": None,
        "pace": None,
        "records": nothing,
        "tombstones": nothing,
        "repos": {},
        "resync": {"due": 0, "failing": 0},
        "resynced": {},
        "backfill": {},
        "outbox": dict.fromkeys(outbox.STATES, 0),
        "publishing_paused": None,
        "sessions": [],
        "skipped": {},
        "rejected": {},
        "noted": {},
    }
    text = status.render(found)
    assert "not running" in text
    assert "none yet" in text
    assert "backfill    not begun" in text
    assert "session     none" in text


async def test_records_are_those_that_count(world: World) -> None:
    await world.account(ALICE)
    await world.account(BOB, session=False)
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await world.invite(space, "cd" * 32, "two", owner=BOB)  # by a stranger
    uris = [await world.verification(ALICE, key) for key in ("one", "two")]
    await world.verification(BOB)
    async with world.db.transaction() as tx:
        await tx.execute("update verifications set revoked = 1 where uri = :uri", {"uri": uris[0]})
        hidden = Account(10**9, None, BOB, active=False, status="deactivated")
        await world.projection.apply(tx, [hidden], world.now)

    found = await gather(world)

    assert found["records"] == {"space": 1, "invite": 1, "verification": 1}
    assert found["repos"]["deactivated"] == 1
    assert sum(found["repos"].values()) == 2


async def test_tombstones_outbox_sessions_and_counters_are_counted(world: World) -> None:
    await world.account(ALICE)
    uris = [await world.verification(ALICE, key) for key in ("one", "two", "three")]
    await world.enqueue(*uris)
    async with world.db.transaction() as tx:
        await outbox.drop(tx, uris[0], "no", world.now)
        await tx.execute(
            """
            insert into tombstones (uri, cid, kind, did, rev, cause, created_at)
            select uri, cid, 'verification', did, rev, 'deleted', 0 from verifications
            """
        )
        await daemon.save_counters(tx, "skipped", {"other_collection": 12})
        await daemon.save_counters(tx, "rejected", {"bad_block": 3})

    found = await gather(world)

    assert found["tombstones"] == {"space": 0, "invite": 0, "verification": 3}
    assert found["outbox"] == {**dict.fromkeys(outbox.STATES, 0), "pending": 2, "dropped": 1}
    assert found["sessions"] == [{"did": ALICE, "handle": "alice.test", "refused": None}]
    assert (found["skipped"], found["rejected"]) == ({"other_collection": 12}, {"bad_block": 3})
    text = status.render(found)
    assert f"session     {ALICE} (alice.test): works" in text
    assert "pending 2" in text
    assert "bad_block 3" in text


async def test_repos_that_wait_to_be_fetched_are_counted_and_those_that_fail(
    world: World,
) -> None:
    async with world.db.transaction() as tx:
        await repos.track(tx, [ALICE, BOB, CAROL])
        await resyncs.claim(tx, [BOB], world.now + 1)
        await resyncs.put_off(tx, BOB, "unreachable", world.now + 1)
        # Nobody serves it: it waits for no one.
        await tx.execute(
            "update repos set hosting = 'deactivated' where did = :did", {"did": CAROL}
        )

    found = await gather(world)
    assert found["resync"] == {"due": 1, "failing": 1}
    assert "resync      1 due now, 1 failing" in status.render(found)

    async with world.db.transaction() as tx:
        await tx.execute("update repos set sync = 'synchronized'")
    assert (await gather(world))["resync"] == {"due": 0, "failing": 0}


async def test_the_search_for_repos_is_shown_by_collection(world: World) -> None:
    async with world.db.transaction() as tx:
        await backfills.begin(tx, RELAY, [INVITE, SPACE])
        await backfills.begin(tx, "other.test", [INVITE, SPACE])
        [_, search] = await backfills.load(tx, RELAY)
        await backfills.advance(tx, RELAY, search, None, 12, world.now)

    found = await gather(world)

    assert found["backfill"] == {
        SPACE: {"found": 0, "done": False},
        INVITE: {"found": 12, "done": True},
    }
    text = status.render(found)
    assert f"backfill    {SPACE}: 0 found, under way\n" in text
    assert f"backfill    {INVITE}: 12 found, done\n" in text

    async with world.db.transaction() as tx:
        await backfills.search_all(tx, RELAY)
    found = await gather(world)
    assert found["backfill"]["*"] == {"found": 0, "done": False}
    text = status.render(found)
    assert "backfill    all repos: 0 found, under way\n" in text
    assert text.count("backfill") == 1  # it stands for all


async def test_a_refused_session_says_what_to_do(world: World) -> None:
    await world.account(ALICE)
    async with world.db.transaction() as tx:
        await tx.execute("update sessions set refused = 'run `rescind login`'")
    assert "run `rescind login`" in status.render(await gather(world))


async def test_the_lag_is_the_age_of_the_last_frame(world: World) -> None:
    await at(world, 5, "2027-01-15T07:59:18.500Z")  # it is 08:00:00
    found = await gather(world)
    assert found["cursor"] == {"relay": RELAY, "seq": 5, "time": "2027-01-15T07:59:18.500Z"}
    assert found["lag_seconds"] == 41.5
    assert "42 s ago" in status.render(found)


async def paced(world: World, rate: float, is_behind: bool, left: float | None) -> None:
    async with world.db.transaction() as tx:
        await daemon.save_pace(tx, rate=rate, is_behind=is_behind, left=left)


async def test_a_daemon_that_catches_up_tells_its_rate_and_the_time_left(world: World) -> None:
    await started(world)
    await at(world, 5, None)
    await paced(world, 104_233.44, True, 3_725.02)
    assert (await gather(world))["pace"] is None  # it does not run
    with daemon_lock(world.db.path):
        found = await gather(world)
        assert found["pace"] == {
            "events_per_second": 104_233.4, "catching_up": True, "seconds_left": 3_725.0
        }  # fmt: skip
        line = "pace        104,233 events/s, catching up, 1:02:05 left\n"
        assert line in status.render(found)
        await paced(world, 0.04, True, None)
        found = await gather(world)
        assert found["pace"]["seconds_left"] is None
        assert "0 events/s, catching up, time left unknown" in status.render(found)
        await paced(world, 812, False, 0)
        found = await gather(world)
        assert found["pace"] == {
            "events_per_second": 812, "catching_up": False, "seconds_left": 0
        }  # fmt: skip
        assert "812 events/s, live" in status.render(found)


async def test_a_pace_of_a_while_ago_or_of_another_daemon_is_not_told(world: World) -> None:
    await started(world)
    await at(world, 5, None)
    await paced(world, 1_000, True, 10)
    with daemon_lock(world.db.path):
        world.clock.now += status.PACE_LASTS + 1
        assert (await gather(world))["pace"] is None
        assert "\npace" not in status.render(await gather(world))
        await at(world, 6, None)
        assert (await gather(world))["pace"] is not None
        await started(world)
        assert (await gather(world))["pace"] is None


@pytest.mark.parametrize(
    ("time", "lag"),
    [
        ("2027-01-15T08:10:00Z", 0.0),  # a relay whose clock is ahead
        (None, None),
        ("yesterday", None),
    ],
)
async def test_a_lag_is_never_made_up(world: World, time: str | None, lag: float | None) -> None:
    await at(world, 5, time)
    found = await gather(world)
    assert found["lag_seconds"] == lag
    assert "5" in status.render(found)


async def test_while_a_daemon_runs_its_relay_counts_and_not_that_of_the_shell(
    world: World,
) -> None:
    await started(world, "other.test")
    await at(world, 5, None, RELAY)
    await at(world, 9, None, "other.test")
    assert (await gather(world))["cursor"]["seq"] == 5

    with daemon_lock(world.db.path):
        found = await gather(world)

    assert found["cursor"] == {"relay": "other.test", "seq": 9, "time": None}
    assert found["daemon"] == {
        "running": True, "pid": 4711, "version": "1.2.3",
        "started_at": "2027-01-15T08:00:00+00:00",
    }  # fmt: skip
    assert "running, pid 4711" in status.render(found)


async def test_a_daemon_that_was_killed_does_not_run(world: World) -> None:
    await started(world)
    with daemon_lock(world.db.path):
        pass
    found = await gather(world)
    assert (found["daemon"]["running"], found["daemon"]["pid"]) == (False, None)
    assert found["daemon"]["started_at"] is not None
