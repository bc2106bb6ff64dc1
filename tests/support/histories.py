"""A history, drawn: what a few repos did, and what callers, the publisher and a PDS did with it."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

from hypothesis import strategies as st

from indexer.rules.projection import Change, Desynchronize
from tests.support.frames import (
    ALICE,
    BOB,
    CAROL,
    INVITE,
    SPACE,
    VERIFICATION,
    cid_text,
    invite,
    space,
    verification,
)
from tests.support.index_file import Index, Repo
from xrpc.errors import NotFoundError
from xrpc.methods.verifications import _Seen

GARDENS = [f"at://{did}/{SPACE}/garden" for did in (ALICE, BOB)]
TOKENS = [(uri, token) for uri in GARDENS for token in ("x", "y")]
GARDEN, ONE, TWO, CHECK = f"{SPACE}/garden", f"{INVITE}/one", f"{INVITE}/two", f"{VERIFICATION}/3k"
INVITES: list[Any] = [invite(uri, token) for uri, token in TOKENS]
RECORDS: dict[str, list[Any]] = {
    GARDEN: [space(), {"$type": "x"}],
    ONE: [INVITES[0], *INVITES, b"unreadable"],
    TWO: [INVITES[0], *INVITES],
    CHECK: [verification(), verification(), verification(displayName="Caroline"), {}],
}
PATHS = [GARDEN, ONE, TWO, CHECK, CHECK]
DIDS = [ALICE, ALICE, BOB]
ACCOUNTS = [(True, None), (False, "deactivated"), (False, "deleted")]
STEPS = (
    ["write"] * 6
    + ["delete", "put back", "put back", "revoke token", "revoke verification"] * 2
    + ["publish"] * 4
    + ["account", "sync", "rebuild", "join"] * 2
    + ["missed", "lose", "block", "drop", "reject"]
)

Action = Callable[[Index], Awaitable[None]]


@dataclass
class History:
    """What the stream says, and what is done here: each action once so many changes are in."""

    changes: list[Change]
    actions: list[tuple[int, Action]]

    def portions(self) -> Iterator[tuple[list[Change], list[Action]]]:
        """Yield the changes up to the next actions, and these."""
        done = 0
        for at in sorted({at for at, _ in self.actions} | {len(self.changes)}):
            yield self.changes[done:at], [action for place, action in self.actions if place == at]
            done = at


class Teller:
    """Makes up a history step by step, so that most steps are about what is there."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        seqs = count(1)
        self.repos = {did: Repo(did, seqs) for did in (ALICE, BOB)}
        self.past: list[tuple[Repo, str, Any]] = []  # each record that ever stood
        self.history = History([], [])

    def tell(self) -> None:
        step, repo = self.rng.choice(STEPS), self.repos[self.rng.choice(DIDS)]
        match step:
            case "write":
                self.say(self.write(repo))
            case "lose":
                self.write(repo)
            case "delete" if repo.cids:
                self.say(repo.commit({self.rng.choice(sorted(repo.cids)): None}))
            case "put back" if self.past:
                repo, path, record = self.rng.choice(self.past)
                self.say(repo.commit({path: record}))
            case "publish" if repo.cids:
                path = self.rng.choice(sorted(repo.cids))
                deletion = repo.commit({path: None})
                self.do(_acknowledge(repo.uri(path), deletion.rev))
                self.say(deletion)
            case "account":
                self.say(repo.account(*self.rng.choice(ACCOUNTS)))
            case "reject":
                self.say(repo.rejected(repo.later()))
            case "sync" if repo.rev:
                root = self.rng.choice([None, cid_text(repo.later().encode())])
                self.say(repo.sync(root, repo.later()))
            case "missed":
                self.say(Desynchronize())
            case _:
                self.act(step, repo)

    def act(self, step: str, repo: Repo) -> None:
        match step:
            case "revoke token":
                self.do(_revoke_token(*self.rng.choice([TOKENS[0], TOKENS[0], *TOKENS])))
            case "revoke verification":
                seen = None
                if repo.rev and CHECK in repo.cids and self.rng.random() < 0.5:
                    seen = _Seen(repo.cids[CHECK], repo.rev)
                self.do(_revoke(repo.uri(CHECK), seen))
            case "join":
                uri, did = self.rng.choice(GARDENS), self.rng.choice([BOB, CAROL])
                self.do(lambda index: index.join(uri, did))
            case "block":
                self.do(lambda index: index.block(repo.did))
            case "rebuild" if repo.rev:
                rebuild = _rebuild(repo.did, repo.later(), repo.data)
                self.history.actions.append((len(self.history.changes), rebuild))
            case "drop":
                self.do(lambda index: index.drop(repo.uri(CHECK)))

    def write(self, repo: Repo) -> Change:
        paths = self.rng.sample(PATHS, 2)
        records = {path: self.rng.choice(RECORDS[path]) for path in paths}
        self.past += [(repo, path, record) for path, record in records.items()]
        return repo.commit(records)

    def say(self, change: Change) -> None:
        self.history.changes.append(change)

    def do(self, action: Action) -> None:
        # It may be done before the stream has shown all that happened.
        lag = self.rng.choice([0, 0, 1, 2])
        self.history.actions.append((max(len(self.history.changes) - lag, 0), action))


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draw the length, which shrinks; what happens is left to chance, which tries out more."""
    teller = Teller(draw(st.randoms(use_true_random=True)))
    for _ in range(draw(st.integers(4, 24))):
        teller.tell()
    return teller.history


def _revoke_token(uri: str, token: str) -> Action:
    async def act(index: Index) -> None:
        with suppress(NotFoundError):
            await index.revoke_token(uri, token, actor=uri.split("/")[2])

    return act


def _revoke(uri: str, seen: _Seen | None) -> Action:
    async def act(index: Index) -> None:
        if seen is not None or await index.row("verifications", uri):
            await index.revoke(uri, actor=uri.split("/")[2], seen=seen)

    return act


def _rebuild(did: str, rev: str, data: str | None) -> Action:
    """Say that the repo was compared with the index, and was found to be so."""

    async def act(index: Index) -> None:
        async with index.db.transaction() as tx:
            await tx.execute(
                """
                update repos set sync = 'synchronized', rev = :rev, data = :data
                where did = :did
                """,
                {"did": did, "rev": rev, "data": data},
            )

    return act


def _acknowledge(uri: str, rev: str) -> Action:
    async def act(index: Index) -> None:
        row = await index.deletion(uri)
        if row is not None and row["state"] == "pending":
            await index.acknowledge(uri, rev)

    return act
