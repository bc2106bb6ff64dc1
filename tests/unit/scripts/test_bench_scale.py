"""What `scripts/bench scale` compares can be compared: full answers, from both indexes."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from indexer.store.db import Database
from indexer.store.migrations import SCHEMA_VERSION
from scripts.benchmarks import scale, scale_calls, scale_stage
from scripts.benchmarks.base import BenchError
from scripts.benchmarks.scale import SMALL, Race
from scripts.benchmarks.scale_stage import Size
from scripts.benchmarks.xrpc_server import serving

LARGER = Size(invites=5_000, verifications=6_400, subjects=150)


def _nothing() -> None:
    pass


async def test_both_are_asked_as_often_and_every_ratio_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    races = await scale.measure(tmp_path, (SMALL, LARGER), 2, lists=4, revocations=6)
    kinds = {race.kind.name for race in races}
    assert len(kinds) == len(races) == 2 + len(scale_calls.FILTERS) + 2
    revoked = {kind.name for kind in scale_calls.revocations()}
    for race in races:
        wanted = 6 if race.kind.name in revoked else 8
        assert [len(took) for took in race.took] == [wanted, wanted]
    figures = scale.report(races)
    assert figures["worst_ratio"] == max(figures["worst_ratio_p50"], figures["worst_ratio_p99"])
    told = capsys.readouterr().out
    assert all(kind in told for kind in kinds)
    assert not list(tmp_path.glob("run-*"))
    for size in (SMALL, LARGER):
        file = scale_stage.make(tmp_path, size, lambda: pytest.fail("made twice"))
        with closing(sqlite3.connect(file)) as original:
            found = original.execute("select count(*) from outbox where state <> 'confirmed'")
            assert found.fetchone() == (0,)


async def test_an_index_is_of_the_schema_and_breaks_none_of_its_rules(tmp_path: Path) -> None:
    file = scale_stage.make(tmp_path, LARGER, _nothing)
    await (await Database.open(tmp_path / "new.db")).close()
    schemas = []
    for path in (file, tmp_path / "new.db"):
        with closing(sqlite3.connect(path)) as raw:
            rows = raw.execute("select type, name, sql from sqlite_schema where sql is not null")
            schemas.append(sorted(rows))
    assert schemas[0] == schemas[1]
    with closing(sqlite3.connect(file)) as raw:
        assert raw.execute("pragma user_version").fetchone() == (SCHEMA_VERSION,)
        assert raw.execute("pragma integrity_check").fetchone() == ("ok",)
        assert raw.execute("pragma foreign_key_check").fetchall() == []
        for table, number in (("invites", LARGER.invites), ("verifications", LARGER.verifications)):
            assert raw.execute(f"select count(*) from {table}").fetchone() == (number,)


async def test_an_answer_that_is_not_full_ends_the_bench(tmp_path: Path) -> None:
    kind = next(kind for kind in scale_calls.lists() if kind.name.startswith("list"))
    strict = replace(kind, is_good=lambda answer: len(answer["verifications"]) == 1)
    file = scale_stage.make(tmp_path, SMALL, _nothing)
    calls = kind.calls(SMALL, Random(1))
    race = Race(strict, ([next(calls)], [next(calls)]))
    async with serving("rescind", file) as server:
        with pytest.raises(BenchError, match="listVerifications"):
            await race.turn((server, server), 1, large_first=False)


def test_every_revocation_is_of_something_else() -> None:
    for kind in scale_calls.revocations():
        calls = [str(call.body) for call in kind.calls(SMALL, Random(1))]
        assert len(set(calls)) == len(calls) >= scale.REVOCATIONS


def test_no_owner_of_the_small_index_comes_again_soon() -> None:
    """Else one deletion would do for several revocations, there and not in the large one."""
    [kind] = (kind for kind in scale_calls.revocations() if kind.name == "invite.revoke")
    calls = islice(kind.calls(SMALL, Random(1)), scale.REVOCATIONS)
    owners = [call.caller for call in calls]
    for first in range(len(owners) - 200):
        assert len(set(owners[first : first + 200])) == 200
