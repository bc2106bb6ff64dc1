"""What was asked of the XRPC server since its start, counted where it happens."""

from collections import Counter
from typing import Literal

from indexer.stream.stats import Distribution

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Drop = Literal[
    "malformed",  # not HTTP
    "long_head",  # a request's line and headers were larger than they may be
    "slow_head",  # its next request did not come in time
    "unread",  # its client does not take the answer
    "crowded",  # there were too many connections
]


class Counts:
    """Calls by method and status, their seconds by method, and the connections that were dropped.

    A method must be one of a closed set: each has its place here for good.
    """

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, int]] = Counter()
        self.seconds: dict[str, Distribution] = {}
        self.dropped: Counter[Drop] = Counter()

    def called(self, method: str, status: int, seconds: float) -> None:
        self.calls[method, status] += 1
        if method not in self.seconds:
            self.seconds[method] = Distribution(SECONDS)
        self.seconds[method].add(seconds)
