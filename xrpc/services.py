"""What the methods stand on, in one value."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from indexer.config.settings import Settings
from indexer.identity.resolver import IdentityResolver
from indexer.journal.writer import Journal
from indexer.records import Scope
from indexer.store import used_tokens
from indexer.store.db import Database, Reader, Transaction
from xrpc.auth.callers import Caller
from xrpc.auth.refusals import used_before
from xrpc.publishing.pds import PdsClient
from xrpc.publishing.publisher import Publisher
from xrpc.publishing.sessions import Sessions
from xrpc.publishing.tids import TidClock

T = TypeVar("T")


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
    """All that a method gets, beside its call.

    It reads `db`, and writes by `transaction` or `write`, which know of its call: so no method can
    forget that a token is used up by what it does.
    """

    settings: Settings
    database: Database
    scope: Scope
    resolver: IdentityResolver
    pds: PdsClient
    sessions: Sessions
    publisher: Publisher
    clock: Callable[[], float] = time.time  # Unix seconds
    # Of what is acknowledged as revoked; off unless it is named.
    journal: Journal = field(default_factory=lambda: Journal(None, 1))
    tids: TidClock = field(default_factory=TidClock)
    # One grant after the other: each sees what those before it have granted.
    granting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def now(self) -> int:
        """Return Unix milliseconds."""
        return int(self.clock() * 1000)

    @property
    def db(self) -> Reader:
        return self.database

    @asynccontextmanager
    async def transaction(self, call: Call) -> AsyncIterator[Transaction]:
        """Write all or nothing of what a call does, and that its token is used up.

        As `Database.transaction`; raises AuthRequired if the token was used before.
        """
        async with self.database.transaction() as tx:
            await self._take_token(tx, call)
            yield tx
        _note_written(call)

    async def write(self, call: Call, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Do something small for a call, as `Database.write`; else as `transaction`."""

        async def take_and_work(tx: Transaction) -> T:
            await self._take_token(tx, call)
            return await work(tx)

        result = await self.database.write(take_and_work)
        _note_written(call)
        return result

    async def use_up(self, call: Call) -> None:
        """Write that a call's token is used up, before something is done elsewhere.

        Nothing happens if that is written, or the call came without a token.
        """
        if call.caller.token is not None and not call.caller.token.is_written:
            await self.write(call, _nothing)

    async def _take_token(self, tx: Transaction, call: Call) -> None:
        token = call.caller.token
        if token is None or token.is_written:
            return
        if not await used_tokens.take(tx, token.key, token.issuer, token.ends_at, self.now()):
            # Who remembers it in memory does not get so far: another process took it.
            raise used_before()


def _note_written(call: Call) -> None:
    if call.caller.token is not None:
        call.caller.token.is_written = True


async def _nothing(_: Transaction) -> None:
    """Do nothing but what comes with every write."""
