"""Which word on an account is the last one: by the order of its stream, and between two by time."""

import asyncio
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.lexicon.syntax import format_datetime
from indexer.rules.projection import Change, Desynchronize, Projection
from indexer.rules.repo_rules import time_of_answer
from indexer.store import repos, resyncs
from indexer.stream.events import Rejected
from tests.support.frames import ALICE, BOB, NOW, SCOPE, SPACE, VERIFICATION, space, verification
from tests.support.index_file import RELAY, Index, Repo, index, opened

__all__ = ["index"]  # fixtures

CHECK = f"{VERIFICATION}/3k"
RECORDS = {f"{SPACE}/garden": space(), CHECK: verification()}
RENUMBERED = Desynchronize(renumbered=True)


def at(seconds: float) -> str:
    """Return the time so many seconds behind the tests' clock."""
    return format_datetime(NOW + int(seconds * 1000))


async def hosting(index: Index) -> str:
    return str((await index.repo())["hosting"])


async def host_says(index: Index, status: str) -> None:
    """Let the account's own host be asked now, and say this."""
    async with index.db.transaction() as tx:
        known = (await repos.load(tx, [ALICE]))[ALICE]
        await repos.set_hosting(tx, ALICE, status, time_of_answer(known, NOW))
        await resyncs.end(tx, ALICE)


async def put_away(index: Index) -> None:
    """Let the repo be tracked, and not be served by its host."""
    async with index.db.transaction() as tx:
        await repos.track(tx, [ALICE], NOW)
    await host_says(index, "deactivated")


async def shown(index: Index) -> int:
    return len([row for row in await index.rows("verifications") if row["revoked"] == 0])


# --- a replay beside the live stream ---


@pytest.mark.parametrize("status", ["takendown", "deleted"])
async def test_old_numbers_of_a_relay_that_numbers_anew_say_nothing_new(
    index: Index, status: str
) -> None:
    repo = Repo(seqs=count(1_000_001), times=map(at, count(-100)))
    past: list[Change] = [repo.commit(RECORDS), repo.account(False, status), repo.account(True)]
    past += [repo.commit({CHECK: verification(handle="b.test")}), repo.account(False, status)]
    await index.apply_each(*past, RENUMBERED, repo.account(True, seq=7, time=at(-10)))
    before = await index.dump()
    await index.replay(*past)
    assert await index.dump() == before
    await index.apply(repo.account(False, seq=90, time=at(-5)))
    assert await hosting(index) == "inactive"


@pytest.mark.parametrize("seq", [3, 1_000_005])
async def test_whatever_was_played_the_live_stream_is_heard(index: Index, seq: int) -> None:
    repo = Repo(times=map(at, count(-100)))
    await index.apply_each(repo.commit(RECORDS), repo.account(True))
    # Another machine's relay of the same name, say: of its numbers nothing can be said.
    await index.replay(repo.account(False, "takendown", seq=seq, time=at(-50)))
    await index.apply(repo.account(True, seq=5, time=at(-60)))
    assert await hosting(index) == "active"
    state = await index.repo()
    assert (state["hosting_relay"], state["hosting_seq"]) == (RELAY, 5)


async def test_what_the_live_stream_never_said_can_be_learned_from_a_replay(index: Index) -> None:
    repo = Repo(times=map(at, count(-100)))
    await index.apply_each(repo.commit(RECORDS), repo.account(True))
    await index.replay(repo.account(False, "deactivated"))
    assert await hosting(index) == "deactivated"


async def test_a_word_that_was_dated_ahead_is_not_heard_again_in_a_replay(index: Index) -> None:
    repo = Repo()
    first = repo.commit(RECORDS)
    gone = repo.account(False, "deleted", time=at(3_600))
    await index.apply_each(first, gone, repo.account(True, time=at(3_601)), repo.commit(RECORDS))
    before = await index.dump()
    index.now += 7_200_000
    await index.replay(gone)
    assert await index.dump() == before


async def test_a_replay_does_not_undo_what_the_host_has_said_when_it_was_asked(
    index: Index,
) -> None:
    await put_away(index)
    repo = Repo(times=map(at, count(-100)))
    await index.replay(repo.commit(RECORDS), repo.account(True))
    assert await hosting(index) == "deactivated"


async def test_a_replay_of_what_was_missed_does_not_undo_what_the_host_has_said_since(
    index: Index,
) -> None:
    repo = Repo(times=map(at, count(-100)))
    await index.apply_each(repo.commit(RECORDS), repo.account(True))
    missed = repo.account(False, "takendown"), repo.account(False, "deactivated")
    await host_says(index, "active")
    await index.replay(*missed)
    assert await hosting(index) == "active"
    # The relay's own stream goes on behind its last word, whatever its clock says.
    await index.apply_each(repo.account(False, "suspended", time=at(-50)))
    assert await hosting(index) == "suspended"


async def test_the_host_of_an_account_that_a_replay_puts_away_is_asked(index: Index) -> None:
    repo = Repo(times=map(at, count(-100)))
    await index.apply(repo.commit(RECORDS))
    gone = repo.account(False, "deactivated")  # missed, and so is that it is back
    await index.replay(gone)
    assert await hosting(index) == "deactivated"
    assert await resyncs.due(index.db, NOW, 10) == [ALICE]
    await host_says(index, "active")
    await index.replay(gone)
    assert await hosting(index) == "active"


async def test_the_host_of_a_deleted_account_that_goes_on_is_asked(index: Index) -> None:
    repo = Repo(times=map(at, count(-100)))
    first = repo.commit(RECORDS)
    await index.apply(first)
    missed = repo.commit({CHECK: verification()})
    gone = repo.account(False, "deleted")
    await index.apply(gone)
    for old in (first, missed, gone):
        await index.replay(old)
        assert await hosting(index) == "deleted"

    repo.account(True)  # missed
    await index.apply(repo.commit({CHECK: verification(displayName="Back")}))
    assert await hosting(index) == "inactive"
    assert await resyncs.due(index.db, NOW, 10) == [ALICE]


async def test_the_first_live_word_is_heard_although_its_clock_is_behind_the_hosts_answer(
    index: Index,
) -> None:
    repo = Repo()
    await index.replay(repo.commit(RECORDS, time=at(-90)), repo.account(True, time=at(-80)))
    await host_says(index, "active")
    await index.apply_each(repo.account(False, "suspended", time=at(-5)))
    assert await hosting(index) == "suspended"


# --- replays without a live stream ---


async def test_one_replay_goes_by_the_order_of_its_frames(index: Index) -> None:
    repo = Repo()
    stretch = [
        repo.commit(RECORDS, time=at(-50)),
        repo.account(False, "deactivated", time=at(-50)),
        repo.account(True, time=at(-60)),  # by another clock
    ]
    await index.replay(*stretch)
    assert await hosting(index) == "active"
    before = await index.dump()
    for change in stretch:
        await index.replay(change)
    assert await index.dump() == before


async def test_two_replays_go_by_time(index: Index) -> None:
    repo = Repo(seqs=count(1_000_001), times=map(at, count(-100)))
    old = [repo.commit(RECORDS), repo.account(False, "takendown")]
    new = [repo.account(True, seq=1), repo.account(False, "suspended", seq=2)]
    await index.replay(*old)
    await index.replay(*new)
    assert await hosting(index) == "suspended"
    await index.replay(*old)
    assert await hosting(index) == "suspended"


async def test_a_live_stream_that_begins_behind_a_replay_is_not_held_to_its_numbers(
    index: Index,
) -> None:
    repo = Repo(seqs=count(1_000_001), times=map(at, count(-100)))
    await index.replay(repo.commit(RECORDS), repo.account(False, "takendown"))
    await index.apply(repo.account(True, seq=90))
    assert await hosting(index) == "active"


# --- two relays ---


async def test_a_clock_that_went_back_does_not_make_what_another_relay_tells_again_news(
    index: Index,
) -> None:
    repo = Repo()
    first = repo.commit(RECORDS, time=at(-99))
    gone = repo.account(False, "deactivated", time=at(-50))
    await index.apply_each(first, gone, repo.account(True, time=at(-60)))
    async with index.db.transaction() as tx:
        await Projection(SCOPE, "other.test").apply(tx, [gone], NOW)
    assert await hosting(index) == "active"


async def test_a_first_commit_that_is_dated_ahead_does_not_silence_other_relays(
    index: Index,
) -> None:
    repo = Repo()
    await index.apply(repo.commit(RECORDS, time="9999-01-01T00:00:00Z"))
    gone = repo.account(False, "suspended", time=at(1))
    async with index.db.transaction() as tx:
        await Projection(SCOPE, "other.test").apply(tx, [gone], NOW + 2_000)
    assert await hosting(index) == "suspended"


# --- what was rejected ---


async def test_a_repo_that_was_put_away_when_its_host_was_asked_comes_into_doubt_by_later_frames(
    index: Index,
) -> None:
    await put_away(index)
    repo = Repo()
    frames = [Rejected(seq, at(seq), "no_key", ALICE, repo.later()) for seq in (500, 900)]
    await index.apply_each(*frames)
    assert (await index.repo())["sync"] == "desynchronized"
    assert await resyncs.due(index.db, NOW, 9) == [ALICE]


async def test_what_was_rejected_in_a_replay_before_a_host_was_asked_puts_nothing_in_doubt(
    index: Index,
) -> None:
    await put_away(index)
    before = await index.dump()
    await index.replay(Rejected(500, at(-1), "no_key", ALICE, None))
    assert await index.dump() == before


# --- any history ---

ACCOUNTS = [(True, None), (False, "takendown"), (False, "deactivated"), (False, "deleted")]
STEPS = ["account"] * 6 + ["commit"] * 3 + ["reject", "renumber"]


class Teller:
    """Makes up what one relay says, under numbers that begin anew now and then."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now = -10_000.0
        self.seq = rng.choice([0, 1_000])
        self.repos = [Repo(did, self.seqs(), self.times()) for did in (ALICE, BOB)]
        self.told: list[Change] = []

    def seqs(self) -> Iterator[int]:
        while True:
            self.seq += self.rng.choice([1, 1, 50])
            yield self.seq

    def times(self) -> Iterator[str]:
        for _ in repeat(None):
            self.now += self.rng.choice([0, 0.001, 10])
            yield at(self.now)

    def tell(self) -> Change:
        repo = self.rng.choice(self.repos)
        change: Change
        match self.rng.choice(STEPS):
            case "account":
                change = repo.account(*self.rng.choice(ACCOUNTS))
            case "commit":
                record = self.rng.choice([verification(), verification(handle="b.test"), None])
                change = repo.commit({CHECK: record})
            case "reject":
                change = repo.rejected(repo.later())
            case _:
                change = RENUMBERED
                self.seq = self.rng.choice([0, self.seq - 3, self.seq + 1_000])
                self.now += 0.001
        self.told.append(change)
        return change

    def played(self) -> list[Change]:
        """Return a part of what was told up to now."""
        first = self.rng.randrange(len(self.told))
        stretch = self.told[first : first + self.rng.choice([1, 3, 99])]
        return [change for change in stretch if not isinstance(change, Desynchronize)]


PROFILE = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@given(st.randoms(use_true_random=True), st.integers(4, 24), st.sampled_from([RELAY, "b.test"]))
@PROFILE
def test_no_part_of_what_a_relay_ever_said_changes_by_a_replay_where_it_led_to(
    rng: Random, length: int, relay: str
) -> None:
    async def compare() -> None:
        teller = Teller(rng)
        with TemporaryDirectory() as directory:
            async with opened(Path(directory)) as index:
                for _ in range(length):
                    await index.apply(teller.tell())
                    before = await index.dump()
                    await index.replay(*teller.played(), relay=relay)
                    await index.replay(*teller.played())
                    assert await index.dump() == before

    asyncio.run(compare())


@given(st.randoms(use_true_random=True), st.integers(2, 16))
@PROFILE
def test_whatever_is_played_the_last_word_of_the_live_stream_stands(
    rng: Random, length: int
) -> None:
    async def compare() -> None:
        live, other = Repo(times=map(at, count(-999, 10))), Repo(times=map(at, count(-999, 9)))
        with TemporaryDirectory() as directory:
            async with opened(Path(directory)) as index:
                await index.apply(live.commit(RECORDS))
                for _ in range(length):
                    words = [
                        other.account(*rng.choice(ACCOUNTS), seq=rng.choice([1, 5, 99_999]))
                        for _ in range(3)
                    ]
                    await index.replay(*words)
                    word = live.account(*rng.choice(ACCOUNTS))
                    await index.apply(word)
                    state = await index.repo()
                    expected = "active" if word.active else word.status
                    assert (state["hosting"], state["hosting_seq"]) == (expected, word.seq)

    asyncio.run(compare())
