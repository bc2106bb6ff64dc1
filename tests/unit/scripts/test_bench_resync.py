"""What `scripts/bench resync` imports are whole repos, and its ratios are of both ways."""

from pathlib import Path
from random import Random

import pytest

from indexer.proof.repo import read_repo
from scripts.benchmarks.resync import BYTES, Measured, report
from scripts.benchmarks.resync_stage import FULL, make_car, sizes
from tests.support.account_keys import Key
from tests.support.frames import ALICE, COLLECTIONS, SCOPE, VERIFICATION


def test_a_repo_that_is_imported_is_whole_and_signed(tmp_path: Path) -> None:
    key, file = Key.k256(), tmp_path / "repo.car"
    file.write_bytes(make_car(key, ALICE, 300, 5, Random(1)))
    contents = read_repo(file, ALICE, key.did_key, COLLECTIONS)
    assert len(contents.records) == 5
    for _, record in contents.records.values():
        SCOPE.read(VERIFICATION, record)
    assert file.stat().st_size / 300 > 250  # bytes a record, as on the network


def test_sizes_are_log_uniform() -> None:
    found = sizes(FULL, Random(1))
    assert len(found) == FULL.many
    assert FULL.least <= min(found) < 60
    assert 4_000 < max(found) <= FULL.most
    below = sum(size < 500 for size in found)  # the middle, by its logarithm
    assert 0.4 < below / len(found) < 0.6


def test_the_figures_are_what_the_range_takes_as_a_part_of_the_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = Measured()
    for what in ("large", "many", "few"):
        for way, scale in (("whole", 1_000), ("range", 1)):
            run = {"bytes": 4_000 * scale, "seconds": 0.01 * scale, "cpu": 0.01, "requests": 3,
                   "memory": 100 * scale, "ways": {"proof": 1}}  # fmt: skip
            # One run out of three that was disturbed changes nothing.
            disturbed = {**run, "seconds": 99.0, "bytes": 1, "memory": 10**9}
            measured.runs[what, way] = [run, disturbed, run]
    figures = report(measured, FULL)
    names = ("bytes_ratio", "time_ratio", "memory_ratio", "first_start_bytes_ratio",
             "first_start_time_ratio", "few_time_ratio")  # fmt: skip
    assert {name: figures[name] for name in names} == dict.fromkeys(names, 0.001)
    assert figures["requests"] == 3
    assert f"(aim: {BYTES:.6f} or less)" in capsys.readouterr().out
