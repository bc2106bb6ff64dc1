"""What the methods stand on, in one value."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from indexer.config.settings import Settings
from indexer.identity.resolver import IdentityResolver
from indexer.records import Scope
from indexer.store.db import Database
from xrpc.auth.callers import Caller
from xrpc.publishing.pds import PdsClient
from xrpc.publishing.publisher import Publisher
from xrpc.publishing.sessions import Sessions
from xrpc.publishing.tids import TidClock


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
