"""A commit counts when its blocks, its commit object and its records are what it says."""

from typing import Any

import libipld
import pytest

from indexer.proof.car import read_car
from indexer.proof.verify import verify_commit, verify_sync
from indexer.records import MAX_RECORD
from indexer.stream.decode import decode
from indexer.stream.events import Commit, Rejected, Sync, VerifiedCommit, VerifiedSync
from tests.support.frames import (
    ALICE,
    COLLECTIONS,
    NOW,
    SPACE,
    VERIFICATION,
    Author,
    block,
    car,
    cid_of,
    frame,
    space,
    tid,
    tree,
    verification,
)

PATH = f"{SPACE}/garden"
MINUTE = 60_000  # ms


def check(body: dict[str, Any], now: int = NOW) -> VerifiedCommit | Rejected:
    event = decode(frame("#commit", body), COLLECTIONS, {ALICE})
    assert isinstance(event, Commit)
    return verify_commit(event, COLLECTIONS.__contains__, Author.key.did_key, now)


def reason(verified: VerifiedCommit | VerifiedSync | Rejected) -> str:
    assert isinstance(verified, Rejected)
    assert (verified.seq, verified.did) == (1, ALICE)
    assert verified.rev is not None
    return verified.reason


def rebuilt(body: dict[str, Any], commit: dict[str, Any], *blocks: bytes) -> dict[str, Any]:
    """Return the body with this commit object, in a sound CAR with these blocks."""
    data = block(commit)
    return {**body, "commit": cid_of(data), "blocks": car(cid_of(data), [data, *blocks])}


def test_a_sound_commit_gives_its_writes_to_our_collections_and_its_place() -> None:
    author = Author()
    author.commit(0, {PATH: space()})
    since, prev, before = author.rev, author.records[PATH], author.data
    changes = {
        PATH: None,
        "app.bsky.feed.post/3k": {"$type": "app.bsky.feed.post"},
        f"{VERIFICATION}/3k": verification(),
    }

    commit = check(author.commit_body(1, changes))

    assert isinstance(commit, VerifiedCommit)
    assert (commit.did, commit.rev, commit.since) == (ALICE, author.rev, since)
    assert (commit.data, commit.prev_data) == (text(author.data), text(before))
    deleted, created = commit.writes
    assert (deleted.action, deleted.collection, deleted.rkey) == ("delete", SPACE, "garden")
    assert (deleted.cid, deleted.prev, deleted.block) == (None, text(prev), None)
    assert (created.action, created.prev) == ("create", None)
    assert created.cid == text(author.records[f"{VERIFICATION}/3k"])
    assert created.block == block(verification())


def text(cid: bytes | None) -> str:
    assert cid is not None
    return libipld.encode_cid(cid)


def test_an_empty_commit_is_sound() -> None:
    commit = check(Author().commit_body(1, {}))
    assert isinstance(commit, VerifiedCommit)
    assert commit.writes == ()


def test_a_block_twice_does_no_harm() -> None:
    body = Author().commit_body(1, {PATH: space()})
    twice = car(body["commit"], [])
    body["blocks"] += body["blocks"][len(twice) :]
    assert isinstance(check(body), VerifiedCommit)


def test_a_flipped_bit_in_any_block_is_a_bad_block() -> None:
    author = Author()
    body = author.commit_body(1, {PATH: space()})
    for data in (block(space()), author.rev and author.rev.encode(), body["ops"][0]["cid"][4:]):
        place = body["blocks"].rindex(data) + 3
        flipped = bytearray(body["blocks"])
        flipped[place] ^= 4
        assert reason(check({**body, "blocks": bytes(flipped)})) == "bad_block"


@pytest.mark.parametrize("cut", [0, 1, 30, 58, 59, 100, -1])
def test_a_cut_car_is_a_bad_car_or_lacks_a_block(cut: int) -> None:
    body = Author().commit_body(1, {PATH: space()})
    body["blocks"] = body["blocks"][:cut]
    assert reason(check(body)) in ("bad_car", "missing_block")


def test_another_root_than_the_message_names_is_a_bad_commit() -> None:
    body = Author().commit_body(1, {PATH: space()})
    body["commit"] = cid_of(block(space()))
    assert reason(check(body)) == "bad_commit"


def test_the_commit_object_has_to_be_in_the_car() -> None:
    body = Author().commit_body(1, {PATH: space()})
    body["blocks"] = car(body["commit"], [block(space())])
    assert reason(check(body)) == "missing_block"


def test_a_deletion_that_the_tree_does_not_show_is_not_taken_from_a_host_of_old() -> None:
    author = Author()
    posts = {f"app.bsky.feed.post/{n:03}": {"n": n} for n in range(200)}
    author.commit(0, {**posts, PATH: space(), f"{VERIFICATION}/3k": verification()})
    body = author.commit_body(1, {"app.bsky.feed.post/3k": {}})
    root, blocks = read_car(body["blocks"])
    lie = {"action": "delete", "path": f"{VERIFICATION}/3k", "cid": None}
    top = libipld.decode_dag_cbor(blocks[root])["data"]
    del body["prevData"]
    body |= {"ops": [lie], "blocks": car(root, [blocks[root], blocks[top]])}
    assert reason(check(body)) == "missing_block"


def test_each_record_has_to_be_in_the_car_ours_or_not() -> None:
    author = Author()
    body = author.commit_body(1, {PATH: space(), "app.bsky.feed.post/3k": {"text": "hi"}})
    commit = author.commit_object(str(author.rev), author.data or b"")
    ours, other, nodes = block(space()), block({"text": "hi"}), tree(author.records)
    assert isinstance(check(rebuilt(body, commit, *nodes, ours, other)), VerifiedCommit)
    assert reason(check(rebuilt(body, commit, *nodes, ours))) == "missing_block"
    assert reason(check(rebuilt(body, commit, *nodes, other))) == "missing_block"


WRONG = {
    "another did": {"did": "did:plc:" + "z" * 24},
    "no did": {"did": None},
    "another rev": {"rev": tid(99)},
    "version 2": {"version": 2},
    "version as text": {"version": "3"},
    "data as text": {"data": "bafyreib"},
    "data of a raw block": {"data": b"\x01\x55\x12\x20" + bytes(32)},
    "no data": {"data": None},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG)
def test_a_commit_object_that_says_otherwise_is_a_bad_commit(fields: dict[str, Any]) -> None:
    author = Author()
    body = author.commit_body(1, {PATH: space()})
    commit = {**author.commit_object(str(author.rev), author.data or b""), **fields}
    assert reason(check(rebuilt(body, commit, block(space())))) == "bad_commit"


@pytest.mark.parametrize("data", [b"\x80", b"\xff", b"", b"\x81" * 100_000])
def test_a_commit_object_that_is_no_map_is_a_bad_commit(data: bytes) -> None:
    body = Author().commit_body(1, {PATH: space()})
    body = {**body, "commit": cid_of(data), "blocks": car(cid_of(data), [data])}
    assert reason(check(body)) == "bad_commit"


def test_a_rev_six_minutes_ahead_is_rejected_and_one_of_four_minutes_is_not() -> None:
    author = Author()
    body = author.commit_body(1, {PATH: space()})
    ahead = {}
    for minutes in (4, 6):
        rev = tid(0, NOW + minutes * MINUTE)
        commit = author.commit_object(rev, author.data or b"")
        sound = rebuilt(body, commit, *tree(author.records), block(space()))
        ahead[minutes] = check({**sound, "rev": rev})
    assert isinstance(ahead[4], VerifiedCommit)
    assert reason(ahead[6]) == "future_rev"


UNREADABLE = {
    "no map": block([1]),
    "a number": block(1),
    "no CBOR": b"\xff",
    "nothing": b"",
    "large": block(space(x="y" * MAX_RECORD)),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_a_record_that_can_not_be_read_spoils_itself_but_not_its_commit(data: bytes) -> None:
    commit = check(Author().commit_body(1, {PATH: data, f"{VERIFICATION}/3k": verification()}))
    assert isinstance(commit, VerifiedCommit)
    unreadable, sound = commit.writes
    assert (unreadable.action, unreadable.block) == ("create", data)
    assert unreadable.cid == text(cid_of(data))
    assert sound.block == block(verification())


def sync(body: dict[str, Any], now: int = NOW) -> VerifiedSync | Rejected:
    event = decode(frame("#sync", body), COLLECTIONS, {ALICE})
    assert isinstance(event, Sync)
    return verify_sync(event, Author.key.did_key, now)


def test_a_sync_gives_the_root_that_its_commit_object_names() -> None:
    author = Author()
    author.commit(0, {PATH: space()})
    assert sync(author.sync_body(1)) == VerifiedSync(1, ALICE, str(author.rev), text(author.data))


def test_a_sync_is_checked_like_a_commit() -> None:
    author = Author()
    author.commit(0, {PATH: space()})
    body = author.sync_body(1)
    flipped = bytearray(body["blocks"])
    flipped[-1] ^= 1
    assert reason(sync({**body, "blocks": bytes(flipped)})) == "bad_block"
    assert reason(sync({**body, "blocks": body["blocks"][:-1]})) == "bad_car"
    assert reason(sync({**body, "blocks": b""})) == "bad_car"
    assert reason(sync({**body, "rev": tid(99)})) == "bad_commit"
    root = cid_of(b"\xa0")
    assert reason(sync({**body, "blocks": car(root, [])})) == "missing_block"
    other = Author("did:plc:" + "z" * 24).sync_body(1, rev=body["rev"])
    assert reason(sync({**body, "blocks": other["blocks"]})) == "bad_commit"
    ahead = author.sync_body(1, rev=tid(0, NOW + 6 * MINUTE))
    assert reason(sync(ahead)) == "future_rev"
