"""Prometheus sees what the daemon does, in counts that name nobody."""

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from indexer.store import tombstones
from indexer.store.cursors import Cursor
from indexer.store.db import Database
from indexer.stream.pace import Look, Pace
from indexer.stream.stats import Distribution
from tests.support.metrics_text import Samples, read
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    NOW,
    REVOKE_INVITE,
    REVOKE_VERIFICATIONS,
    World,
    make_world,
)
from xrpc.serving import metrics as module
from xrpc.serving.metrics import Metrics, create_metrics_app

HASH = "ab" * 32


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE)
        yield made


async def scraped(world: World) -> Samples:
    world.clock.now += module.FRESH  # so that the database is counted anew
    answer = await world.request("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read(answer.text)


async def test_the_stream_is_counted(world: World) -> None:
    stats = world.stream.stats
    stats.frames = 1000
    stats.events.update(commit=3, identity=1)
    stats.skipped.update(other_collection=996)
    stats.rejected.update(bad_signature=2)
    stats.noted.update(old_form=1)
    stats.batch_events.add(4)
    stats.batch_seconds.add(0.007)
    found = await scraped(world)
    assert found["rescind_frames_total"] == {(): 1000}
    assert found["rescind_events_total"] == {("commit",): 3, ("identity",): 1}
    assert found["rescind_skipped_total"] == {("other_collection",): 996}
    assert found["rescind_rejected_total"] == {("bad_signature",): 2}
    assert found["rescind_noted_total"] == {("old_form",): 1}
    assert found["rescind_batch_events_count"] == {(): 1}
    assert found["rescind_batch_events_sum"] == {(): 4}
    assert found["rescind_batch_seconds_bucket"][("0.005",)] == 0
    assert found["rescind_batch_seconds_bucket"][("0.01",)] == 1
    assert found["rescind_batch_seconds_bucket"][("+Inf",)] == 1


async def test_the_lag_is_shown_in_seconds_and_in_seqs(world: World) -> None:
    now = NOW + module.FRESH
    world.stream.stats.moved_at = world.stream.stats.beat_at = now
    sent = datetime.fromtimestamp(now - 3, UTC).isoformat().replace("+00:00", "Z")
    world.stream.position, world.stream.applied = Cursor(120, sent), Cursor(100, sent)
    found = await scraped(world)
    assert found["rescind_connected"] == {(): 1}
    assert found["rescind_lag_seconds"] == {(): pytest.approx(3)}
    assert found["rescind_lag_seq"] == {(): 20}
    assert found["rescind_cursor_seq"] == {(): 100}


async def test_the_pace_and_the_time_that_a_catch_up_takes_are_shown(world: World) -> None:
    found = await scraped(world)
    assert found["rescind_events_per_second"] == {(): 0}
    assert found["rescind_catch_up_seconds_left"] == {(): 0}
    for tick in range(8):
        look = Look(NOW + tick, tick * 90_000, NOW - 5_000 + tick * 51, True)
        world.stream.stats.pace = world.stream.stats.pace.seen(look)
    found = await scraped(world)
    assert found["rescind_events_per_second"] == {(): pytest.approx(90_000)}
    assert found["rescind_catch_up_seconds_left"] == {(): pytest.approx(93, abs=2)}
    world.stream.stats.pace = Pace(is_behind=True)
    assert "rescind_catch_up_seconds_left" not in await scraped(world)


async def test_what_is_not_known_yet_has_no_sample(world: World) -> None:
    world.stream.is_connected = False
    found = await scraped(world)
    assert found["rescind_connected"] == {(): 0}
    assert "rescind_lag_seconds" not in found
    assert "rescind_cursor_seq" not in found


async def test_the_tables_are_counted(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await world.account(BOB, session=False)
    await world.verification(BOB)
    answer = await world.call(ALICE, REVOKE_INVITE, {"spaceUri": space, "tokenHash": HASH})
    assert answer.status_code == 200
    found = await scraped(world)
    assert found["rescind_repos"] == {("pending",): 2}
    assert found["rescind_resync_queue"] == {("due",): 2, ("failing",): 0}
    assert found["rescind_tombstones"] == {("invite",): 1, ("space",): 0, ("verification",): 0}
    assert set(found["rescind_outbox"]) == {
        (state,) for state in ("pending", "sent", "confirmed", "blocked", "dropped")
    }
    assert sum(found["rescind_outbox"].values()) == 1


async def test_the_age_of_the_oldest_deletion_that_is_not_done(world: World) -> None:
    await world.account(BOB, session=False)
    first, second = await world.verification(BOB, "one"), await world.verification(BOB, "two")
    await world.enqueue(first)
    world.clock.now += 100
    await world.enqueue(second)
    async with world.db.transaction() as tx:
        await tx.execute("update outbox set state = 'blocked'")
    found = await scraped(world)
    assert found["rescind_outbox_oldest_seconds"] == {
        ("pending",): 0,
        ("sent",): 0,
        ("blocked",): 100 + module.FRESH,
    }


async def test_calls_are_counted_by_method_and_status(world: World) -> None:
    await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    await world.call(ALICE, REVOKE_VERIFICATIONS, {})
    await world.request("POST", f"/xrpc/{REVOKE_INVITE}", json={})
    for number in range(20):
        await world.request("GET", f"/xrpc/com.example.m{number}")
    found = await scraped(world)
    assert found["rescind_requests_total"] == {
        (REVOKE_VERIFICATIONS, "200"): 1,
        (REVOKE_VERIFICATIONS, "400"): 1,
        (REVOKE_INVITE, "401"): 1,
        ("unknown", "501"): 20,  # names that strangers make up take no room
    }
    assert found["rescind_request_seconds_count"][(REVOKE_VERIFICATIONS,)] == 2
    assert found["rescind_request_seconds_bucket"][("+Inf", "unknown")] == 20
    assert found["rescind_auth_failures_total"] == {("missing",): 1}


async def test_no_metric_names_anybody(world: World) -> None:
    space = await world.space(ALICE)
    await world.invite(space, HASH)
    await world.call(ALICE, REVOKE_INVITE, {"spaceUri": space, "tokenHash": HASH})
    text = (await world.request("GET", "/metrics")).text
    assert not [secret for secret in ("did:", "at://", HASH, "Bearer", "eyJ") if secret in text]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
async def test_the_memory_of_the_process_is_shown(world: World) -> None:
    found = await scraped(world)
    assert found["process_resident_memory_bytes"][()] > 10_000_000


async def test_the_tables_are_not_counted_at_every_scrape(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = 0
    count = tombstones.count_by_kind

    async def counting(*args: object) -> dict[str, int]:
        nonlocal scans
        scans += 1
        return await count(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(tombstones, "count_by_kind", counting)
    for _ in range(3):
        await world.request("GET", "/metrics")
    assert scans == 1
    await scraped(world)
    assert scans == 2
    world.clock.now -= 1000  # a clock that was set back is no reason to stand still
    await world.request("GET", "/metrics")
    assert scans == 3


async def test_metrics_may_be_served_elsewhere_or_not_at_all(world: World) -> None:
    made = Metrics(world.db, world.stream, {}, world.counts, world.clock)
    transport = httpx.ASGITransport(create_metrics_app(made))
    async with httpx.AsyncClient(transport=transport, base_url="http://metrics.test") as client:
        assert "rescind_frames_total" in (await client.get("/metrics")).text
        assert (await client.get("/xrpc/_health")).status_code == 404


async def test_two_apps_do_not_share_their_counts(world: World, tmp_path: Path) -> None:
    await world.call(ALICE, REVOKE_VERIFICATIONS, {"uris": []})
    (tmp_path / "other").mkdir()
    async with make_world(tmp_path / "other") as other, other.serving():
        assert (await scraped(other))["rescind_requests_total"] == {}


def test_a_value_at_a_bound_is_within_it() -> None:
    found = Distribution((1, 2))
    for value in (0.5, 1, 1.5, 2, 2.5):
        found.add(value)
    assert (found.counts, found.total) == ([2, 2, 1], 7.5)


async def test_long_counts_are_read_aside(world: World, tmp_path: Path) -> None:
    """A reader of its own sees what is committed, and is closed with its context."""
    async with await Database.open(tmp_path / "rescind.db") as db, db.aside() as reader:
        assert await reader.one("select count(*) as n from repos") is not None
