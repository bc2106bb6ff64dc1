"""The loop: frames in, one transaction a batch, the cursor inside.

Two tasks share an inbox. The `Receiver` decodes frames as they come; `_apply_batches` takes what
has gathered, checks it and writes it together with the position up to which it reaches.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from indexer import log
from indexer.proof.verify import is_old_form
from indexer.prover import Prover, did_of
from indexer.records import Scope
from indexer.rules.projection import Change, Desynchronize, Keep, Projection
from indexer.store import cursors, outbox, repos, resyncs
from indexer.store.cursors import Cursor
from indexer.store.db import Database, Transaction
from indexer.stream.decode import MAX_SEQ
from indexer.stream.events import (
    Account,
    Commit,
    Event,
    Identity,
    Info,
    Rejected,
    RejectReason,
    StreamError,
    Sync,
)
from indexer.stream.firehose import Source
from indexer.stream.inbox import Inbox
from indexer.stream.receiver import JOINED_LIVE, OUTDATED_CURSOR, Receiver
from indexer.stream.stats import Stats
from indexer.turns import turn

GATHER = 0.05  # seconds that a batch waits for more: a busy stream is written in few commits
CURSOR_INTERVAL = 0.9  # seconds; with GATHER, the cursor moves at least once a second

_log = log.get("consumer")

Checkpoint = Callable[[Transaction, Cursor | None], Awaitable[None]]


class Consumer:
    """Reads one relay's stream into the index, until the source ends, if it does.

    `start` is the seq to begin behind, or None for the live end; `known` is the frame there, if it
    was read: the stream has to begin with it once more. `checkpoint` is awaited inside
    each batch's transaction with the position that the batch reaches: the daemon stores its
    cursor there, a replay does not. A replay may have a `last` seq, and since the live stream
    is not its business, what it misses marks no repo, and a FutureCursor ends it.
    """

    def __init__(
        self,
        db: Database,
        scope: Scope,
        prover: Prover,
        *,
        source: Source,
        relay: str,
        start: int | None,
        checkpoint: Checkpoint,
        known: Cursor | None = None,
        is_replay: bool = False,
        last: int = MAX_SEQ,
        stats: Stats | None = None,
        forget_identity: Callable[[str], None] = lambda did: None,
        keep: Keep | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.stats = stats or Stats()
        self._db = db
        self._prover = prover
        self._rejections = log.OnceAMinute(_log, "event.rejected")
        self._projection = Projection(
            scope, relay, is_replay=is_replay, on_rejected=self._tell_rejected
        )
        self._checkpoint = checkpoint
        self._is_replay = is_replay
        self._forget_identity = forget_identity
        self._keep = keep
        self._clock = clock
        self._inbox = Inbox()
        self._tracked: set[str] = set()
        self._last_repo = 0
        self._receiver = Receiver(
            source,
            self._inbox,
            collections=scope.collections,
            tracked=self._tracked,
            start=start,
            known=known,
            is_replay=is_replay,
            last=last,
            stats=self.stats,
            clock=clock,
        )
        self._saved: Cursor | None = self.position
        # Set once the stream is joined where it is to be: what is searched for from then on is
        # either found, or comes live.
        self.joined = asyncio.Event()
        if start is not None:
            self.joined.set()

    async def run(self) -> None:
        """Read to the end or the `last` seq. Raises what is our own fault, the cursor unmoved."""
        await self._track_newcomers()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receiver.run(), name="receive")
            tasks.create_task(self._apply_batches(), name="apply")

    def finish(self) -> None:
        """Read no more; `run` returns once what has come is applied."""
        self._receiver.finish()

    @property
    def is_connected(self) -> bool:
        return self._receiver.is_connected

    @property
    def error(self) -> StreamError | None:
        """Why a replay ended, if the relay refused it."""
        return self._receiver.error

    @property
    def position(self) -> Cursor | None:
        """The last frame that was read; None before the first, if it began at the live end."""
        return self._receiver.position

    @property
    def is_settled(self) -> bool:
        """Whether everything that has come is applied."""
        return self._saved == self.position

    @property
    def applied(self) -> Cursor | None:
        """The position up to which everything is in the index."""
        return self._saved

    async def _apply_batches(self) -> None:
        while True:
            await self._inbox.filled(CURSOR_INTERVAL)
            if not self._inbox.is_full:
                await asyncio.sleep(GATHER)
            is_last_take = self._receiver.is_finished
            for batch in self._inbox.take(self.position):
                await self._apply(batch.events, batch.position)
            await self._track_newcomers()
            self.stats.beat_at = self._clock()
            if is_last_take:
                return

    async def _apply(self, events: list[Event], position: Cursor | None) -> None:
        """Write a batch of events and the position that it reaches, in one transaction."""
        if not events and position == self._saved:
            return
        now = int(self._clock() * 1000)
        changes = [change for change in await self._judge(events, now) if change is not None]
        began = time.perf_counter()
        async with self._db.transaction() as tx:
            self.stats.rejected.update(await self._projection.apply(tx, changes, now))
            fell = self._projection.take_fallen()
            if fell and self._keep is not None:
                # Before the commit: what fell is said to nobody, so nothing would say it again.
                await self._keep(fell)
            if back := [] if self._is_replay else _may_be_back(events):
                await outbox.hasten(tx, back, now)
                await resyncs.hasten(tx, back, now)
            if position != self._saved:
                # The last statement of the same transaction, so that a crash leaves both or
                # neither: no frame is lost, and one that comes again changes nothing.
                await self._checkpoint(tx, position and replace(position, applied_at=now))
        self._saved = position
        if any(event is JOINED_LIVE for event in events):
            self.joined.set()
        self.stats.moved_at = now / 1000
        self.stats.batch_events.add(len(events))
        self.stats.batch_seconds.add(time.perf_counter() - began)

    async def _judge(self, events: list[Event], now: int) -> list[Change | None]:
        """Return what each event amounts to; None where that is nothing.

        Keys are asked for side by side: those that are not known before, those that do not fit
        after. While that goes on nothing is applied, so the order stays, and the cursor.
        """
        prover = self._prover
        await prover.learn(did_of(event) for event in events if isinstance(event, Commit | Sync))
        changes: list[Change | None] = []
        doubtful: list[tuple[int, Commit | Sync]] = []
        since = time.monotonic()
        for event in events:
            # By time and not by number: a host may send commits that take a thousand times longer.
            since = await turn(since)
            self.stats.events[type(event).__name__.lower()] += 1
            if not isinstance(event, Commit | Sync):
                changes.append(self._change_of(event))
                continue
            changes.append(prover.look(event, now))
            if changes[-1] is None:
                doubtful.append((len(changes) - 1, event))
        await prover.renew(did_of(event) for _, event in doubtful)
        for place, event in doubtful:
            since = await turn(since)
            changes[place] = prover.settle(event, now)
        for event, change in zip(events, changes, strict=True):
            self._count(event, change)
        return changes

    def _change_of(self, event: Event) -> Change | None:
        """Return what an event that needs no proof amounts to."""
        match event:
            case Account() | Rejected():
                return event
            case Identity(did=did):
                self._forget_identity(did)
                self._prover.forget(did)
            case Info() if event is JOINED_LIVE:
                return Desynchronize()
            case Info(name, message) if name != OUTDATED_CURSOR or self._is_replay:
                _log.warning("stream.informed", name=name, message=message)
            case Info(name, message) | StreamError(name, message):
                _log.warning(
                    "stream.broken",
                    reason=name,
                    message=message,
                    action="every tracked repo is checked again",
                )
                return Desynchronize(renumbered=isinstance(event, StreamError))
        return None

    def _count(self, event: Event, change: Change | None) -> None:
        if isinstance(change, Rejected):
            self.stats.rejected[change.reason] += 1
            self._rejections.tell(
                change.reason, change.what,
                reason=change.reason, what=change.what, seq=change.seq, did=change.did,
            )  # fmt: skip
        elif isinstance(event, Commit) and is_old_form(event):
            self.stats.noted["old_form"] += 1

    def _tell_rejected(self, reason: RejectReason, subject: str, what: str) -> None:
        self._rejections.tell(reason, what, reason=reason, what=what, subject=subject)

    async def _track_newcomers(self) -> None:
        """Learn which repos are tracked since the last look, also by a replay beside us."""
        self._last_repo, dids = await repos.newcomers(self._db, self._last_repo)
        self._tracked.update(dids)


def _may_be_back(events: list[Event]) -> list[str]:
    """Return the accounts that are served again, maybe elsewhere, by what their hosts say."""
    return [
        event.did
        for event in events
        if isinstance(event, Identity) or (isinstance(event, Account) and event.active)
    ]


def cursor_checkpoint(relay: str) -> Checkpoint:
    """Return the daemon's checkpoint: the cursor of this relay host."""

    async def save(tx: Transaction, position: Cursor | None) -> None:
        if position is None:
            await cursors.forget(tx, relay)
        else:
            await cursors.save(tx, relay, position)

    return save
