"""Whatever bytes come in a frame, what can be told of it is told: its place, and whose it is."""

import time
from typing import Any

import pytest

from indexer.cbor import has_more_values, skim
from indexer.stream.decode import LARGE, MAX_VALUES, decode
from indexer.stream.events import (
    Account,
    Commit,
    Identity,
    Info,
    Rejected,
    Skipped,
    StreamError,
    Sync,
)
from tests.support.frames import (
    ALICE,
    BOB,
    COLLECTIONS,
    SPACE,
    TIME,
    Author,
    block,
    foreign_commit,
    frame,
    identity_frame,
    info_frame,
    space,
    tid,
)

BAD_TIME = (b"\x64time\x78\x18" + TIME.encode(), b"\x64time\x61\xff")


def read(data: bytes) -> Any:
    return decode(data, COLLECTIONS, {ALICE})


def spoilt(data: bytes) -> bytes:
    """Return a frame whose `time` is one byte, 0xff."""
    assert data.count(BAD_TIME[0]) == 1
    return data.replace(*BAD_TIME)


def ours(seq: int = 7) -> bytes:
    return Author().commit(seq, {f"{SPACE}/garden": space()})


# --- text that is not UTF-8 ---


def test_an_identity_whose_time_is_no_text_keeps_its_place_and_names_a_tracked_repo() -> None:
    event = read(spoilt(identity_frame(9, ALICE)))
    assert event == Rejected(9, "\ufffd", "malformed", ALICE)
    assert event.what == "text that is not UTF-8"
    assert read(spoilt(identity_frame(9, BOB))) == Rejected(9, "\ufffd", "malformed", None)


@pytest.mark.parametrize("kind", ["#commit", "#sync", "#account"])
def test_so_does_every_other_message(kind: str) -> None:
    author = Author()
    commit = author.commit_body(5, {f"{SPACE}/garden": space()})
    bodies = {
        "#commit": commit,
        "#sync": author.sync_body(5),
        "#account": author.account_body(5, active=True),
    }
    rev = None if kind == "#account" else commit["rev"]
    assert read(spoilt(frame(kind, bodies[kind]))) == Rejected(5, "\ufffd", "malformed", ALICE, rev)


def test_what_the_relay_says_of_the_stream_is_heard_although_its_words_are_no_text() -> None:
    garbled = info_frame("OutdatedCursor", "old").replace(b"old", b"ol\xff")
    assert read(garbled) == Info("OutdatedCursor", "ol\ufffd")
    error = block({"op": -1}) + block({"error": "FutureCursor", "message": "no"})
    assert read(error.replace(b"bno", b"b\xffo")) == StreamError("FutureCursor", "\ufffdo")


# --- headers that are written in another way ---

HEADERS = {
    "op first": b"\xa2\x62op\x01\x61t",
    "a number in more bytes": b"\xa2\x61t%b\x62op\x18\x01",
    "a number of eight bytes": b"\xa2\x62op\x1b" + bytes(7) + b"\x01\x61t",
    "a surplus field that no decoder takes": b"\xa3\x62op\x01\x63who\xf9\x3c\x00\x61t",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("kind", ["#commit", "#sync", "#account", "#identity"])
def test_a_header_whose_keys_stand_in_another_order_is_read(kind: str, header: bytes) -> None:
    author = Author()
    bodies = {
        "#commit": author.commit_body(7, {f"{SPACE}/garden": space()}),
        "#sync": author.sync_body(7),
        "#account": author.account_body(7, active=True),
        "#identity": {"seq": 7, "time": TIME, "did": ALICE},
    }
    type_ = bytes((0x60 + len(kind),)) + kind.encode()
    head = header.replace(b"%b", type_) if b"%b" in header else header + type_
    event = read(head + block(bodies[kind]))
    assert isinstance(event, Commit | Sync | Account | Identity)
    assert event == read(frame(kind, bodies[kind]))


def test_a_commit_of_nobody_under_such_a_header_is_skipped() -> None:
    plain = block({"op": 1, "t": "#commit"})
    data = foreign_commit(9).replace(plain, HEADERS["op first"] + b"\x67#commit")
    assert read(data) == Skipped(9, TIME, "other_collection")


@pytest.mark.parametrize(
    "head",
    [
        block({"op": 7}),
        block({"op": 1, "t": "#later"}),
        b"\xa2\x62op\x01\x61t\x66#later",
        b"\xa1\x62op\x18\x07",
        b"\xa2\x62op\x01\x61t\x67#commi\xff",
    ],
)
@pytest.mark.parametrize("body", [block({"seq": 5}), b"\xa2\x63seq\x05\x61x\xf9\x3c\x00"])
def test_an_unknown_op_or_type_is_skipped_with_its_place(head: bytes, body: bytes) -> None:
    assert read(head + body) == Skipped(5, None, "unknown_type")


@pytest.mark.parametrize("body", [b"\x80", b"\x01", b"", b"\xf9\x3c\x00"])
def test_an_unknown_type_with_a_body_that_is_no_map_has_no_place(body: bytes) -> None:
    event = read(block({"op": 1, "t": "#later"}) + body)
    assert isinstance(event, Skipped | Rejected)
    assert event.seq is None


# --- bodies ---


def test_a_body_whose_keys_stand_in_another_order_is_malformed_and_keeps_its_place() -> None:
    did = b"\x63did\x78\x20" + ALICE.encode()
    data = block({"op": 1, "t": "#identity"}) + b"\xa3\x64time\x61x\x63seq\x05" + did
    event = read(data)
    assert event == Rejected(5, "x", "malformed", ALICE)
    assert event.what == "map keys out of order"


def test_of_a_field_that_comes_twice_the_first_counts() -> None:
    event = read(block({"op": 1, "t": "#identity"}) + b"\xa2\x63seq\x05\x63seq\x06")
    assert event == Rejected(5, None, "malformed", None)


def test_a_frame_that_is_cut_tells_what_stands_before_the_cut() -> None:
    data = ours()
    event = read(data[: data.index(b"\x66blocks")])
    assert event == Rejected(7, TIME, "malformed", ALICE, tid(1))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\xff noise", "not DAG-CBOR"),
        (b"", "not DAG-CBOR"),
        (b"hello", "not DAG-CBOR"),
        (block({"op": 1, "t": "#commit"}) + b"\xa1\x63ops" + b"\x81" * 60_000, "nested too deep"),
        (frame("#account", {"did": ALICE}), "no seq"),
        (frame("#identity", {"seq": 1, "did": "nobody"}), "a DID that is none"),
        (frame("#commit", {"seq": 1, "ops": [1]}), "a field that is missing, or of another type"),
    ],
)
def test_what_is_wrong_is_said_in_a_few_words(data: bytes, what: str) -> None:
    event = read(data)
    assert isinstance(event, Rejected)
    assert (event.reason, event.what) == ("malformed", what)


# --- counted before it is built ---


@pytest.mark.parametrize(
    "value", [b"\x80", b"\xa0", b"\x60", b"\x01", b"\x81\x80", b"\xa1\x60\x80"]
)
@pytest.mark.parametrize("field", [b"\x63ops", b"\x65blobs"])
def test_a_frame_of_5_mb_of_tiny_values_is_told_by_a_few_of_them(
    field: bytes, value: bytes
) -> None:
    count = 4_900_000 // len(value)
    many = field + b"\x9a" + count.to_bytes(4) + value * count
    data = block({"op": 1, "t": "#commit"}) + b"\xa2\x63seq\x05" + many
    began = time.perf_counter()
    event = read(data)
    assert event == Rejected(5, None, "malformed", None)
    assert event.what == f"more than {MAX_VALUES:,} values"
    assert time.perf_counter() - began < 0.5  # 0.01; to build them takes seconds


def test_the_largest_commit_that_may_be_is_taken() -> None:
    changes: dict[str, Any] = {f"{SPACE}/{n:03}": space(name="x" * 600) for n in range(200)}
    data = Author().commit(7, changes)
    assert len(data) > LARGE
    assert isinstance(read(data), Commit)


def test_heads_are_believed_before_what_they_head() -> None:
    assert has_more_values(b"\x9a\x00\x01\x00\x00", 10)
    assert has_more_values(b"\xba\x00\x01\x00\x00", 10)
    assert not has_more_values(b"\x8a" + b"\x01" * 10, 11)
    assert has_more_values(b"\x8a" + b"\x01" * 10, 10)
    assert not has_more_values(b"\x5a\x7f\xff\xff\xff" + bytes(99), 10)


def test_a_skim_ends_where_it_makes_no_sense() -> None:
    deep = block({"op": 1}) + b"\xa2\x61a" + b"\x81" * 1_000_000 + b"\x63seq\x05"
    assert skim(deep).body == {}
    assert skim(b"\xa1\x62op\x01" + b"\xa1\x63seq\x3b" + b"\xff" * 8).body == {"seq": -(2**64)}
    assert skim(b"\x80").body_at is None
