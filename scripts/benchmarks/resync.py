"""`scripts/bench resync`: what it takes to learn what is ours of repos, by range and by their CARs.

The same build does both, in turn, each time into a new index, against one real PDS: a large repo
with a few records of ours; many repos as at a first start; and small ones that are all ours. Bytes
are those of the bodies of answers. Memory is the peak of the process above what it had before.
"""

import asyncio
import json
import time
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from scripts.benchmarks.base import BenchError
from scripts.benchmarks.resync_stage import FULL, Size, Stage, fill
from scripts.benchmarks.stream_race import PYTHON, environment
from tests.localnet import LocalNetwork

WAYS = ("whole", "range")

# What is aimed at, as a part of what the whole takes, at most.
BYTES, TIME, MEMORY, REQUESTS = 1 / 1_000, 1 / 15, 1 / 2, 5
FIRST_BYTES, FIRST_TIME = 1 / 50, 1 / 4
FEW_TIME = 1.2


@dataclass(slots=True)
class Measured:
    """What the workers said, by what was asked of them and by way."""

    runs: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)

    def typical(self, what: str, way: str, key: str) -> float:
        return float(median(run[key] for run in self.runs[what, way]))

    def ratio(self, what: str, key: str) -> float:
        """Return what the range takes, as a part of what the whole takes."""
        whole = self.typical(what, "whole", key)
        return self.typical(what, "range", key) / whole if whole else float("inf")


async def resync(rounds: int, *, quick: bool) -> dict[str, float]:
    """Measure, print, and return the figures by name; `quick`: with fewer repos."""
    size = replace(FULL, many=FULL.many // 6, few=FULL.few // 2) if quick else FULL
    with TemporaryDirectory() as directory:
        started = time.monotonic()
        async with await LocalNetwork.start(Path(directory) / "network") as network:
            stage = await fill(network, size)
            print(f"{len(stage.many)} repos, a large and small ones, imported in "
                  f"{time.monotonic() - started:.0f} s; {rounds} rounds")  # fmt: skip
            return report(await measure(stage, Path(directory), rounds), size)


async def measure(stage: Stage, directory: Path, rounds: int) -> Measured:
    """Give both ways their turn in each round, of each kind. Raises `BenchError`."""
    measured = Measured()
    asked = {"large": [stage.large], "many": stage.many, "few": stage.few[1:]}
    for number in range(rounds):
        for what, dids in asked.items():
            # The first is the other one in each round: what it leaves warm serves them alike.
            for way in WAYS if number % 2 else WAYS[::-1]:
                run = await _work(stage, directory, f"{what}-{way}-{number}", way, dids)
                measured.runs.setdefault((what, way), []).append(run)
            whole, by_range = (measured.runs[what, way][-1]["records"] for way in WAYS)
            if whole != by_range:
                raise BenchError(f"{what}: {whole} records by CAR, {by_range} by range")
    return measured


async def _work(
    stage: Stage, directory: Path, name: str, way: str, dids: Sequence[str]
) -> dict[str, Any]:
    listed = directory / f"{name}.txt"
    listed.write_text("\n".join(dids))
    network = stage.network
    process = await asyncio.create_subprocess_exec(
        *PYTHON, "scripts.benchmarks.resync_worker", way, str(directory / f"{name}.db"),
        network.plc_url, network.pds.url, stage.few[0], str(listed),
        env=environment(), stdout=PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise BenchError(f"the worker failed ({name})")
    found: dict[str, Any] = json.loads(out)
    return found


def report(measured: Measured, size: Size) -> dict[str, float]:
    """Print what was measured next to what is aimed at; return the figures by name."""
    figures: dict[str, float] = {}
    titles = {
        "large": f"a repo of {size.large:,} records, {size.large_ours} ours",
        "many": f"{size.many} repos of {size.least} to {size.most:,}, {size.each_ours} ours each",
        "few": f"{size.few - 1} repos of {size.few_ours}, all ours",
    }
    for what, title in titles.items():
        print(f"\n{title}")
        for way in WAYS:
            one = {key: measured.typical(what, way, key)
                   for key in ("bytes", "requests", "seconds", "cpu", "memory")}  # fmt: skip
            print(
                f"  {way:<6}{one['bytes'] / 1000:>12,.1f} kB {one['requests']:>7,.0f} requests "
                f"{one['seconds'] * 1000:>9,.1f} ms {one['cpu'] * 1000:>8,.1f} ms CPU "
                f"{one['memory'] / 1_000_000:>6.1f} MB above idle; by "
                + ", ".join(f"{n} {k}" for n, k in measured.runs[what, way][-1]["ways"].items())
            )
    for name, what, key, aim in (
        ("bytes_ratio", "large", "bytes", BYTES),
        ("time_ratio", "large", "seconds", TIME),
        ("memory_ratio", "large", "memory", MEMORY),
        ("first_start_bytes_ratio", "many", "bytes", FIRST_BYTES),
        ("first_start_time_ratio", "many", "seconds", FIRST_TIME),
        ("few_time_ratio", "few", "seconds", FEW_TIME),
    ):
        figures[name] = round(measured.ratio(what, key), 6)
        print(f"{name:<24}{figures[name]:.6f} (aim: {aim:.6f} or less)")
    figures["requests"] = measured.typical("large", "range", "requests")
    print(f"{'requests':<24}{figures['requests']:.0f} (aim: {REQUESTS} or less)")
    return figures
