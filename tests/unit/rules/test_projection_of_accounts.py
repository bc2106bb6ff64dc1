"""Records are hidden, shown and deleted as their account is: the last word of its stream counts."""

from itertools import count

import pytest

from indexer.rules.projection import Change, Desynchronize, Projection
from indexer.stream.events import Account
from tests.support.alices_records import (
    CHECK,
    CHECK_URI,
    EVERYTHING,
    GARDEN,
    GARDEN_URI,
    ONE,
    OTHER,
    TEXT,
    TWO,
    cid,
    shown,
)
from tests.support.frames import BOB, NOW, SCOPE, SPACE, TIME, invite, space
from tests.support.index_file import Index, Repo, index, repo
from xrpc.methods.verifications import _Seen

__all__ = ["index", "repo"]  # fixtures


@pytest.mark.parametrize(
    ("status", "hosting"),
    [
        ("deactivated", "deactivated"),
        ("suspended", "suspended"),
        ("takendown", "takendown"),
        (None, "inactive"),
        ("throttled", "inactive"),
        ("active", "inactive"),
    ],
)
async def test_an_inactive_account_is_hidden_and_shown_again_when_it_is_back(
    index: Index, repo: Repo, status: str | None, hosting: str
) -> None:
    await index.apply(repo.commit(EVERYTHING))
    await index.revoke(CHECK_URI)
    await index.apply(repo.account(False, status))
    assert (await index.repo())["hosting"] == hosting
    assert await shown(index) == [0, 0, 0]
    assert len(await index.rows("spaces")) == 1
    await index.apply(repo.account(True))
    assert await shown(index) == [1, 1, 0]
    state = await index.repo()
    assert (state["hosting"], state["sync"]) == ("active", "desynchronized")


async def test_the_token_of_an_account_that_was_deleted_can_be_revoked_whatever_was_missed(
    index: Index, repo: Repo
) -> None:
    repo.commit({GARDEN: space(), ONE: invite(GARDEN_URI)})  # never seen
    await index.apply(repo.commit({ONE: None}))
    await index.apply(repo.commit({GARDEN: space(name="Yard"), ONE: invite(GARDEN_URI)}))
    await index.apply(repo.account(False, "deleted"))
    assert await index.revoke_token(GARDEN_URI)


async def test_a_deleted_account_leaves_tombstones_and_nothing_else(
    index: Index, repo: Repo
) -> None:
    commit = repo.commit({**EVERYTHING, TWO: invite(f"at://{BOB}/{SPACE}/x")})
    await index.apply(commit)
    await index.revoke(CHECK_URI, reason="spam")
    await index.apply(repo.account(False, "deleted"))
    for table in ("spaces", "invites", "untrusted_invites", "verifications"):
        assert await index.rows(table) == []
    causes = {row["uri"]: row["cause"] for row in await index.rows("tombstones")}
    assert causes == {
        GARDEN_URI: "purged",
        repo.uri(ONE): "purged",
        repo.uri(TWO): "purged",
        CHECK_URI: "revoked",
    }
    before = await index.dump()
    async with index.db.transaction() as tx:
        await tx.execute("update repos set sync = 'desynchronized'")
    await index.apply(commit)
    async with index.db.transaction() as tx:
        await tx.execute("update repos set sync = 'synchronized'")
    assert await index.dump() == before


@pytest.mark.parametrize("apart", [True, False])
async def test_a_deleted_account_loses_what_it_wrote_in_the_same_batch(
    index: Index, repo: Repo, apart: bool
) -> None:
    changes: list[Change] = [
        repo.commit(EVERYTHING),
        repo.account(False, "deleted"),
        repo.account(True),
        repo.commit({CHECK: OTHER}),
    ]
    await (index.apply_each if apart else index.apply)(*changes)
    assert await shown(index) == [0, 0, 1]


async def test_active_decides_whatever_the_status_says(index: Index, repo: Repo) -> None:
    await index.apply(repo.commit(EVERYTHING))
    await index.apply(repo.account(True, "deleted"))
    assert await shown(index) == [1, 1, 1]


async def test_older_account_events_of_the_same_relay_change_nothing(
    index: Index, repo: Repo
) -> None:
    events: list[Change] = [
        repo.commit(EVERYTHING),
        repo.account(False, "deactivated"),
        repo.account(True),
    ]
    await index.apply_each(*events)
    before = await index.dump()
    await index.apply_each(*events[1:], *events)
    await index.apply(*reversed(events))
    assert await index.dump() == before


async def test_an_account_event_from_before_the_first_commit_is_old(index: Index) -> None:
    seqs = count(1)
    repo = Repo(seqs=seqs)
    old = repo.account(False, "deleted")
    await index.apply(repo.commit(EVERYTHING))
    await index.apply(old)
    assert await shown(index) == [1, 1, 1]


async def test_an_account_event_from_before_the_first_commit_is_old_also_for_a_known_repo(
    index: Index, repo: Repo
) -> None:
    old = repo.account(False, "takendown")
    create = repo.commit(EVERYTHING)
    await index.revoke(CHECK_URI, seen=_Seen(cid(TEXT), create.rev))  # a caller was first
    await index.apply_each(create, old)
    assert (await index.repo())["hosting"] == "active"


async def test_what_was_rejected_before_an_account_was_put_away_puts_it_in_no_doubt(
    index: Index, repo: Repo
) -> None:
    forged = repo.rejected(None)
    await index.apply_each(repo.commit(EVERYTHING), repo.account(False, "deactivated"))
    before = await index.dump()
    await index.apply(forged)
    assert await index.dump() == before
    await index.apply(repo.rejected(None))
    assert (await index.repo())["sync"] == "desynchronized"


async def test_account_events_of_two_relays_are_ordered_by_their_time(
    index: Index, repo: Repo
) -> None:
    other = Projection(SCOPE, "other.test")

    async def from_other(event: Account) -> None:
        async with index.db.transaction() as tx:
            await other.apply(tx, [event], NOW)

    early, late = TIME.replace(":20", ":19"), TIME.replace(":20", ":21")
    await index.apply(repo.commit(EVERYTHING), repo.account(False, "suspended"))
    await from_other(repo.account(True, seq=9_999, time=early))
    assert (await index.repo())["hosting"] == "suspended"
    await from_other(repo.account(True, seq=1, time=late))
    assert (await index.repo())["hosting"] == "active"


@pytest.mark.parametrize("late", ["2026-09-21T14:13:20Z", "2026-09-21T16:13:20+02:00", None, "x"])
async def test_times_of_two_relays_are_compared_and_not_their_spelling(
    index: Index, repo: Repo, late: str | None
) -> None:
    await index.apply(repo.commit(EVERYTHING, time=TIME.replace("000Z", "001Z")))
    async with index.db.transaction() as tx:
        await Projection(SCOPE, "other.test").apply(
            tx, [repo.account(False, "suspended", time=late)], NOW
        )
    assert (await index.repo())["hosting"] == "active"


async def test_a_relay_whose_clock_runs_ahead_does_not_silence_the_others(
    index: Index, repo: Repo
) -> None:
    await index.apply(repo.commit(EVERYTHING))
    await index.apply(repo.account(False, "suspended", time="9999-01-01T00:00:00Z"))
    async with index.db.transaction() as tx:
        back = repo.account(True, time=TIME.replace(":20", ":21"))
        await Projection(SCOPE, "other.test").apply(tx, [back], NOW + 2_000)
    assert (await index.repo())["hosting"] == "active"


async def test_a_relay_that_numbers_anew_is_heard_again(index: Index, repo: Repo) -> None:
    await index.apply(repo.commit(EVERYTHING, seq=9_000), repo.account(True, seq=9_001))
    later = TIME.replace(":20", ":21")
    gone = repo.account(False, "deleted", seq=5, time=later)
    await index.apply(gone)
    assert await shown(index) == [1, 1, 1]  # in the sequence that we know, that is old
    await index.apply(Desynchronize(renumbered=True), gone)
    assert await shown(index) == [0, 0, 0]
