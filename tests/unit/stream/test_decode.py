"""Any bytes become an event; a known message is taken only with sound fields."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indexer.stream.decode import MAX_OPS, decode
from indexer.stream.events import (
    Account,
    Commit,
    Event,
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
    cid_of,
    error_frame,
    foreign_commit,
    frame,
    identity_frame,
    info_frame,
    space,
    tid,
)

PATH = f"{SPACE}/garden"
CID = cid_of(b"\xa0")
Change = Callable[[dict[str, Any]], object]


def read(data: bytes, *tracked: str) -> Event:
    return decode(data, COLLECTIONS, set(tracked))


def commit_body(**fields: Any) -> dict[str, Any]:
    return {**Author().commit_body(7, {PATH: space()}), **fields}


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


def test_a_commit_of_our_collections_comes_with_all_that_it_claims() -> None:
    author = Author()
    author.commit(6, {PATH: space()})
    since, prev_data, prev = author.rev, author.data, author.records[PATH]
    body = author.commit_body(7, {PATH: space(name="Yard"), "app.bsky.feed.post/3k": {}})

    event = read(frame("#commit", body))

    assert isinstance(event, Commit)
    assert (event.seq, event.time, event.repo) == (7, TIME, ALICE)
    assert (event.rev, event.since, event.prev_data) == (author.rev, since, prev_data)
    assert (event.commit, event.blocks) == (body["commit"], body["blocks"])
    ours, other = event.ops
    assert (ours.action, ours.path, ours.cid) == ("update", PATH, author.records[PATH])
    assert (ours.prev, other.action, other.prev) == (prev, "create", None)


def test_a_commit_of_our_collections_is_found_behind_other_ops() -> None:
    changes: dict[str, Any] = {f"app.bsky.feed.post/{n}": {} for n in range(MAX_OPS - 1)} | {
        PATH: space()
    }
    event = read(Author().commit(1, changes))
    assert isinstance(event, Commit)
    assert len(event.ops) == MAX_OPS


def test_a_commit_that_concerns_nobody_is_skipped_with_its_place() -> None:
    assert read(foreign_commit(9)) == Skipped(9, TIME, "other_collection")


def test_a_commit_of_a_tracked_repo_always_concerns_us() -> None:
    assert isinstance(read(foreign_commit(9), BOB), Commit)
    assert isinstance(read(Author(BOB).commit(9, {}), BOB), Commit)


def test_a_collection_that_only_begins_like_ours_is_not_ours() -> None:
    body = Author().commit_body(1, {f"{SPACE}x/garden": {}, f"{SPACE}.gate/garden": {}})
    assert read(frame("#commit", body)) == Skipped(1, TIME, "other_collection")


def test_a_commit_of_an_old_host_has_no_prev_data_and_no_prev() -> None:
    event = read(frame("#commit", without(commit_body(), "prevData")))
    assert isinstance(event, Commit)
    assert event.prev_data is None
    assert event.ops[0].prev is None


def op(**fields: Any) -> dict[str, Any]:
    return {"ops": [{"action": "create", "path": PATH, "cid": CID, **fields}]}


MALFORMED = {
    "rev that is no TID": {"rev": "3"},
    "rev that is a number": {"rev": 3},
    "rev in upper case": {"rev": tid(1).upper()},
    "since that is no TID": {"since": "yesterday"},
    "since that is a number": {"since": 1},
    "prevData as text": {"prevData": "bafyreib"},
    "prevData of a raw block": {"prevData": b"\x01\x55\x12\x20" + bytes(32)},
    "prevData cut": {"prevData": CID[:-1]},
    "commit missing": {"commit": None},
    "commit of another hash": {"commit": b"\x01\x71\x13\x40" + bytes(64)},
    "blocks as text": {"blocks": "no"},
    "blocks missing": {"blocks": None},
    "blocks over 2 MB": {"blocks": bytes(2_000_001)},
    "repo that is no DID": {"repo": "alice.test"},
    "repo that is a number": {"repo": 1},
    "time that is missing in a skipped one": {"time": None, "rev": "3"},
    "201 ops": {
        "ops": [{"action": "create", "path": f"{SPACE}/{n}", "cid": CID} for n in range(201)]
    },
    "an op that is a list": {"ops": [op()["ops"][0], []]},
    "an op without a path": {"ops": [op()["ops"][0], {"action": "delete", "cid": None}]},
    "a path that is a number": {"ops": [op()["ops"][0], {"action": "delete", "path": 1}]},
    "an unknown action": op(action="upsert"),
    "an action that is a list": op(action=["create"]),
    "no action": op(action=None),
    "a create without a CID": op(cid=None),
    "a delete with a CID": op(action="delete"),
    "a CID as text": op(cid="bafyreib"),
    "a CID of a raw block": op(cid=b"\x01\x55\x12\x20" + bytes(32)),
    "a prev that is no CID": op(prev=b"short"),
    "a path without a record key": op(path=SPACE),
    "a path with an empty record key": op(path=f"{SPACE}/"),
    "a record key with a slash": op(path=f"{PATH}/x"),
    "a record key of dots": op(path=f"{SPACE}/.."),
    "a record key of 513": op(path=f"{SPACE}/{'x' * 513}"),
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_a_commit_with_one_wrong_field_is_malformed_and_keeps_its_place(
    fields: dict[str, Any],
) -> None:
    event = read(frame("#commit", commit_body(**fields)), ALICE)
    assert isinstance(event, Rejected)
    assert (event.seq, event.reason) == (7, "malformed")


def test_an_op_of_another_collection_has_to_be_sound_too() -> None:
    ours = op()["ops"][0]
    for path in ("post/3k", "app.bsky.feed.post", "app..post/3k"):
        event = read(frame("#commit", commit_body(ops=[ours, {**ours, "path": path}])))
        assert isinstance(event, Rejected)


def test_a_malformed_commit_tells_whose_it_claims_to_be_and_its_rev() -> None:
    body = commit_body(commit=b"")
    event = read(frame("#commit", body))
    assert event == Rejected(7, TIME, "malformed", ALICE, body["rev"])
    event = read(frame("#commit", commit_body(rev="3")))
    assert event == Rejected(7, TIME, "malformed", ALICE, None)


def test_a_commit_is_of_its_repo_whatever_else_it_names() -> None:
    event = read(frame("#commit", commit_body(did=BOB)))
    assert isinstance(event, Commit)
    assert event.repo == ALICE


@pytest.mark.parametrize("ops", [None, 1, "x", {"path": PATH}, b"x", [[]], [1]])
def test_ops_that_are_no_list_of_maps_are_malformed(ops: Any) -> None:
    event = read(frame("#commit", commit_body(ops=ops)), ALICE)
    assert event == Rejected(7, TIME, "malformed", ALICE, tid(1))
    event = read(frame("#commit", commit_body(ops=ops)))
    assert event == Rejected(7, TIME, "malformed", None, tid(1))  # nobody that we know


@pytest.mark.parametrize("ops", ["", b"", {}])
def test_ops_that_are_empty_but_no_list_say_nothing_worse_than_no_ops(ops: Any) -> None:
    assert isinstance(read(frame("#commit", commit_body(ops=ops)), ALICE), Commit | Rejected)


BAD_SEQS = [None, "7", True, 7.0, -1, 2**63, 2**64 - 1, b"7", [7]]


@pytest.mark.parametrize("seq", BAD_SEQS)
@pytest.mark.parametrize("kind", ["#commit", "#sync", "#account", "#identity", "#later"])
def test_a_frame_without_a_sound_seq_has_no_place_in_the_stream(kind: str, seq: Any) -> None:
    author = Author()
    body = {**commit_body(), **author.sync_body(1), **author.account_body(1, active=True)}
    event = read(frame(kind, {**body, "seq": seq}), ALICE)
    assert isinstance(event, Skipped if kind == "#later" else Rejected)
    assert event.seq is None


@pytest.mark.parametrize("kind", ["#commit", "#sync", "#account", "#identity"])
def test_a_frame_that_lacks_its_seq_has_no_place_in_the_stream(kind: str) -> None:
    author = Author()
    body = {**commit_body(), **author.sync_body(1), **author.account_body(1, active=True)}
    event = read(frame(kind, without(body, "seq")), ALICE)
    assert isinstance(event, Rejected)
    assert (event.seq, event.reason) == (None, "malformed")


def test_the_largest_seq_is_taken() -> None:
    assert read(foreign_commit(2**63 - 1)) == Skipped(2**63 - 1, TIME, "other_collection")
    assert read(foreign_commit(0)) == Skipped(0, TIME, "other_collection")


def test_a_time_that_is_no_text_is_no_time_and_a_long_one_is_cut() -> None:
    event = read(identity_frame(1))
    assert event == Identity(1, TIME, BOB)
    body = {"seq": 1, "did": BOB}
    assert read(frame("#identity", {**body, "time": 5})) == Identity(1, None, BOB)
    event = read(frame("#identity", {**body, "time": "9" * 100_000}))
    assert isinstance(event, Identity)
    assert event.time == "9" * 256


def test_an_account_of_a_tracked_repo_says_whether_it_is_active() -> None:
    author = Author()
    event = read(frame("#account", author.account_body(3, active=False, status="deleted")), ALICE)
    assert event == Account(3, TIME, ALICE, False, "deleted")
    event = read(frame("#account", author.account_body(3, active=True)), ALICE)
    assert event == Account(3, TIME, ALICE, True, None)


def test_a_sync_of_a_tracked_repo_comes_with_its_blocks() -> None:
    body = Author().sync_body(4)
    event = read(frame("#sync", body), ALICE)
    assert event == Sync(4, TIME, ALICE, body["rev"], body["blocks"])


def test_accounts_and_syncs_of_untracked_repos_are_skipped() -> None:
    skipped = Skipped(3, TIME, "untracked_repo")
    assert read(frame("#account", Author().account_body(3, active=True))) == skipped
    assert read(frame("#sync", Author().sync_body(3))) == skipped


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("#account", {"active": 1}),
        ("#account", {"active": None}),
        ("#account", {"active": "true"}),
        ("#sync", {"rev": "3"}),
        ("#sync", {"rev": None}),
        ("#sync", {"blocks": None}),
        ("#sync", {"blocks": bytes(2_000_001)}),
    ],
)
def test_an_account_or_sync_with_a_wrong_field_is_malformed(
    kind: str, fields: dict[str, Any]
) -> None:
    author = Author()
    body = {**author.sync_body(5), **author.account_body(5, active=True), **fields}
    event = read(frame(kind, body), ALICE)
    assert isinstance(event, Rejected)
    assert (event.seq, event.reason, event.did) == (5, "malformed", ALICE)


@pytest.mark.parametrize("did", [None, 1, "alice.test", "did:", "did:plc:a/b", ["x"]])
@pytest.mark.parametrize("kind", ["#account", "#identity", "#sync"])
def test_a_did_that_is_none_is_malformed_and_names_nobody(kind: str, did: Any) -> None:
    event = read(frame(kind, {"seq": 5, "time": TIME, "did": did}), ALICE)
    assert event == Rejected(5, TIME, "malformed", None)


def test_an_unknown_type_is_skipped_with_its_place_if_it_has_one() -> None:
    assert read(frame("#later", {"seq": 5, "time": TIME})) == Skipped(5, TIME, "unknown_type")
    assert read(frame("#later", {"x": 1})) == Skipped(None, None, "unknown_type")
    assert read(frame("com.example.x#y", {"seq": 5})) == Skipped(5, None, "unknown_type")


@pytest.mark.parametrize("header", [{"op": 2}, {"op": 1}, {"op": "x", "t": "#commit"}])
def test_an_unknown_op_of_the_header_is_skipped(header: dict[str, Any]) -> None:
    event = read(block(header) + block({"seq": 5, "time": TIME}))
    assert event == Skipped(5, TIME, "unknown_type")


def test_an_error_frame_ends_the_stream_with_a_name() -> None:
    assert read(error_frame("FutureCursor", "no")) == StreamError("FutureCursor", "no")
    assert read(block({"op": -1}) + block({})) == StreamError("Unknown", None)
    long = read(error_frame("X" * 10_000, "y" * 10_000))
    assert long == StreamError("X" * 256, "y" * 256)


def test_an_info_has_no_place_in_the_stream() -> None:
    assert read(info_frame("OutdatedCursor", "old")) == Info("OutdatedCursor", "old")
    assert read(frame("#info", {"name": 5})) == Info("Unknown", None)


NOISE = {
    "nothing": b"",
    "one item": block({"op": 1, "t": "#commit"}),
    "three items": foreign_commit(1) + b"\xa0",
    "a body that is a list": block({"op": 1, "t": "#account"}) + b"\x80",
    "an error body that is a number": block({"op": -1}) + b"\x01",
    "a header that is a list": b"\x80" + b"\xa0",
    "a header without op": block({"t": "#commit"}) + b"\xa0",
    "an op that no one can hash": block({"op": [], "t": "#commit"}) + b"\x80",
    "text": b'{"op": 1, "t": "#commit"}',
    "cut": foreign_commit(1)[:-5],
    "a commit that is a list": block({"op": 1, "t": "#commit"}) + b"\x80",
    "an array of 2^64": b"\x9b" + b"\xff" * 8,
    "a map of 2^64": b"\xbb" + b"\xff" * 8,
    "a string of 2^64": b"\x7b" + b"\xff" * 8,
    "bytes of 2^31": b"\x5a\x7f\xff\xff\xff",
    "nested arrays": b"\x81" * 1_000_000,
    "nested maps": b"\xa1\x61a" * 500_000,
    "nested in a body": block({"op": 1, "t": "#commit"}) + b"\xa1\x63ops" + b"\x81" * 1_000_000,
    "a million items": b"\x00" * 1_000_000,
    "a tag that is no CID": b"\xd8\x2a\x43\x00\x01\x02",
    "a number that is none": b"\xfb\x7f\xf8" + bytes(6),
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_noise_is_malformed_and_is_told_quickly(noise: bytes) -> None:
    began = time.perf_counter()
    event = read(noise, ALICE)
    assert isinstance(event, Rejected)
    assert event.reason == "malformed"
    assert time.perf_counter() - began < 1.0


def only_events(data: bytes) -> None:
    assert isinstance(decode(data, COLLECTIONS, {ALICE}), Event)


# What a hostile host can say in DAG-CBOR; text without lone surrogates, as CBOR has it.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=40)
    | TEXT
    | st.sampled_from([ALICE, PATH, tid(1), CID, "create", "delete", "update"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
KINDS = st.sampled_from(["#commit", "#sync", "#account", "#identity", "#info", "#new", None, 1])
FIELDS = st.sampled_from(
    [
        "seq",
        "time",
        "did",
        "repo",
        "rev",
        "since",
        "prevData",
        "commit",
        "ops",
        "blocks",
        "active",
        "status",
        "name",
        "message",
    ]
)
OPS = st.lists(
    st.dictionaries(st.sampled_from(["action", "path", "cid", "prev"]), VALUES, max_size=4)
)


@given(st.binary(max_size=200))
@example(b"\xa1\x62op\x01\xa0")
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_event(data: bytes) -> None:
    only_events(data)


@given(
    st.fixed_dictionaries({}, optional={"op": VALUES | st.sampled_from([1, -1]), "t": KINDS}),
    VALUES | st.dictionaries(FIELDS, VALUES),
)
@settings(max_examples=400, deadline=None)
def test_any_two_items_are_an_event(header: Any, body: Any) -> None:
    only_events(block(header) + block(body))


@given(KINDS, st.dictionaries(FIELDS, VALUES), st.none() | OPS, st.sets(FIELDS, max_size=2))
@settings(max_examples=400, deadline=None)
def test_a_sound_frame_with_some_fields_changed_or_gone_is_an_event(
    kind: Any, changes: dict[str, Any], ops: Any, gone: set[str]
) -> None:
    author = Author()
    body = {**commit_body(), **author.sync_body(7), **author.account_body(7, active=True)}
    body = {**body, **changes, **({} if ops is None else {"ops": ops})}
    for name in gone:
        body.pop(name, None)
    only_events(block({"op": 1, "t": kind}) + block(body))


@given(st.integers(0), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_sound_frame_with_one_byte_changed_is_an_event(place: int, to: int) -> None:
    data = bytearray(Author().commit(7, {PATH: space()}))
    data[place % len(data)] = to
    only_events(bytes(data))
