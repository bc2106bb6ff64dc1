"""A deletion that is asked for is claimed, put off, confirmed or given up, and never lost."""

import pytest

from indexer.store import outbox
from indexer.store.db import Database
from indexer.store.outbox import Deletion
from tests.support.frames import ALICE, BOB, INVITE, VERIFICATION, tid
from tests.support.store_file import NOW, URI, db

__all__ = ["db"]  # fixtures


async def ask(db: Database, rev: str = "", now: int = NOW) -> None:
    async with db.transaction() as tx:
        await outbox.enqueue(tx, [(URI, rev or tid(1))], now)


async def row(db: Database) -> Deletion:
    return (await outbox.load(db, [URI]))[URI]


async def put(db: Database, state: str) -> None:
    """Bring a new row into a state, by the ways that lead there."""
    await ask(db)
    async with db.transaction() as tx:
        match state:
            case "sent":
                await outbox.mark_sent(tx, [URI], tid(5), now=NOW, check_at=NOW + 60)
            case "confirmed":
                await outbox.mark_confirmed(tx, [(URI, tid(5))], NOW)
            case "blocked":
                await outbox.block_repo(tx, ALICE, "no session", NOW)
            case "dropped":
                await outbox.drop(tx, URI, "given up", NOW)
    assert (await row(db)).state == state


async def test_a_deletion_that_is_asked_for_is_due_and_names_its_record(db: Database) -> None:
    await ask(db)
    assert await row(db) == Deletion(
        URI, ALICE, VERIFICATION, "3k", "pending", tid(1), None, 0, NOW, None, NOW, NOW
    )
    assert await outbox.due_repos(db, NOW, 10) == [ALICE]
    assert await outbox.due_repos(db, NOW - 1, 10) == []


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("pending", "pending"),
        ("blocked", "blocked"),
        ("sent", "pending"),
        ("confirmed", "pending"),
        ("dropped", "pending"),
    ],
)
async def test_what_is_under_way_goes_on_and_what_was_done_begins_anew(
    db: Database, state: str, after: str
) -> None:
    await put(db, state)
    await ask(db, tid(8), NOW + 5)
    again = await row(db)
    assert (again.state, again.record_rev) == (after, tid(8))
    if state in ("sent", "confirmed", "dropped"):
        assert (again.commit_rev, again.attempts, again.error) == (None, 0, None)
        assert again.created_at == NOW + 5
    else:
        assert again.created_at == NOW
    assert again.due_at <= NOW + 5
    await ask(db, tid(2), NOW + 9)
    assert (await row(db)).record_rev == tid(8)  # a rev never goes back


async def test_a_claim_is_a_lease(db: Database) -> None:
    await ask(db)

    async def claim(now: int) -> list[Deletion]:
        async with db.transaction() as tx:
            return await outbox.claim(tx, ALICE, "pending", now=now, until=now + 100, limit=5)

    (claimed,) = await claim(NOW)
    assert (claimed.attempts, claimed.due_at) == (1, NOW + 100)
    assert await claim(NOW + 99) == []
    (again,) = await claim(NOW + 100)
    assert again.attempts == 2
    async with db.transaction() as tx:
        await outbox.release(tx, NOW + 101)
    assert (await row(db)).due_at == NOW + 101


async def test_a_claim_takes_so_many_of_one_repo_the_longest_waiting_first(db: Database) -> None:
    uris = [f"at://{did}/{INVITE}/{n}" for did in (ALICE, BOB) for n in range(3)]
    async with db.transaction() as tx:
        for number, uri in enumerate(uris):
            await outbox.enqueue(tx, [(uri, tid(1))], NOW - number)
        claimed = await outbox.claim(tx, ALICE, "pending", now=NOW, until=NOW + 100, limit=2)
    assert {one.uri for one in claimed} == set(uris[1:3])
    assert await outbox.due_repos(db, NOW, 10) == [BOB, ALICE]
    assert await outbox.due_repos(db, NOW, 1) == [BOB]


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("pending", "sent"),
        ("blocked", "sent"),
        ("sent", "sent"),
        ("confirmed", "confirmed"),
        ("dropped", "dropped"),
    ],
)
async def test_an_acknowledgement_counts_only_for_what_waits_for_it(
    db: Database, state: str, after: str
) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        await outbox.mark_sent(tx, [URI], tid(7), now=NOW + 1, check_at=NOW + 60)
    assert (await row(db)).state == after


async def test_an_acknowledgement_of_an_older_deletion_is_none_of_what_was_put_back(
    db: Database,
) -> None:
    await ask(db, tid(1))
    await ask(db, tid(5))  # put back, while the PDS was deleting what stood there before
    async with db.transaction() as tx:
        await outbox.mark_sent(tx, [URI], tid(3), now=NOW, check_at=NOW + 60)
    assert (await row(db)).state == "pending"


@pytest.mark.parametrize(
    ("state", "rev", "after"),
    [
        ("pending", tid(2), "confirmed"),
        ("pending", tid(1), "pending"),
        ("pending", tid(0), "pending"),
        ("sent", tid(6), "confirmed"),
        ("blocked", tid(2), "confirmed"),
        ("dropped", tid(2), "dropped"),
    ],
)
async def test_a_deletion_confirms_if_it_is_later_than_the_record(
    db: Database, state: str, rev: str, after: str
) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        await outbox.mark_confirmed(tx, [(URI, rev)], NOW)
    found = await row(db)
    assert found.state == after
    if after == "confirmed":
        assert (found.commit_rev, found.error) == (rev, None)


@pytest.mark.parametrize("state", ["pending", "sent", "blocked", "confirmed", "dropped"])
async def test_what_is_gone_is_confirmed_unless_it_was_given_up(db: Database, state: str) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        is_gone = await outbox.mark_gone(tx, URI, tid(1), NOW)
    assert (await row(db)).state == ("dropped" if state == "dropped" else "confirmed")
    assert is_gone == (state in ("pending", "sent", "blocked"))


@pytest.mark.parametrize("state", ["pending", "sent", "blocked"])
async def test_what_was_put_back_since_the_pds_was_asked_is_not_taken_for_gone(
    db: Database, state: str
) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        await outbox.enqueue(tx, [(URI, tid(9))], NOW)
        assert not await outbox.mark_gone(tx, URI, tid(1), NOW)
    assert (await row(db)).state == ("blocked" if state == "blocked" else "pending")


@pytest.mark.parametrize("state", ["pending", "sent", "blocked", "confirmed", "dropped"])
async def test_a_failure_puts_off_what_is_due_and_touches_nothing_else(
    db: Database, state: str
) -> None:
    await put(db, state)
    before = await row(db)
    async with db.transaction() as tx:
        await outbox.mark_failed(tx, [URI], "down", now=NOW + 1, retry_at=NOW + 50)
    found = await row(db)
    if state in ("pending", "sent"):
        assert (found.state, found.error, found.due_at) == (state, "down", NOW + 50)
    else:
        assert found == before


async def test_a_repo_is_blocked_and_taken_up_again(db: Database) -> None:
    await ask(db)
    async with db.transaction() as tx:
        assert await outbox.block_repo(tx, BOB, "no session", NOW) == 0
        assert await outbox.block_repo(tx, ALICE, "no session", NOW) == 1
    assert (await row(db)).error == "no session"
    assert await outbox.due_repos(db, NOW + 1_000, 10) == []
    async with db.transaction() as tx:
        assert await outbox.unblock_repo(tx, ALICE, NOW + 3) == 1
    found = await row(db)
    assert (found.state, found.error, found.attempts, found.due_at) == ("pending", None, 0, NOW + 3)


@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("pending", "pending"),
        ("sent", "sent"),
        ("blocked", "pending"),
        ("confirmed", "confirmed"),
        ("dropped", "dropped"),
    ],
)
@pytest.mark.parametrize("uris", [None, [URI]])
async def test_a_retry_makes_due_what_waits(
    db: Database, state: str, after: str, uris: list[str] | None
) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        count = await outbox.retry(tx, uris, NOW + 5)
        assert await outbox.retry(tx, ["at://other"], NOW + 9) == 0
    found = await row(db)
    assert found.state == after
    assert count == (state in ("pending", "sent", "blocked"))
    if count:
        assert found.due_at == NOW + 5


@pytest.mark.parametrize("state", ["pending", "sent", "blocked", "confirmed", "dropped"])
async def test_a_person_can_give_up_what_is_not_done(db: Database, state: str) -> None:
    await put(db, state)
    async with db.transaction() as tx:
        dropped = await outbox.drop(tx, URI, "enough", NOW)
    assert dropped is (state in ("pending", "sent", "blocked"))
    assert (await outbox.count_by_state(db)).keys() == {"dropped" if dropped else state}


async def test_a_postponement_moves_what_is_due_and_counts_no_attempt(db: Database) -> None:
    await put(db, "sent")
    async with db.transaction() as tx:
        assert await outbox.postpone(tx, ALICE, "down", now=NOW, retry_at=NOW + 500) == 0
        assert await outbox.postpone(tx, ALICE, "down", now=NOW + 60, retry_at=NOW + 500) == 1
    found = await row(db)
    assert (found.due_at, found.error, found.attempts) == (NOW + 500, "down", 0)
    assert [one.uri for one in await outbox.listing(db, ["sent"], 5)] == [URI]
    assert await outbox.listing(db, ["pending"], 5) == []
