"""How fast Rescind is, on this machine."""

import argparse
import asyncio
import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from scripts.benchmarks.base import BenchError
from scripts.benchmarks.catch_up import catch_up
from scripts.benchmarks.firehose import firehose
from scripts.benchmarks.fresh import fresh
from scripts.benchmarks.hostile import hostile
from scripts.benchmarks.memory import memory
from scripts.benchmarks.relay import MILLION
from scripts.benchmarks.resync import resync
from scripts.benchmarks.scale import scale
from scripts.benchmarks.verify import verify
from scripts.benchmarks.xrpc import xrpc

INTERRUPTED = 130  # the exit status that shells give to Ctrl-C


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def _share(text: str) -> int:
    """Return frames of a million."""
    try:
        share = round(float(text) / 100 * MILLION)
    except (ValueError, OverflowError):
        share = 0
    if not 0 < share <= MILLION:
        raise argparse.ArgumentTypeError("must be a part of 100")
    return share


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    one = benches.add_parser(
        "verify", help="commits through proof, projection and SQLite; a repo of 100 MB"
    )
    one.add_argument(
        "--rounds", type=_count, default=3, help="runs of each contestant (3); a round takes 40 s"
    )
    stream = benches.add_parser("firehose", help="the stream, next to what else reads it")
    stream.add_argument(
        "--rounds", type=_count, help="turns of each reader (3, quick 2); a round takes 90 s"
    )
    stream.add_argument(
        "--ours", type=_share, default="0.1", metavar="PERCENT", help="frames that concern us (0.1)"
    )
    stream.add_argument("--quick", action="store_true", help="fewer frames: less than a minute")
    stream.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as an SVG")
    calls = benches.add_parser("xrpc", help="calls of methods, next to a handler that does nothing")
    calls.add_argument(
        "--rounds", type=_count, default=3, help="runs of each kind of call (3); a round takes 45 s"
    )
    held = benches.add_parser("memory", help="what is resident over a long stretch of the stream")
    held.add_argument(
        "--frames", type=_count, default=5 * MILLION, help="frames that are read (5 million)"
    )
    held.add_argument(
        "--ours", type=_share, default="0.1", metavar="PERCENT", help="frames that concern us (0.1)"
    )
    soon = benches.add_parser("fresh", help="how soon the index shows what comes, and its price")
    soon.add_argument(
        "--rounds", type=_count, default=3, help="turns of each (3); a round takes 70 s"
    )
    behind = benches.add_parser("catch-up", help="a daemon that was away finds its way back")
    behind.add_argument(
        "--frames", type=_count, default=MILLION, help="frames that it has missed (a million)"
    )
    sizes = benches.add_parser("scale", help="calls of methods on a large index and a small one")
    sizes.add_argument(
        "--rounds",
        type=_count,
        default=30,
        help="turns of each kind of call (30); a round takes 6 s",
    )
    ranges = benches.add_parser(
        "resync", help="what is ours of repos of a real PDS, by range and by their CARs"
    )
    ranges.add_argument(
        "--rounds", type=_count, default=5, help="turns of each way (5); a round takes 40 s"
    )
    ranges.add_argument("--quick", action="store_true", help="fewer repos")
    strange = benches.add_parser("hostile", help="how long strangers' frames hold up the others")
    for each in (one, stream, calls, held, soon, behind, sizes, ranges, strange):
        each.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser


def _measuring(arguments: argparse.Namespace) -> Coroutine[Any, Any, dict[str, float]]:
    match arguments.bench:
        case "verify":
            return verify(arguments.rounds)
        case "xrpc":
            return xrpc(arguments.rounds)
        case "memory":
            return memory(arguments.frames, arguments.ours)
        case "fresh":
            return fresh(arguments.rounds)
        case "catch-up":
            return catch_up(arguments.frames, MILLION // 1_000)
        case "scale":
            return scale(arguments.rounds)
        case "resync":
            return resync(arguments.rounds, quick=arguments.quick)
        case "hostile":
            return hostile()
        case _:
            return firehose(
                arguments.rounds, arguments.ours, quick=arguments.quick, plot=arguments.plot
            )


def main() -> int:
    arguments = _parser().parse_args()
    measuring = _measuring(arguments)
    try:
        figures = asyncio.run(measuring)
    except (BenchError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    if arguments.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
