"""Rescind's pipeline on a long stretch of the stream, and the memory that it has on the way.

python -m scripts.benchmarks.stream_memory URL FRAMES OURS DIRECTORY CACHE EVERY

As `stream_index`, but each time that it has applied EVERY frames more, it says on stderr
what is resident, and at the end `resident` has all of that, in bytes.
"""

import json
import sys

from scripts.benchmarks.base import MB
from scripts.benchmarks.relay import BASE
from scripts.benchmarks.stream_index import read
from scripts.benchmarks.usage import resident


class Looks:
    """Looks at what is resident, at the first batch behind each multiple of `every` frames."""

    def __init__(self, every: int) -> None:
        self.found: list[int] = []
        self._every = every

    def __call__(self, seq: int) -> None:
        while seq - BASE >= self._every * (len(self.found) + 1):
            self.found.append(resident())
            frames = self._every * len(self.found)
            print(f"{frames:>12,} frames{self.found[-1] / MB:>9.1f} MB", file=sys.stderr)


def main() -> None:
    *arguments, every = sys.argv[1:]
    looks = Looks(int(every))
    took = read(arguments, looks)
    print(json.dumps({**took, "resident": looks.found}))


if __name__ == "__main__":
    main()
