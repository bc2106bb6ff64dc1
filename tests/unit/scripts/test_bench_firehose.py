"""`scripts/bench firehose` is fair: the stream is right, and whoever reads it reads all of it."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import libipld
import pytest
from websockets.asyncio.client import ClientConnection, connect

from indexer.proof.verify import verify_commit
from indexer.stream.decode import decode
from indexer.stream.events import Account, Commit, Identity, VerifiedCommit
from indexer.stream.firehose import MAX_FRAME, subscribe_url
from scripts.benchmarks import stream_corpus
from scripts.benchmarks.base import SYNC, BenchError
from scripts.benchmarks.firehose import Amount, measure, plan_of, report
from scripts.benchmarks.plot import Bar, Group, draw
from scripts.benchmarks.relay import BASE, FRAGMENT, MILLION, Plan
from scripts.benchmarks.stream_corpus import POOLS, Pool, Size, StreamCorpus
from scripts.benchmarks.stream_race import PYTHON, Reader, relaying
from scripts.benchmarks.tree import GrowingTree
from tests.support.frames import COLLECTIONS, SCOPE, cid_of, tree

SMALL = Size(frames=300, repos=3, least=20, most=200)
TENTH = MILLION // 10


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> StreamCorpus:
    return stream_corpus.make(tmp_path_factory.mktemp("bench"), SMALL)


@pytest.fixture
async def relay(corpus: StreamCorpus) -> AsyncIterator[str]:
    async with relaying(corpus.directory) as running:
        yield running.url


def reading(relay: str, plan: Plan, cursor: int | None) -> connect:
    return connect(
        subscribe_url(relay + plan.path, cursor),
        max_size=MAX_FRAME,
        compression=None,
        close_timeout=0.1,  # what is not read holds up the goodbye
    )


async def received(socket: ClientConnection, count: int) -> list[dict[str, object]]:
    async with asyncio.timeout(5):
        frames = [await socket.recv(decode=False) for _ in range(count)]
    return [libipld.decode_dag_cbor_multi(frame)[1] for frame in frames]


def in_order(plan: Plan, start: int) -> list[tuple[Pool, int]]:
    return [
        (pool, number)
        for pool, place, count in plan.runs(start)
        for number in range(place, place + count)
    ]


# --- the corpus ---


@pytest.mark.parametrize("pool", POOLS)
def test_every_commit_is_proven_and_follows_the_one_before(
    corpus: StreamCorpus, pool: Pool
) -> None:
    keys = {repo.did: repo.key for repo in corpus.repos[pool]}
    state = {repo.did: (repo.rev, repo.data) for repo in corpus.repos[pool]}
    seen: Counter[str] = Counter()
    now = int(time.time() * 1000)
    for frame, count in zip(corpus.frames(pool), corpus.events(pool), strict=True):
        event = decode(frame, COLLECTIONS, state)
        if isinstance(event, Account | Identity):
            assert count == 1
            seen[type(event).__name__] += 1
            continue
        assert isinstance(event, Commit)
        commit = verify_commit(event, COLLECTIONS.__contains__, keys[event.repo], now)
        assert isinstance(commit, VerifiedCommit)
        assert (commit.since, commit.prev_data) == state[commit.did]
        state[commit.did] = commit.rev, commit.data
        assert len(commit.writes) == count
        assert (count > 0) == (pool == "ours")
        seen["several"] += len(event.ops) > 1
        seen.update(op.action for op in event.ops)
        for write in commit.writes:
            if write.action != "delete":
                SCOPE.read(write.collection, write.block or b"")
    assert seen.keys() >= {"create", "update", "delete", "several"}
    assert 0 < seen["Account"] + seen["Identity"] < SMALL.frames / 20


def test_a_tree_that_changes_is_the_tree_of_what_is_left() -> None:
    rng = Random(1)
    paths = [f"app.example.thing/{number:04}" for number in range(200)]
    records = {path: cid_of(path.encode()) for path in paths[:50]}
    grown = GrowingTree({path.encode(): cid for path, cid in records.items()})
    for _ in range(400):
        path, cid = rng.choice(paths), cid_of(rng.randbytes(4))
        key = path.encode()
        if path not in records:
            grown.insert(key, cid)
            records[path] = cid
        elif rng.random() < 0.5 or len(records) < 3:
            assert grown.replace(key, cid) == records[path]
            records[path] = cid
        else:
            assert grown.remove(key) == records.pop(path)
        assert grown.root() == cid_of(tree(records)[0])


# --- the relay ---


@pytest.mark.parametrize("ours", [1, 1_000, 300_000, 999_999, MILLION])
def test_from_any_cursor_the_same_stream_goes_on(ours: int) -> None:
    plan = Plan(ours, 3_000)
    whole = in_order(plan, 0)
    assert (
        Counter(pool for pool, _ in whole)["ours"] == plan.ours_in(3_000) == 3_000 * ours // MILLION
    )
    for pool in POOLS:  # each in its order, and none left out
        places = [place for name, place in whole if name == pool]
        assert places == list(range(len(places)))
    for start in (1, 7, 999, 1_000, 2_999, 3_000):
        assert in_order(plan, start) == whole[start:]


async def test_a_stream_is_played_again_under_new_seqs(corpus: StreamCorpus, relay: str) -> None:
    plan = Plan(TENTH, 2 * SMALL.frames)
    async with reading(relay, plan, BASE) as socket:
        bodies = await received(socket, plan.frames)
        assert [body.pop("seq") for body in bodies] == [BASE + n + 1 for n in range(plan.frames)]
        sent = {
            pool: [libipld.decode_dag_cbor_multi(frame)[1] for frame in corpus.frames(pool)]
            for pool in POOLS
        }
        expected = [sent[pool][place % SMALL.frames] for pool, place in in_order(plan, 0)]
        assert bodies == [{k: v for k, v in body.items() if k != "seq"} for body in expected]
        # Then it is silent, and still there.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await socket.recv()
        async with asyncio.timeout(5):
            await (await socket.ping())


async def test_a_cursor_is_gone_on_behind_also_after_a_break(relay: str) -> None:
    plan = Plan(TENTH, 100)
    for cursor, first in ((0, 1), (BASE, 1), (BASE + 10, 11), (BASE + 99, 100)):
        async with reading(relay, plan, cursor) as socket:
            (body,) = await received(socket, 1)
            assert body["seq"] == BASE + first


async def test_long_frames_come_in_parts(corpus: StreamCorpus, relay: str) -> None:
    longest = max(len(frame) for frame in corpus.frames("ours"))
    assert longest > FRAGMENT
    plan = Plan(MILLION, SMALL.frames)
    parts = 0
    async with reading(relay, plan, BASE) as socket, asyncio.timeout(5):
        for _ in range(plan.frames):
            parts += len([part async for part in socket.recv_streaming(decode=False)])
    assert parts > plan.frames


# --- the race ---


@pytest.mark.skipif(not SYNC.exists(), reason="npm packages are not installed")
async def test_every_reader_reads_all_and_its_rates_are_compared(
    corpus: StreamCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    amount = Amount(fast=1_000, sdk=250, sync=400, every=100)
    race = await measure(corpus, tmp_path, amount, rounds=1, ours=TENTH)
    assert [reader.frames for reader in race.readers()] == [1_000, 1_000, 250, 400, 100, 100]
    figures = report(race, TENTH)
    assert figures["ratio_sync_all"] == round(race.index_every.rate / race.sync_every.rate, 3)
    assert 10 < figures["peak_mb"] < 300
    assert figures.keys() >= {"ratio_receive", "ratio_sync", "ratio_sdk"}
    assert "10 % of the frames are of ours" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


async def test_what_is_missing_in_the_index_is_noticed(
    corpus: StreamCorpus, relay: str, tmp_path: Path
) -> None:
    plan = Plan(MILLION, 20)
    more = str(plan.frames + 1), str(corpus.directory), str(tmp_path)
    command = (
        *PYTHON,
        "scripts.benchmarks.stream_index",
        relay + plan.path,
        str(plan.frames),
        *more,
    )
    with pytest.raises(BenchError, match="status 1"):
        await Reader("index", plan.frames, BASE + plan.frames, command).run()


@pytest.mark.parametrize("wrong", [{"frames": 9}, {"last": 109}])
async def test_a_reader_that_missed_a_frame_is_out(wrong: dict[str, int]) -> None:
    took = {"seconds": 1, "cpu": 1, "peak": 1, "frames": 10, "last": 110}
    right = Reader(
        "right", 10, 110, (sys.executable, "-c", f"print({json.dumps(json.dumps(took))})")
    )
    await right.run()
    assert right.rate == 10
    said = json.dumps(json.dumps({**took, **wrong}))
    with pytest.raises(BenchError, match="was to read 10 frames"):
        await Reader("wrong", 10, 110, (sys.executable, "-c", f"print({said})")).run()


def test_ours_are_never_played_again(corpus: StreamCorpus) -> None:
    for ours, wanted, frames in (
        (TENTH, 95, 90),
        (TENTH, 5, 10),  # one at least: the last, of which all readers hear
        (TENTH, 10_000, 10 * SMALL.frames),
        (MILLION, 10_000, SMALL.frames),
        (300_000, 11, 10),
    ):
        plan = plan_of(corpus, ours, wanted)
        assert plan.frames == frames
        assert in_order(plan, 0)[-1][0] == "ours"
        assert 0 < plan.ours_in(frames) <= SMALL.frames


def test_the_plot_has_a_bar_for_each_reader() -> None:
    bars = [Bar("slow & old", 10, 8, 12, is_ours=False), Bar("Rescind", 100, 90, 120, is_ours=True)]
    picture = ElementTree.fromstring(draw([Group("Events", bars), Group("All", bars[:1])]))
    space = "{http://www.w3.org/2000/svg}"
    slow, fast, alone = (float(rect.get("width", "")) for rect in picture.iter(f"{space}rect"))
    assert fast == pytest.approx(10 * slow, rel=0.01)
    assert alone > slow
    words = [text.text for text in picture.iter(f"{space}text")]
    assert words == ["Events", "slow & old", "10", "Rescind", "100", "All", "slow & old", "10"]
