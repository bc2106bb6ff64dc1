"""One commit may write a key twice: it is proven and applied as what it did to the record.

The official PDS lists every write of an `applyWrites`, each with the `prev` from before the whole
commit; other hosts may say what stood there just before.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from indexer.proof.verify import verify_commit
from indexer.stream.decode import decode
from indexer.stream.events import Commit, Rejected, VerifiedCommit
from tests.support.frames import (
    ALICE,
    COLLECTIONS,
    NOW,
    VERIFICATION,
    Author,
    block,
    cid_of,
    cid_text,
    frame,
    verification,
)
from tests.support.index_file import Index, opened

CHECK = f"{VERIFICATION}/3k"
OTHER = f"{VERIFICATION}/3l"
A, B, C = (verification(displayName=name) for name in "ABC")


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    async with opened(tmp_path) as index:
        yield index


def op(action: str, record: Any = None, prev: Any = None) -> dict[str, Any]:
    said = {"action": action, "path": CHECK, "cid": None if record is None else _cid(record)}
    return said if prev is None else {**said, "prev": _cid(prev)}


def _cid(record: Any) -> bytes:
    return cid_of(block(record))


# What stood there before and what does after, and the operations as hosts list them.
CASES: dict[str, tuple[Any, Any, list[dict[str, Any]]]] = {
    "update and update": (A, C, [op("update", B, A), op("update", C, A)]),
    "update and update, each by the one before": (A, C, [op("update", B, A), op("update", C, B)]),
    "update and delete": (A, None, [op("update", B, A), op("delete", None, A)]),
    "delete and create": (A, B, [op("delete", None, A), op("create", B, A)]),
    "delete and create, without a prev": (A, B, [op("delete", None, A), op("create", B)]),
    "delete and create the same again": (A, A, [op("delete", None, A), op("create", A, A)]),
    "create and update": (None, B, [op("create", A), op("update", B)]),
    "create and delete": (None, None, [op("create", A), op("delete")]),
    "create and delete, by the one before": (None, None, [op("create", A), op("delete", None, A)]),
    "create, delete and create": (None, B, [op("create", A), op("delete"), op("create", B)]),
    "delete, create and delete": (
        A, None, [op("delete", None, A), op("create", B, A), op("delete", None, A)],
    ),
}  # fmt: skip
ALL = pytest.mark.parametrize(("before", "after", "ops"), CASES.values(), ids=CASES)


def told(author: Author, before: Any, after: Any, ops: list[dict[str, Any]]) -> bytes:
    """Return the frame of a commit that led from one to the other by these operations."""
    changes = {} if before is None and after is None else {CHECK: after}
    body = author.commit_body(2, {OTHER: A, **changes})
    others = [op for op in body["ops"] if op["path"] != CHECK]
    return frame("#commit", {**body, "ops": [*others, *ops]})


def proven(data: bytes) -> VerifiedCommit | Rejected:
    event = decode(data, COLLECTIONS, {ALICE})
    assert isinstance(event, Commit)
    return verify_commit(event, COLLECTIONS.__contains__, Author.key.did_key, NOW)


def written(before: Any) -> Author:
    author = Author()
    author.commit_body(1, {f"{VERIFICATION}/{n}": A for n in range(9)})
    if before is not None:
        author.commit_body(1, {CHECK: before})
    return author


@ALL
def test_it_is_proven_with_one_write_that_is_what_the_last_operation_did(
    before: Any, after: Any, ops: list[dict[str, Any]]
) -> None:
    commit = proven(told(written(before), before, after, ops))
    assert isinstance(commit, VerifiedCommit)
    [write] = [write for write in commit.writes if write.rkey == "3k"]
    assert (write.action == "delete") is (ops[-1]["action"] == "delete")
    assert write.cid == (None if after is None else cid_text(block(after)))
    assert write.block == (None if after is None else block(after))
    assert write.prev == (None if before is None else cid_text(block(before)))


@ALL
async def test_the_index_shows_what_the_repo_holds_and_stays_in_step(
    index: Index, before: Any, after: Any, ops: list[dict[str, Any]]
) -> None:
    author = Author()
    first = proven(author.commit(1, {} if before is None else {CHECK: before}))
    second = proven(told(author, before, after, ops))
    await index.apply_each(first, second)
    row = await index.row("verifications", f"at://{ALICE}/{CHECK}")
    assert (row and row["cid"]) == (None if after is None else cid_text(block(after)))
    assert (await index.repo())["sync"] == "synchronized"


@ALL
def test_commits_of_the_old_form_are_read_by_their_last_operation_too(
    before: Any, after: Any, ops: list[dict[str, Any]]
) -> None:
    event = decode(told(written(before), before, after, ops), COLLECTIONS, {ALICE})
    assert isinstance(event, Commit)
    old = event._replace(prev_data=None, ops=tuple(op._replace(prev=None) for op in event.ops))
    commit = verify_commit(old, COLLECTIONS.__contains__, Author.key.did_key, NOW)
    assert isinstance(commit, VerifiedCommit)
    [write] = [write for write in commit.writes if write.rkey == "3k"]
    assert write.cid == (None if after is None else cid_text(block(after)))


# --- what a relay could make of it ---


def test_a_deletion_that_is_made_up_behind_an_update_is_not_proven() -> None:
    author = written(A)
    body = author.commit_body(2, {CHECK: B})
    made_up = [*body["ops"], op("delete", None, A)]
    change = proven(frame("#commit", {**body, "ops": made_up}))
    assert isinstance(change, Rejected)
    assert change.reason == "bad_tree"


@pytest.mark.parametrize("changes", [{OTHER: B}, {OTHER: B, CHECK: B}])
def test_a_record_that_stands_there_did_not_come_and_go(changes: dict[str, Any]) -> None:
    author = written(A)
    body = author.commit_body(2, changes)
    others = [op for op in body["ops"] if op["path"] != CHECK]
    change = proven(frame("#commit", {**body, "ops": [*others, op("create", C), op("delete")]}))
    assert isinstance(change, Rejected)
    assert change.reason in ("bad_tree", "missing_block")


def test_a_deletion_that_does_not_say_what_it_deleted_is_not_proven() -> None:
    author = written(A)
    change = proven(told(author, A, None, [op("delete")]))
    assert isinstance(change, Rejected)
    assert change.reason == "bad_tree"
