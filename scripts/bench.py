"""How fast Rescind is, on this machine."""

import argparse
import asyncio
import json
import sys

from scripts.bench_verify import BenchError, verify

INTERRUPTED = 130  # the exit status that shells give to Ctrl-C


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    one = benches.add_parser(
        "verify", help="commits through proof, projection and SQLite; a repo of 100 MB"
    )
    one.add_argument(
        "--rounds", type=_count, default=3, help="runs of each contestant (3); a round takes 40 s"
    )
    one.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    try:
        figures = asyncio.run(verify(arguments.rounds))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    if arguments.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
