"""How much one caller may ask: token buckets, and a share of the calls under way.

A caller is the account that is proven to be calling. Until one is proven there is only an
address, and others may share it: a PDS proxies for all its accounts. So an address pays for what
proves nobody, and when it has nothing left, accounts that proved themselves lately are still let
try: what strangers do does not keep the owner of a space from revoking.

Times are Unix seconds and come in as arguments.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, Self

from indexer.config.settings import Settings
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
    """The limits of all callers."""

    def __init__(self, settings: Settings) -> None:
        window = settings.rate_window
        self.accounts = Buckets(Rate(settings.rate_limit, window))
        self.addresses = Buckets(Rate(settings.rate_limit_address, window))
        self.share = max(1, settings.max_requests // PARTS)
        self.of_strangers = max(1, settings.max_requests // 2)
        self._under_way: dict[str, int] = {}

    def turn(self, address: str, now: float) -> "Turn":
        """Return the turn of a call from this address, to be entered while it is under way."""
        return Turn(self, address, now)

    def enter(self, caller: str) -> int:
        """Return how many calls of this caller are under way, with one more."""
        crowd = self._under_way[caller] = self._under_way.get(caller, 0) + 1
        return crowd

    def leave(self, caller: str) -> None:
        left = self._under_way.pop(caller) - 1
        if left:
            self._under_way[caller] = left


class Turn:
    """A call's way through the limits: its address's at first, and whose it is from then on.

    What comes to nothing before that, for want of a proof, is charged to the address.
    """

    __slots__ = ("_address", "_crowd", "_entered", "_is_charged", "_limits", "_now", "bucket")

    def __init__(self, limits: Limits, address: str, now: float) -> None:
        self._limits = limits
        self._address = address
        self._now = now
        self._entered: list[str] = []  # as whom the call counts
        self._is_charged = False
        self._crowd = 0
        self.bucket: Bucket  # the account's, from `call` on

    def __enter__(self) -> Self:
        self._crowd = self._enter(self._address)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._leave()
        if not self._is_charged and isinstance(error, AuthRequiredError):
            self._limits.addresses.take(self._address, self._now)

    def admit(self, did: str) -> None:
        """Ask, before a token gets costly, whether it may be looked at; `did` is what it claims.

        Raises RateLimitExceeded if this address may not try, NotEnoughResources if no stranger may.
        """
        if did in self._limits.accounts:
            return  # its key is known here, most likely, so that this costs little
        bucket = self._limits.addresses.look(self._address, self._now)
        if bucket.is_empty or self._crowd > self._limits.share:
            raise bucket.refusal()
        self._enter_stranger()

    def call(self, did: str) -> Bucket:
        """Go on as the call of a proven account; RateLimitExceeded if it may not now.

        From then on the account pays, not its address: also for a token that was used before.
        """
        self._leave()
        self.bucket = self._charge(self._limits.accounts, did, self._enter(did))
        return self.bucket

    def call_openly(self) -> Bucket:
        """Go on without a token; raises as `admit` does."""
        bucket = self._charge(self._limits.addresses, self._address, self._crowd)
        self._enter_stranger()
        return bucket

    def _charge(self, buckets: Buckets, caller: str, crowd: int) -> Bucket:
        self._is_charged = True
        if crowd > self._limits.share:
            raise buckets.look(caller, self._now).refusal()
        return buckets.take(caller, self._now)

    def _enter_stranger(self) -> None:
        if self._enter(STRANGERS) > self._limits.of_strangers:
            raise NotEnoughResourcesError("too many calls of strangers are under way")

    def _enter(self, caller: str) -> int:
        self._entered.append(caller)
        return self._limits.enter(caller)

    def _leave(self) -> None:
        for caller in self._entered:
            self._limits.leave(caller)
        self._entered.clear()
