"""What the benches say of memory, freshness and catching up is what was: no frame comes early."""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import libipld
import pytest
from websockets.asyncio.client import connect

from indexer.lexicon.syntax import parse_datetime
from indexer.stream.firehose import subscribe_url
from scripts.benchmarks import catch_up, fresh, memory, stream_corpus, usage
from scripts.benchmarks.base import BenchError
from scripts.benchmarks.catch_up import Said
from scripts.benchmarks.fresh import Amount
from scripts.benchmarks.fresh_reader import Awaited, awaited, watch
from scripts.benchmarks.relay import BASE, MILLION, Plan
from scripts.benchmarks.stream_corpus import Size, StreamCorpus
from scripts.benchmarks.stream_race import Relay, relaying
from scripts.benchmarks.xrpc_stage import Size as Owners
from tests.support.frames import tid

SMALL = Size(frames=1_000, repos=3, least=20, most=200)
RATE = 200  # frames a second


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> StreamCorpus:
    return stream_corpus.make(tmp_path_factory.mktemp("bench"), SMALL)


@pytest.fixture
async def relay(corpus: StreamCorpus) -> AsyncIterator[Relay]:
    async with relaying(corpus.directory) as running:
        yield running


# --- a stream that is written while time goes by ---


@pytest.mark.parametrize("plan", [Plan(1_000, 20), Plan(0, 5, 200, 1_700_000_000_123)])
def test_a_path_says_the_whole_plan(plan: Plan) -> None:
    assert Plan.of(plan.path) == plan


def test_a_frame_is_written_when_it_is_due_and_not_before() -> None:
    plan = Plan(0, 50, rate=10, since=1_000_000)
    assert [plan.written_at(number) for number in (1, 2, 11)] == [1_000, 1_000.1, 1_001]
    for now, count in ((999, 0), (1_000, 1), (1_000.05, 1), (1_000.15, 2), (1_900, 50)):
        assert plan.written(now) == count
    assert Plan(0, 50).written(0) == 50


async def test_what_is_written_comes_at_once_and_the_rest_in_its_time(relay: Relay) -> None:
    behind = 300
    since = round((time.time() - behind / RATE) * 1000)
    plan = Plan(MILLION // 10, behind + RATE, RATE, since)
    await relay.play(plan)
    began = time.time()
    async with (
        connect(subscribe_url(relay.url, BASE), max_size=None, compression=None) as socket,
        asyncio.timeout(10),
    ):
        for number in range(1, plan.frames + 1):
            _, body = libipld.decode_dag_cbor_multi(await socket.recv(decode=False))
            now = time.time()
            assert body["seq"] == BASE + number
            assert plan.written_at(number) <= now + 0.001
            # As it says itself: frames that go out together have one time.
            said = parse_datetime(body["time"]) / 1000
            assert 0 <= plan.written_at(number) - said + 0.001 < 64 / RATE
            if number == behind:
                assert now - began < 0.9  # all that is still to come takes a second
    assert time.time() - began > 0.9


# --- memory ---


def test_what_a_process_takes_is_read_while_it_runs() -> None:
    assert 10_000_000 < usage.resident() <= usage.memory()
    spent = time.process_time()
    assert usage.cpu_of(os.getpid()) == pytest.approx(spent, abs=0.1)


async def test_memory_is_looked_at_all_along_a_stream_that_is_played_again(
    corpus: StreamCorpus, tmp_path: Path
) -> None:
    plan = Plan(MILLION // 2, 3 * SMALL.frames)
    measured = await memory.measure(corpus, tmp_path, plan)
    assert len(measured.resident) == memory.LOOKS
    assert all(20 < found <= measured.peak < 300 for found in measured.resident)
    assert measured.growth == measured.resident[-1] / measured.resident[0]
    assert list(tmp_path.iterdir()) == []


# --- freshness ---


def test_commits_of_ours_are_awaited_when_they_are_due(corpus: StreamCorpus) -> None:
    plan = Plan(MILLION // 4, 400, RATE, 1_700_000_000_000)
    every = list(awaited(corpus, plan, 1, plan.frames))
    events = [libipld.decode_dag_cbor_multi(frame) for frame in corpus.frames("ours")[:100]]
    commits = [body for header, body in events if header["t"] == "#commit"]
    assert [(a.did, a.rev) for a in every] == [(body["repo"], body["rev"]) for body in commits]
    first = every[0]
    assert first.due == plan.written_at(4)  # of each four the last is of ours
    late = list(awaited(corpus, plan, 201, 300))
    assert late == [a for a in every if plan.written_at(201) <= a.due <= plan.written_at(300)]
    with pytest.raises(AssertionError, match="played again"):
        next(awaited(corpus, replace(plan, frames=10_000), 1, 10_000))


def test_a_delay_lasts_until_a_reader_finds_the_row(tmp_path: Path) -> None:
    file = tmp_path / "index.db"
    old, new = tid(1, 0), tid(2, 0)
    with closing(sqlite3.connect(file, check_same_thread=False, isolation_level=None)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table repos (did text, rev text)")
        db.execute("insert into repos values ('did:plc:a', ?), ('did:plc:b', ?)", (old, new))
        db.execute("begin immediate")
        db.execute("update repos set rev = ?", (new,))
        now = time.time()
        commits = [Awaited("did:plc:b", new, now + 0.1), Awaited("did:plc:a", new, now + 0.2)]
        ending = threading.Timer(0.5, db.commit)
        ending.start()
        with closing(sqlite3.connect(file)) as reader:
            found = watch(reader, commits)
        ending.join()
    assert 0 <= found[0] < found[1]
    assert 0.29 < found[1] < 5


async def test_rows_and_revocations_are_timed_beside_the_stream_and_without(
    corpus: StreamCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "WARM_UP", 8)
    amount = Amount(ours=MILLION // 4, rate=RATE, revokes=10, seconds=2)
    owners = Owners(owners=4, few=1, many=5)
    measured = await fresh.measure(corpus, tmp_path, owners, amount, rounds=1)
    (quiet,), (busy,), (delays,) = measured.quiet, measured.busy, measured.fresh
    assert len(quiet) == len(busy) == 20
    assert 80 < len(delays) <= 100
    figures = fresh.report(measured)
    assert 0 < figures["fresh_p99_ms"] < 5_000
    assert figures["revoke_slowed_p99_ms"] == pytest.approx(
        figures["revoke_p99_ms"] - figures["revoke_quiet_p99_ms"], abs=0.2
    )
    assert list(tmp_path.iterdir()) == []


# --- catching up ---


async def test_a_daemon_that_was_away_says_everywhere_how_long_it_takes(
    corpus: StreamCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "LIVE", 20)
    monkeypatch.setattr(catch_up, "ASK_EVERY", 0.1)
    # All of ours, so that it takes some seconds; most of them are known by then.
    plan = Plan(MILLION, 20 + 15_000, rate=20)
    measured = await catch_up.measure(corpus, tmp_path, plan)
    assert measured.frames == 15_000
    assert {said.where for said in measured.said} == {"status", "log", "metrics"}
    assert measured.caught_up > 0
    assert 0 < measured.load * measured.frames < 2 * measured.caught_up
    figures = catch_up.report(measured)
    assert figures["events_per_s"] == round(15_000 / measured.caught_up)
    assert list(tmp_path.iterdir()) == []
    # As it would be if the log had told no time.
    mute = [replace(said, left=None) if said.where == "log" else said for said in measured.said] + [
        Said(0.1, "log", 100, None)
    ]
    with pytest.raises(BenchError, match="time left in: log"):
        catch_up.report(replace(measured, said=mute))
