"""What is known of each host that repos are asked of: what it can't do, how much it may be asked.

In memory alone: a daemon that starts anew finds it out again with a few requests.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from indexer.net.rate_limits import Bucket

REMEMBERED = 3_600.0  # seconds that a host is not asked for what it could not do
AT_ONCE = 4  # requests to one host, and repos of one that are looked at
WHOLE_AT_ONCE = 2  # of them whole
MAX_PEERS = 10_000  # the longest unused is forgotten first

Ability = Literal[
    "head",  # getRecord of a path that is not there brings the signed commit
    "ways",  # and the nodes on the way to it
    "nodes",  # getBlocks brings nodes of the tree
    "records",  # and records
    "whole",  # getRepo brings the CAR
]


@dataclass(slots=True)
class Tally:
    """What it took to learn of one repo."""

    bytes: int = 0  # of bodies
    requests: int = 0


@dataclass(slots=True)
class Peer:
    """One host. Its whole repos have a limit of their own; all other requests share one."""

    clock: Callable[[], float]
    small: Bucket
    whole: Bucket
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    whole_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WHOLE_AT_ONCE))
    _noted: dict[Ability, float] = field(default_factory=dict)  # Unix seconds, of what it lacks

    def can(self, *abilities: Ability) -> bool:
        """Whether it may be asked for this: it is not known to fail."""
        now = self.clock()
        return not any(0 <= now - self._noted.get(a, -REMEMBERED) < REMEMBERED for a in abilities)

    def lacks(self, abilities: Iterable[Ability]) -> None:
        """Note what it could not do, while it could serve the repo in another way."""
        self._noted |= dict.fromkeys(abilities, self.clock())

    def rests_until(self) -> float | None:
        """Return when it may be asked again, if it may not be asked for anything now."""
        if self.small.is_open() or self.whole.is_open():
            return None
        return min(self.small.until, self.whole.until)


class Peers:
    """The hosts, by URL. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._peers: OrderedDict[str, Peer] = OrderedDict()

    def get(self, host: str) -> Peer:
        peer = self._peers.get(host)
        if peer is None:
            clock = self._clock
            peer = self._peers[host] = Peer(clock, Bucket(clock), Bucket(clock))
        self._peers.move_to_end(host)
        while len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        return peer
