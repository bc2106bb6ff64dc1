"""What the methods stand on, in one value."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from indexer.config import Settings
from indexer.identity_resolver import IdentityResolver
from indexer.records import Scope
from indexer.store.db import Database
from xrpc.auth import Caller
from xrpc.pds import PdsClient
from xrpc.publisher import Publisher
from xrpc.sessions import Sessions
from xrpc.tids import TidClock


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method, checked against its lexicon document.

    `input` is a procedure's body, or a query's parameters.
    """

    caller: Caller
    input: dict[str, Any]
    arrived: float  # the event loop's time in seconds, before its caller was proven


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    db: Database
    scope: Scope
    resolver: IdentityResolver
    pds: PdsClient
    sessions: Sessions
    publisher: Publisher
    clock: Callable[[], float] = time.time  # Unix seconds
    tids: TidClock = field(default_factory=TidClock)
    # One grant after the other: each sees what those before it have granted.
    granting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def now(self) -> int:
        """Return Unix milliseconds."""
        return int(self.clock() * 1000)
