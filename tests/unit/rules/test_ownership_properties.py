"""Whoever copies a hash, whenever, and however it is told: a token leads to its owner or nowhere.

A history is drawn: an owner and two copiers who put two hashes into invites to spaces of their
own, revoke and delete them, while the index learns of it by the stream, by copies of repos and by
replays, misses a stretch, searches, and is stopped and started. After each step a guest tries.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.config.settings import Settings
from indexer.rules.projection import Desynchronize
from indexer.store import backfills, invite_tokens
from tests.support.frames import (
    ALICE,
    BOB,
    CAROL,
    COLLECTIONS,
    INVITE,
    SCOPE,
    SPACE,
    hash_of,
    invite,
    space,
)
from tests.support.index_file import RELAY, Index, opened
from tests.support.streamed_repo import Owner
from tests.support.xrpc_world import did
from xrpc.auth.callers import Caller
from xrpc.errors import InvalidInviteError, NotFoundError
from xrpc.methods import redeeming
from xrpc.services import Call, Services
from xrpc.tokens import new_token

ACCOUNTS = (ALICE, BOB, CAROL)
BOUND, FOREIGN = "bound", "foreign"
GARDEN = f"{SPACE}/garden"

Step = tuple[str, ...]
WRITES = st.tuples(
    st.sampled_from(["stream", "stream", "copy", "replay"]),
    st.sampled_from([ALICE, ALICE, BOB, CAROL]),
    st.sampled_from([BOUND, FOREIGN, FOREIGN]),
)
ENDS = st.tuples(
    st.sampled_from(["revoke", "delete"]),
    st.sampled_from(ACCOUNTS),
    st.sampled_from([BOUND, FOREIGN]),
)
OTHERS = st.sampled_from([("miss",), ("search",), ("search",), ("restart",)])
STEPS = st.lists(st.one_of(WRITES, WRITES, ENDS, OTHERS), min_size=1, max_size=14)


@dataclass
class Claims:
    """What ought to be known of a token: this is the rule, in as few words as it takes."""

    by: list[str] = field(default_factory=list)  # in the order in which they came
    owner: str | None = None
    standing: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)

    def note(self, whose: str, *, decide: bool) -> None:
        if whose not in self.by:
            self.by.append(whose)
        self.standing.add(whose)
        if decide:
            self.decide()

    def decide(self) -> None:
        if self.owner is None and len(self.by) == 1:
            self.owner = self.by[0]


class Play:
    """A history, played into a file."""

    def __init__(self, *, is_noted: bool) -> None:
        self.repos = {whose: Owner(whose) for whose in ACCOUNTS}
        self.tokens = {BOUND: new_token(f"at://{ALICE}/{GARDEN}"), FOREIGN: "made elsewhere"}
        self.claims = {BOUND: Claims(), FOREIGN: Claims()}
        self.is_noted = is_noted  # whether the bound token was made by this Rescind
        self.is_settled = True
        self.edits = 0
        self.guests = 0
        self.joined: dict[str, set[str]] = {BOUND: set(), FOREIGN: set()}

    async def begin(self, index: Index) -> None:
        async with index.db.transaction() as tx:
            await backfills.begin(tx, RELAY, COLLECTIONS)
            await backfills.settle(tx, RELAY)
        for repo in self.repos.values():
            await index.apply(repo.wrote({GARDEN: space()}))
        if self.is_noted:
            uri = f"at://{ALICE}/{INVITE}/{BOUND}"
            await index.create_invite(f"at://{ALICE}/{GARDEN}", uri, self.tokens[BOUND])

    async def step(self, index: Index, step: Step) -> None:
        match step:
            case ("stream" | "copy" | "replay" as way, whose, name):
                await self.write(index, way, whose, name)
            case ("delete", whose, name):
                if whose in self.claims[name].standing:
                    gone = self.repos[whose].wrote({f"{INVITE}/{name}": None})
                    await index.apply(gone)
                    self.claims[name].standing.discard(whose)
            case ("revoke", whose, name):
                try:
                    await index.revoke_token(f"at://{whose}/{GARDEN}", self.tokens[name], whose)
                except NotFoundError:
                    assert whose not in self.claims[name].by
                    assert (whose, name, self.is_noted) != (ALICE, BOUND, True)
                else:
                    self.claims[name].revoked.add(whose)
            case ("miss",):
                await index.apply(Desynchronize())
                self.is_settled = False
            case ("search",):
                async with index.db.transaction() as tx:
                    await invite_tokens.decide_all(tx)
                    await backfills.settle(tx, RELAY)
                self.is_settled = True
                for claims in self.claims.values():
                    claims.decide()

    async def write(self, index: Index, way: str, whose: str, name: str) -> None:
        repo = self.repos[whose]
        self.edits += 1
        record = invite(f"at://{whose}/{GARDEN}", self.tokens[name], note=str(self.edits))
        change = {f"{INVITE}/{name}": record}
        match way:
            case "stream":
                await index.apply(repo.wrote(change))
            case "replay":
                await index.replay(repo.wrote(change))
            case "copy":
                repo.fill(change)
                async with index.db.transaction() as tx:
                    await index.projection.reconcile(tx, repo.copy(), index.now)
        self.claims[name].note(whose, decide=way == "stream" and self.is_settled)

    def wanted(self, name: str) -> str | None:
        """Return whose space a token should lead into now."""
        claims = self.claims[name]
        owner = ALICE if name == BOUND else claims.owner
        return owner if owner in claims.standing - claims.revoked else None

    async def let_in(self, index: Index, name: str) -> str | None:
        """Let a guest try; return whose space he came into."""
        self.guests += 1
        guest = did("guest" + "".join(chr(97 + int(digit)) for digit in f"{self.guests:03}"))
        services = Services(
            Settings(relay=f"wss://{RELAY}"), index.db, SCOPE, *cast("Any", [None] * 4),
            clock=lambda: index.now / 1000,
        )  # fmt: skip
        call = Call(Caller(guest), {"token": self.tokens[name]}, 0.0)
        try:
            answer = await redeeming.redeem(services, call)
        except InvalidInviteError:
            return None
        whose = str(answer["spaceUri"].split("/")[2])
        [row] = await index.rows("members", did=guest)
        assert row["space_uri"] == f"at://{whose}/{GARDEN}"
        return whose

    async def check(self, index: Index) -> None:
        for name, claims in self.claims.items():
            came = await self.let_in(index, name)
            assert came == self.wanted(name)
            if came is not None:
                self.joined[name].add(came)
            # What all of it is for.
            assert len(self.joined[name]) <= 1
            if name == BOUND or claims.by[:1] == [ALICE]:
                assert self.joined[name] <= {ALICE}


async def play(steps: list[Step], folder: Path, *, is_noted: bool) -> None:
    played = Play(is_noted=is_noted)
    async with opened(folder) as index:
        await played.begin(index)
    rest = list(steps)
    while rest:
        async with opened(folder) as index:
            while rest and (step := rest.pop(0)) != ("restart",):
                await played.step(index, step)
                await played.check(index)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, is_noted=st.booleans())
def test_no_copier_gains_a_member_by_a_token_that_is_anothers(
    steps: list[Step], is_noted: bool
) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(play(steps, Path(folder), is_noted=is_noted))


def test_within_one_batch_the_order_of_the_stream_counts_whatever_was_there_before() -> None:
    async def run(folder: Path) -> None:
        alice, bob = Owner(ALICE), Owner(BOB)
        async with opened(folder) as index:
            async with index.db.transaction() as tx:
                await backfills.begin(tx, RELAY, COLLECTIONS)
                await backfills.settle(tx, RELAY)
            one = f"{INVITE}/one"
            await index.apply(
                bob.wrote({GARDEN: space(), one: invite(bob.uri(GARDEN), "another")}),
                alice.wrote({GARDEN: space(), one: invite(alice.uri(GARDEN))}),
                bob.wrote({one: invite(bob.uri(GARDEN))}),  # the place of a row that came first
            )
            await index.apply(alice.wrote({one: None}))
            assert await _owner(index) == ALICE

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def _owner(index: Index) -> str | None:
    space_uri = await invite_tokens.owned_space(index.db, hash_of("token"))
    return space_uri and space_uri.split("/")[2]
