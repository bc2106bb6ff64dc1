"""How much one caller may ask: token buckets, and a share of the calls under way.

A caller is the account that is proven to be calling. Until one is proven there is only an
address, and others may share it: a PDS proxies for all its accounts. So an address pays for what
proves nobody, and when it has nothing left, accounts that proved themselves lately are still let
try: what strangers do does not keep the owner of a space from revoking.

Times are Unix seconds and come in as arguments.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from indexer.config import Settings
from xrpc.errors import AuthRequiredError, NotEnoughResourcesError, RateLimitExceededError

MAX_BUCKETS = 50_000  # of accounts, and as many of addresses; some 10 MB each
ROUNDING = 1e-6  # of a call: who waits as long as he was told, is let in
PARTS = 4  # one caller may have one part of all calls under way
# All together whom nobody knows have half of them: addresses are cheap, and a host of their choice
# may let each wait for seconds.
STRANGERS = "strangers"  # counted as if they were one; neither a DID nor an address

# What an answer says of its caller's bucket; pages of other origins may read it.
HEADERS = (
    "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "ratelimit-policy", "retry-after",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rate:
    """`limit` calls at once, and from then on `limit` calls in each `window` of seconds."""

    limit: int
    window: int


class Bucket(NamedTuple):
    """What a caller has left: `tokens` calls, as of a moment."""

    rate: Rate
    tokens: float
    at: float

    def later(self, now: float) -> "Bucket":
        """Return the bucket as it is `now`; a clock that was set back takes nothing away."""
        gained = max(0.0, now - self.at) * self.rate.limit / self.rate.window
        return Bucket(self.rate, min(self.rate.limit, self.tokens + gained), now)

    @property
    def is_empty(self) -> bool:
        return self.tokens < 1 - ROUNDING

    def headers(self) -> dict[str, str]:
        """Return what a client is told: in Unix seconds, when the bucket is full again."""
        missing = self.rate.limit - self.tokens
        full_at = self.at + missing * self.rate.window / self.rate.limit
        return {
            "ratelimit-limit": str(self.rate.limit),
            "ratelimit-remaining": str(int(self.tokens + ROUNDING)),
            "ratelimit-reset": str(math.ceil(full_at - ROUNDING)),
            "ratelimit-policy": f"{self.rate.limit};w={self.rate.window}",
        }

    def refusal(self) -> RateLimitExceededError:
        """Return what the caller of an empty bucket is told."""
        missing = 1 - ROUNDING / 2 - self.tokens
        wait = max(1, math.ceil(missing * self.rate.window / self.rate.limit))
        return RateLimitExceededError(
            f"too many calls; try again in {wait} s", self.headers() | {"retry-after": str(wait)}
        )


class Buckets:
    """A bucket each for the callers that were seen last; those unused for longest are forgotten."""

    def __init__(self, rate: Rate, size: int = MAX_BUCKETS) -> None:
        self._rate = rate
        self._size = size
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def __contains__(self, caller: str) -> bool:
        """Whether the caller took from its bucket lately."""
        return caller in self._buckets

    def look(self, caller: str, now: float) -> Bucket:
        known = self._buckets.get(caller)
        return known.later(now) if known else Bucket(self._rate, self._rate.limit, now)

    def take(self, caller: str, now: float) -> Bucket:
        """Take a call out of the bucket, or raise RateLimitExceeded. Return what is left."""
        bucket = self.look(caller, now)
        if bucket.is_empty:
            raise bucket.refusal()
        left = Bucket(bucket.rate, max(0.0, bucket.tokens - 1), now)
        self._buckets[caller] = left
        self._buckets.move_to_end(caller)
        if len(self._buckets) > self._size:
            self._buckets.popitem(last=False)
        return left


class Limits:
    """The limits of all callers. A context that is entered counts as under way until it is left."""

    def __init__(self, settings: Settings) -> None:
        window = settings.rate_window
        self._accounts = Buckets(Rate(settings.rate_limit, window))
        self._addresses = Buckets(Rate(settings.rate_limit_address, window))
        self._share = max(1, settings.max_requests // PARTS)
        self._of_strangers = max(1, settings.max_requests // 2)
        self._under_way: dict[str, int] = {}

    @contextmanager
    def proving(self, address: str, now: float) -> Iterator[Callable[[str], None]]:
        """A token is looked at inside. The value is to be asked before that gets costly.

        It takes the DID that the token claims, and raises RateLimitExceeded if this address may
        not try, NotEnoughResources if no stranger may. An AuthRequiredError that leaves the context
        is charged to the address.
        """
        with self._turn(address) as crowd, ExitStack() as turns:

            def admit(did: str) -> None:
                if did in self._accounts:
                    return  # its key is known here, most likely, so that this costs little
                bucket = self._addresses.look(address, now)
                if bucket.is_empty or crowd > self._share:
                    raise bucket.refusal()
                turns.enter_context(self._stranger())

            try:
                yield admit
            except AuthRequiredError:
                self._addresses.take(address, now)
                raise

    @contextmanager
    def calling(self, did: str, now: float) -> Iterator[Bucket]:
        """A call of a proven account runs inside."""
        with self._turn(did) as crowd:
            yield self._charge(self._accounts, did, now, crowd)

    @contextmanager
    def calling_openly(self, address: str, now: float) -> Iterator[Bucket]:
        """A call without a token runs inside."""
        with self._turn(address) as crowd:
            bucket = self._charge(self._addresses, address, now, crowd)
            with self._stranger():
                yield bucket

    def _charge(self, buckets: Buckets, caller: str, now: float, crowd: int) -> Bucket:
        if crowd > self._share:
            raise buckets.look(caller, now).refusal()
        return buckets.take(caller, now)

    @contextmanager
    def _stranger(self) -> Iterator[None]:
        with self._turn(STRANGERS) as crowd:
            if crowd > self._of_strangers:
                raise NotEnoughResourcesError(
                    "too many calls of strangers are under way; try again"
                )
            yield

    def _turn(self, caller: str) -> "_Turn":
        return _Turn(self._under_way, caller)


class _Turn:
    """A call is under way inside; the value is how many of this caller's are, with it.

    Written out, as each call enters some: a generator would take three times as long.
    """

    __slots__ = ("_caller", "_under_way")

    def __init__(self, under_way: dict[str, int], caller: str) -> None:
        self._under_way = under_way
        self._caller = caller

    def __enter__(self) -> int:
        crowd = self._under_way[self._caller] = self._under_way.get(self._caller, 0) + 1
        return crowd

    def __exit__(self, *_: object) -> None:
        left = self._under_way.pop(self._caller) - 1
        if left:
            self._under_way[self._caller] = left
