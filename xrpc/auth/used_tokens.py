"""The tokens that were used, so that none is used twice."""

import hashlib
import heapq
import math
from collections import Counter

from xrpc.auth.service_jwt import Refused

MAX_USED = 100_000  # tokens that are remembered, of everybody; some 35 MB
MAX_USED_BY_ISSUER = 1_000  # of one issuer
# Token-seconds of one issuer: 50 tokens of an hour. A PDS that proxies gives them a minute; with
# as many long ones as short ones, a hundred issuers would fill all the room for that hour.
MAX_HELD_BY_ISSUER = 180_000


class UsedTokens:
    """The tokens that were taken and still live; bounded, and none is forgotten early."""

    def __init__(
        self,
        size: int = MAX_USED,
        size_by_issuer: int = MAX_USED_BY_ISSUER,
        held_by_issuer: int = MAX_HELD_BY_ISSUER,
    ) -> None:
        self._size = size
        self._size_by_issuer = size_by_issuer
        self._held_by_issuer = held_by_issuer
        self._ends: list[tuple[int, bytes, str, int]] = []  # a heap: exp, token, issuer, seconds
        self._tokens: set[bytes] = set()
        self._by_issuer: Counter[str] = Counter()
        self._held: Counter[str] = Counter()  # seconds, by issuer

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, issuer: str, jti: str, exp: int, now: float) -> None:
        """Remember until `exp` that this token was used, or refuse it. Unix seconds."""
        if exp <= now:  # while its issuer was resolved; it could not be remembered any more
            raise Refused("expired")
        while self._ends and self._ends[0][0] <= now:
            _, ended, its_issuer, its_seconds = heapq.heappop(self._ends)
            self._tokens.discard(ended)
            self._by_issuer[its_issuer] -= 1
            self._held[its_issuer] -= its_seconds
            if not self._by_issuer[its_issuer]:
                del self._by_issuer[its_issuer], self._held[its_issuer]
        # A digest, so that each takes the same room; a DID has no blank.
        token = hashlib.sha256(f"{issuer} {jti}".encode()).digest()
        if token in self._tokens:
            raise Refused("replayed")
        seconds = math.ceil(exp - now)
        if (
            len(self._tokens) >= self._size
            or self._by_issuer[issuer] >= self._size_by_issuer
            or self._held[issuer] + seconds > self._held_by_issuer
        ):
            raise Refused("crowded")
        self._tokens.add(token)
        self._by_issuer[issuer] += 1
        self._held[issuer] += seconds
        heapq.heappush(self._ends, (exp, token, issuer, seconds))
