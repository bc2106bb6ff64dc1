"""What the methods stand on, in one value."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from indexer.config import Settings
from indexer.identity import IdentityResolver
from indexer.records import Scope
from indexer.store.db import Database
from xrpc.auth import Caller
from xrpc.pds import PdsClient
from xrpc.publisher import Publisher
from xrpc.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method, checked against its lexicon document."""

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

    def now(self) -> int:
        """Return Unix milliseconds."""
        return int(self.clock() * 1000)
