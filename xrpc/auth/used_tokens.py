"""The tokens of procedures that were used, so that none is used twice."""

import heapq
import math
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from xrpc.auth.refusals import Refused
from xrpc.auth.service_jwt import ServiceJwt

LEEWAY = 60  # seconds that the clock of a PDS and ours may be apart
MINUTE = 60  # seconds that a token lives which a PDS makes for a call that it proxies
HOUR = 3_600  # seconds; a PDS signs nothing for longer (com.atproto.server.getServiceAuth)

# For how long a token of a minute is remembered at most, if the clock of its PDS is ahead; and one
# second, because ends are not whole ones.
HELD = LEEWAY + MINUTE + LEEWAY + 1
MAX_USED = 120_000  # tokens that are remembered, of everybody; some 40 MB
MAX_LONG_BY_ISSUER = 50  # tokens of an hour, however few calls an account may make
# An issuer may have as much as one part of what is left free, but for a few tokens; and of the last
# quarter only those few. So thousands of accounts would have to join to keep one out.
PARTS = 8
FEW = 5


@dataclass(slots=True)
class UsedToken:
    """A procedure's token that is used up. `ends_at` is in Unix ms; until then it is remembered."""

    issuer: str
    key: bytes
    ends_at: int
    is_written: bool = False  # into the database, with what the call did


class _Held(NamedTuple):
    end: float  # Unix seconds; from then on its own `exp` refuses it
    key: bytes
    issuer: str
    seconds: int
    is_long: bool


@dataclass(slots=True)
class _Issuer:
    held: list[_Held] = field(default_factory=list)  # a heap
    seconds: int = 0  # of all these


class UsedTokens:
    """The tokens that were taken and could still be shown; bounded, and none is forgotten early.

    An account may use as many tokens of a minute as it may make `calls` within `HELD` seconds, and
    as many token-seconds of others as these come to; half of all room is for those of a minute.
    """

    def __init__(self, calls: int, size: int = MAX_USED) -> None:
        self._by_issuer = max(calls * HELD, MAX_LONG_BY_ISSUER * (HOUR + LEEWAY))  # token-seconds
        self._size = max(size, calls * PARTS * 2)  # an eighth of three quarters, and more
        self._ends: list[_Held] = []  # a heap
        self._keys: set[bytes] = set()
        self._issuers: dict[str, _Issuer] = {}
        self._long = 0

    @classmethod
    def at_rate(cls, limit: int, window: int) -> Self:
        """Return one for accounts with `limit` calls at once, and as many in `window` seconds."""
        return cls(limit + math.ceil(limit * HELD / window))

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, token: ServiceJwt, now: float) -> UsedToken:
        """Remember until its end that this token was used, or refuse it. Unix seconds."""
        end = token.exp + LEEWAY
        if end < now:  # while its issuer was resolved; it could not be remembered any more
            raise Refused("expired", "exp: the token ended while the DID of iss was resolved")
        self._forget(now)
        if token.key in self._keys:
            raise _replayed(token)
        # From its `iat`, if the clock of its PDS is ahead: not more than LEEWAY, which was checked.
        is_long = token.exp - max(now, token.iat or now) > MINUTE
        held = _Held(end, token.key, token.iss, math.ceil(end - now), is_long)
        self._check_room(held, now)
        self._keep(held)
        return UsedToken(token.iss, token.key, math.ceil(end * 1000))

    def restore(self, issuer: str, key: bytes, ends_at: int, now: float) -> None:
        """Remember what was used before a restart. `ends_at` is in Unix ms, `now` in seconds."""
        end = ends_at / 1000
        if key not in self._keys:
            seconds = math.ceil(end - now)
            self._keep(_Held(end, key, issuer, seconds, is_long=seconds > HELD))

    def _check_room(self, held: _Held, now: float) -> None:
        mine = self._issuers.get(held.issuer, _Issuer())
        if mine.seconds + held.seconds > self._by_issuer:
            raise Refused(
                "crowded", "too many of your tokens that live long are in use; use tokens of a "
                "minute", _until_free(mine, mine.seconds + held.seconds - self._by_issuer, now),
            )  # fmt: skip
        room = self._size // 2 if held.is_long else self._size
        free = room - (self._long if held.is_long else len(self._keys))
        if free <= 0 or (len(mine.held) >= FEW and len(mine.held) * PARTS >= free - room // 4):
            first = mine.held or self._ends
            raise Refused(
                "crowded", "too many tokens are in use; use tokens of a minute",
                _wait(first[0].end, now),
            )  # fmt: skip

    def _keep(self, held: _Held) -> None:
        self._keys.add(held.key)
        self._long += held.is_long
        issuer = self._issuers.setdefault(held.issuer, _Issuer())
        issuer.seconds += held.seconds
        heapq.heappush(issuer.held, held)
        heapq.heappush(self._ends, held)

    def _forget(self, now: float) -> None:
        """Forget the tokens that have ended."""
        while self._ends and self._ends[0].end < now:
            held = heapq.heappop(self._ends)
            self._keys.discard(held.key)
            self._long -= held.is_long
            issuer = self._issuers[held.issuer]
            heapq.heappop(issuer.held)  # the same one: both are in one order
            issuer.seconds -= held.seconds
            if not issuer.held:
                del self._issuers[held.issuer]


def _replayed(token: ServiceJwt) -> Refused:
    if token.jti is not None:
        return Refused("replayed", "jti: this token was used, and a procedure takes each once")
    return Refused(
        "replayed", "jti: the token has none, and one that says the same was used: without a jti "
        "two of one second are one token; wait a second, or let your PDS send a jti",
    )  # fmt: skip


def _until_free(issuer: _Issuer, seconds: int, now: float) -> int:
    """Return after how many seconds that many token-seconds of this issuer will be free."""
    ends = issuer.held.copy()
    end = now
    while seconds > 0 and ends:
        held = heapq.heappop(ends)
        seconds -= held.seconds
        end = held.end
    return _wait(end, now)


def _wait(end: float, now: float) -> int:
    """Return the whole seconds after which `end` is over."""
    return max(1, math.floor(end - now) + 1)
