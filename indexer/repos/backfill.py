"""The repos to know: asked of the relay, page after page, and tracked, to be fetched whole.

Each page is stored with the place where the next one begins, so that a restart goes on from there.
Live events flow meanwhile: whichever names a repo first, it is fetched once.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from indexer import log
from indexer.lexicon.syntax import is_did
from indexer.net.guard import FetchError
from indexer.net.health import HostHealth
from indexer.net.requests import Answer, request_json, retry_after
from indexer.store import backfills, invite_tokens, repos, resyncs
from indexer.store.backfills import ALL_REPOS, Search
from indexer.store.db import Database, Transaction

BY_COLLECTION = "com.atproto.sync.listReposByCollection"
ALL = "com.atproto.sync.listRepos"
PAGE = 1_000  # repos; the most that both methods may be asked for
MAX_BYTES = 4_000_000  # of a page; a repo takes about 200
MAX_CURSOR = 2_000  # characters
MAX_PAGES = 200_000  # of one search: several times the network
MAX_EMPTY = 3  # pages in a row with nothing on them: then nothing comes any more
ASK_WITHIN = 30.0  # seconds for a page
POLL = 1.0  # seconds between looks whether there is anything to search for

# What a host answers that does not have the method. 400 and 401 are a PDS's: it would pass what
# it does not know on to another service, if it has one for that, for somebody who is logged in.
_UNSERVED = frozenset((400, 401, 404, 405, 501))
_UNSERVED_NAMES = frozenset(("MethodNotImplemented", "XRPCNotSupported"))

_log = log.get("backfill")


class BackfillError(Exception):
    """The relay gave no page to use; the text says why.

    `retry_after` is how long it asks to be left alone, in seconds, if it does.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


async def begin(tx: Transaction, relay: str, collections: Iterable[str]) -> None:
    """Note which searches are to be made at this relay, if they are not noted yet."""
    if await backfills.begin(tx, relay, collections):
        # What is known was fetched without regard to a collection that is new.
        await resyncs.refetch_all(tx)


@dataclass(frozen=True, slots=True)
class _Page:
    dids: list[str]
    invalid: int  # entries that name no DID
    next: str | None  # where the next page begins; None if this is the last


class Backfiller:
    """Makes the searches that are noted for one relay. One of these runs in a daemon.

    It begins when the stream is `joined`: what was found before would have to be searched again.
    """

    def __init__(
        self,
        db: Database,
        client: httpx.AsyncClient,
        *,
        relay_url: str,
        relay: str,
        joined: asyncio.Event | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._client = client
        self._url = relay_url.replace("ws", "http", 1)  # ws:// to http://, wss:// to https://
        self._relay = relay
        self._joined = joined
        self._clock = clock
        self._health = HostHealth(clock)
        # Of the search under way: the pages that were taken, by hashes, since a cursor can be
        # long, and the entries that were no DIDs.
        self._collection: str | None = None
        self._stuck: str | None = None  # the search that failed last: the others go first
        self._seen: set[int] = set()
        self._empty = 0  # pages in a row
        self._invalid = 0

    async def run(self) -> None:
        """Search for ever, whenever there is something to search for. Raises what is our fault."""
        if self._joined is not None:
            await self._joined.wait()
        while True:
            await self.work()
            await self.settle()
            await asyncio.sleep(POLL)

    async def settle(self) -> None:
        """Once all that was searched for is fetched or tried, decide whose the tokens are.

        What is the first on a page or is fetched first must not: strangers can see to that.
        """
        if not await backfills.has_come_to_an_end(self._db, self._relay):
            return
        async with self._db.transaction() as tx:
            if await backfills.has_come_to_an_end(tx, self._relay):
                await invite_tokens.decide_all(tx)
                await backfills.settle(tx, self._relay)
        _log.info("backfill.settled", relay=self._relay)

    async def work(self, tries: int | None = None) -> None:
        """Take pages until there are no more.

        Raises `BackfillError` once `tries` of them in a row came to nothing; by default never.
        """
        failures = 0
        while True:
            try:
                if not await self.step():
                    return
                failures = 0
                if self._stuck == self._collection:
                    self._stuck = None
            except BackfillError as error:
                self._stuck = self._collection
                failures += 1
                if failures == tries:
                    raise
                pause = self._health.delay(failures)
                if error.retry_after is not None:
                    pause = max(error.retry_after, pause)
                _log.warning(
                    "backfill.failed", relay=self._relay, error=str(error), attempts=failures,
                    retry_in_s=round(pause, 1),
                )  # fmt: skip
                await asyncio.sleep(pause)

    async def step(self) -> bool:
        """Take one page; return False if there is nothing to search for. Raises BackfillError."""
        searches = await backfills.load(self._db, self._relay)
        search = self._next([search for search in searches if not search.done])
        if search is None:
            return False
        if search.page_cursor is None or search.collection != self._collection:
            self._collection, self._invalid, self._empty = search.collection, 0, 0
            self._seen = {hash(search.page_cursor)}
        page = await self._ask(search)
        if page is None:
            await self._search_all()
            return True
        now = int(self._clock() * 1000)
        async with self._db.transaction() as tx:
            if not await backfills.advance(tx, self._relay, search, page.next, len(page.dids), now):
                return True
            await repos.track(tx, page.dids, now)
        self._invalid += page.invalid
        if page.next is not None:
            self._seen.add(hash(page.next))
            return True
        _log.info(
            "backfill.finished", relay=self._relay, collection=search.collection or "*",
            found=search.found + len(page.dids),
        )  # fmt: skip
        if self._invalid:
            _log.warning("backfill.skipped", relay=self._relay, invalid_dids=self._invalid)
        return True

    def _next(self, left: list[Search]) -> Search | None:
        """Return the search to go on with: that under way, or, if it fails, the one behind it."""
        if left and left[0].collection == ALL_REPOS:
            return left[0]  # it stands for all others
        going = [search for search in left if search.collection != self._stuck]
        under_way = [search for search in going if search.collection == self._collection]
        behind = [search for search in going if search.collection > (self._stuck or "")]
        return next(iter(under_way or behind or going or left), None)

    async def _ask(self, search: Search) -> _Page | None:
        """Return the next page of a search, or None if the relay can't search by collection."""
        nsid = ALL if search.collection == ALL_REPOS else BY_COLLECTION
        params = {"limit": str(PAGE)}
        if search.collection != ALL_REPOS:
            params["collection"] = search.collection
        if search.page_cursor is not None:
            params["cursor"] = search.page_cursor
        try:
            answer = await request_json(
                self._client, "GET", f"{self._url}/xrpc/{nsid}", params=params,
                deadline=ASK_WITHIN, max_bytes=MAX_BYTES,
            )  # fmt: skip
        except FetchError as error:
            raise BackfillError(f"{nsid}: {error}") from None
        if answer.status == 200:
            return self._page(nsid, answer.body, search.page_cursor)
        refusal = f"{nsid}: HTTP {answer.status}"
        if not _is_unserved(answer):
            raise BackfillError(refusal, retry_after(answer))
        if search.page_cursor is not None:
            # It knows its own page cursor no more, or the method: the beginning will tell.
            async with self._db.transaction() as tx:
                await backfills.rewind(tx, self._relay, search)
            raise BackfillError(f"{refusal} in the middle; the search begins again")
        if search.collection == ALL_REPOS:
            raise BackfillError(f"{refusal}; the relay can't be asked for repos")
        return None

    def _page(self, nsid: str, body: Any, asked: str | None) -> _Page:
        repos_ = body.get("repos") if isinstance(body, dict) else None
        if not isinstance(repos_, list):
            raise BackfillError(f"{nsid}: the answer is not what it should be")
        following = body.get("cursor") or None
        self._empty = 0 if repos_ else self._empty + 1
        if following == asked or self._empty >= MAX_EMPTY:
            # The last page of some hosts has a cursor as all others have. A single empty one may
            # be what is left of a page of accounts that are gone.
            following = None
        if following is not None:
            if not isinstance(following, str) or len(following) > MAX_CURSOR:
                raise BackfillError(f"{nsid}: the page cursor is not what it should be")
            if hash(following) in self._seen:
                raise BackfillError(f"{nsid}: the pages go round in a circle")
            if len(self._seen) >= MAX_PAGES:
                raise BackfillError(f"{nsid}: the pages have no end")
        dids: dict[str, None] = {}
        invalid = 0
        for entry in repos_:
            did = entry.get("did") if isinstance(entry, dict) else None
            if not isinstance(did, str) or not is_did(did):
                invalid += 1
            elif entry.get("active") is not False:  # a repo that is not served can't be fetched
                dids[did] = None
        return _Page(list(dids), invalid, following)

    async def _search_all(self) -> None:
        async with self._db.transaction() as tx:
            await backfills.search_all(tx, self._relay)
        _log.warning(
            "backfill.unserved", relay=self._relay, method=BY_COLLECTION,
            then="all repos of the relay are fetched",
        )  # fmt: skip


def _is_unserved(answer: Answer) -> bool:
    name = answer.body.get("error") if isinstance(answer.body, dict) else None
    return answer.status in _UNSERVED or name in _UNSERVED_NAMES
