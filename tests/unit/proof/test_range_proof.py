"""A few blocks around our collections prove what the CAR of the whole repo would, and no less."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.proof import range_proof
from indexer.proof.car import BadBlock, BadCar, read_blocks
from indexer.proof.range_proof import RangeProof
from indexer.proof.repo import BadRepo, Contents, read_repo
from indexer.proof.verify import Unproven
from tests.support.account_keys import Key
from tests.support.frames import (
    COLLECTIONS,
    SPACE,
    VERIFICATION,
    Author,
    block,
    car,
    cid_of,
    section,
    space,
    verification,
)
from tests.support.repo_parts import Parts, repo_of

Answer = Callable[[Iterable[bytes]], dict[bytes, bytes]]

POSTS = "app.bsky.feed.post"
# Ours, their neighbours in the order of keys, and what a hostile owner may write.
NAMES = [
    *sorted(COLLECTIONS), POSTS, "app.bsky.graph.verificatiom", "app.bsky.graph.verificationa",
    "rsvp.atmo.space.a", "rsvp.atmo.space.member", "rsvp.atmo.spacf", "a", "zz",
]  # fmt: skip
VALID = st.text("-.:~_059azAZ", min_size=1, max_size=3).filter(lambda key: key not in (".", ".."))
ANY = st.one_of(VALID, st.text("!+,/-0 a~\x7f", max_size=2))


def paths(keys: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    path = st.builds("{}/{}".format, st.sampled_from(NAMES), keys)
    return st.lists(path, max_size=60, unique=True)


def of_car(parts: Parts, collections: Iterable[str], blocks: Iterable[bytes] | None = None) -> Any:
    """Return what the CAR of the whole repo gives; None if that is refused."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "repo.car"
        file.write_bytes(car(parts.head, parts.blocks.values() if blocks is None else blocks))
        try:
            return read_repo(file, parts.did, parts.key, frozenset(collections))
        except BadRepo:
            return None


def walk(parts: Parts, collections: Iterable[str], answer: Answer, *, by_ways: bool) -> Any:
    """Return what the walk gives with a host that answers so; None if it comes to nothing."""
    proof = RangeProof(parts.did, frozenset(collections))
    asked: list[bytes] = []
    try:
        proof.add(answer(parts.way(proof.first_way) if by_ways else [parts.head]))
        proof.begin(parts.head, parts.key)
        while wanted := proof.wanted():
            ways = wanted.ways if by_ways else {}
            cids = [*wanted.records.values(), *(set(wanted.nodes) - set(ways.values()))]
            asked += cids
            cids += [cid for path in ways for cid in parts.way(path)]
            if not proof.add(answer(cids)):
                return None
        assert len(asked) == len(set(asked)), "a block was asked for twice"
        return proof.contents()
    except BadRepo:
        return None


def honest(parts: Parts) -> Answer:
    return lambda cids: {cid: parts.blocks[cid] for cid in cids}


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    paths(VALID) | paths(ANY),
    st.sets(st.sampled_from(NAMES), min_size=1, max_size=4) | st.just(COLLECTIONS),
    st.booleans(),
)
def test_the_walk_gives_what_the_car_gives(
    written: list[str], collections: set[str], by_ways: bool
) -> None:
    parts = repo_of(Author(), {path: {"path": path} for path in written})
    found = walk(parts, collections, honest(parts), by_ways=by_ways)
    assert found == of_car(parts, collections)
    if all(map(is_valid, written)):
        assert isinstance(found, Contents)
        ours = {path for path in written if path.split("/")[0] in collections}
        assert found.records.keys() == ours


def is_valid(path: str) -> bool:
    rest = path.partition("/")[2]
    return bool(rest) and rest not in (".", "..") and all(c in "-.:~_059azAZ" for c in rest)


@pytest.mark.parametrize("bad", ["", "!", ",", "+", "\x7f", "a/b"])
@pytest.mark.parametrize("by_ways", [True, False])
def test_an_invalid_key_of_ours_is_met_wherever_it_sorts(bad: str, by_ways: bool) -> None:
    records = {f"{POSTS}/{n:03}": {"n": n} for n in range(200)} | {f"{SPACE}/a": space()}
    good = repo_of(Author(), records)
    assert walk(good, COLLECTIONS, honest(good), by_ways=by_ways) is not None
    parts = repo_of(Author(), records | {f"{VERIFICATION}/{bad}": {"x": 1}})
    assert of_car(parts, COLLECTIONS) is None
    assert walk(parts, COLLECTIONS, honest(parts), by_ways=by_ways) is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(paths(VALID), st.sets(st.sampled_from(NAMES), min_size=1), st.booleans(), st.data())
def test_with_a_block_left_out_or_swapped_neither_gives_any(
    written: list[str], collections: set[str], by_ways: bool, data: st.DataObject
) -> None:
    parts = repo_of(Author(), {path: {"path": path} for path in written})
    used: set[bytes] = set()

    def noting(cids: Iterable[bytes]) -> dict[bytes, bytes]:
        wanted = list(cids)
        used.update(wanted)
        return {cid: parts.blocks[cid] for cid in wanted}

    assert walk(parts, collections, noting, by_ways=False) is not None
    victim = data.draw(st.sampled_from(sorted(used)))
    other = data.draw(st.sampled_from(sorted(parts.blocks)))

    def lacking(cids: Iterable[bytes]) -> dict[bytes, bytes]:
        return {cid: parts.blocks[cid] for cid in cids if cid != victim}

    def swapping(cids: Iterable[bytes]) -> dict[bytes, bytes]:
        # The answer is a CAR: that another block stands for the one that was asked for shows.
        sections = [
            section(cid, parts.blocks[other if cid == victim else cid]) for cid in set(cids)
        ]
        return read_blocks(car(parts.head, []) + b"".join(sections))[1]

    rest = [each for cid, each in parts.blocks.items() if cid != victim]
    assert walk(parts, collections, lacking, by_ways=by_ways) is None
    assert of_car(parts, collections, rest) is None
    if other != victim:
        with pytest.raises(BadBlock):
            walk(parts, collections, swapping, by_ways=False)


def test_a_commit_that_the_owner_did_not_sign_is_not_begun_with() -> None:
    parts = repo_of(Author(), {f"{SPACE}/a": space()})
    for did, key in ((parts.did, Key.k256().did_key), ("did:plc:" + "z" * 24, parts.key)):
        proof = RangeProof(did, COLLECTIONS)
        proof.add(parts.blocks)
        with pytest.raises(Unproven):
            proof.begin(parts.head, key)
        with pytest.raises(BadRepo):
            proof.contents()


def large(posts: int = 2_000) -> dict[str, Any]:
    rng = Random(1)
    records: dict[str, Any] = {f"{POSTS}/{rng.randrange(10**9):09}": {"n": n} for n in range(posts)}
    return records | {f"{VERIFICATION}/3k{n}": verification(n=n) for n in range(5)}


def test_five_of_thousands_are_proven_by_few_blocks_in_few_rounds() -> None:
    parts = repo_of(Author(), large())
    rounds: list[list[bytes]] = []

    def counting(cids: Iterable[bytes]) -> Mapping[bytes, bytes]:
        rounds.append(list(cids))
        return {cid: parts.blocks[cid] for cid in rounds[-1]}

    found = walk(parts, COLLECTIONS, counting, by_ways=True)  # type: ignore[arg-type]
    assert len(found.records) == 5
    assert len(rounds) <= 4
    size = sum(len(parts.blocks[cid]) for cid in {cid for cids in rounds for cid in cids})
    assert size < sum(map(len, parts.blocks.values())) / 30


def test_what_is_known_of_an_older_commit_serves_for_a_newer_one() -> None:
    author, records = Author(), large()
    before = repo_of(author, records)
    after = repo_of(author, {f"{VERIFICATION}/3kz": verification()})
    blocks = before.blocks | after.blocks
    proof = RangeProof(author.did, COLLECTIONS)
    proof.add({cid: blocks[cid] for cid in before.way(proof.first_way)})
    assert proof.begin(before.head, before.key)
    while wanted := proof.wanted():
        proof.add({cid: blocks[cid] for cid in [*wanted.nodes, *wanted.records.values()]})
    proof.add({after.head: blocks[after.head]})
    assert proof.begin(after.head, after.key)
    asked = 0
    while wanted := proof.wanted():
        asked += proof.add({cid: blocks[cid] for cid in [*wanted.nodes, *wanted.records.values()]})
    assert len(proof.contents().records) == 6
    assert proof.contents().rev == after.rev
    assert asked <= 12  # the way to what is new, and the record
    assert not proof.begin(before.head, before.key)  # an older one is no news
    assert proof.contents().rev == after.rev


def test_what_is_held_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = repo_of(Author(), {f"{SPACE}/{n}": space(n=n) for n in range(50)})
    assert walk(parts, COLLECTIONS, honest(parts), by_ways=True) is not None
    for name, limit in (("MAX_HELD", 1_000), ("MAX_RECORDS", 40)):
        with monkeypatch.context() as patch:
            patch.setattr(range_proof, name, limit)
            assert walk(parts, COLLECTIONS, honest(parts), by_ways=True) is None


def test_a_record_that_is_too_large_to_be_read_is_named_without_its_bytes() -> None:
    parts = repo_of(Author(), {f"{SPACE}/a": {"x": "x" * 1_030_000}})
    found = walk(parts, COLLECTIONS, honest(parts), by_ways=True)
    assert found == of_car(parts, COLLECTIONS)
    assert found.records[f"{SPACE}/a"][1] == b""


@pytest.mark.parametrize(
    ("others", "ours", "least", "most"),
    [
        (0, 30, 8, 11),  # of 11: the whole is one request, the parts are several
        (10, 2, 0, 11),
        (50, 2, 0, 3),
        (200, 2, 0, 1),
        (2_000, 2, 0, 0),
        (500, 40, 0, 3),
    ],
)
def test_a_small_repo_is_told_by_one_way_down(
    others: int, ours: int, least: int, most: int
) -> None:
    told = 0
    for seed in range(11):
        rng = Random(seed)
        keys = [f"{POSTS}/{rng.randrange(10**9):09}" for _ in range(others)]
        keys += [f"{VERIFICATION}/{rng.randrange(10**9):09}" for _ in range(ours)]
        parts = repo_of(Author(), {key: {} for key in keys})
        proof = RangeProof(parts.did, COLLECTIONS)
        proof.add({cid: parts.blocks[cid] for cid in parts.way(proof.first_way)})
        proof.begin(parts.head, parts.key)
        told += proof.is_better_whole(48)
    assert least <= told <= most


def test_a_subtree_that_stands_in_two_places_is_refused_by_both() -> None:
    author = Author()
    parts = repo_of(author, {f"{SPACE}/{n}": space(n=n) for n in range(20)})
    root = parts.blocks[parts.data]
    twice = block({"l": parts.data, "e": []})  # its layer fits nothing: any of both refuses it
    author.rev, author.data = parts.rev, cid_of(twice)
    commit = block(author.commit_object(parts.rev, author.data))
    forged = Parts(
        parts.did, parts.key, parts.rev, cid_of(commit), author.data, parts.records,
        parts.blocks | {cid_of(twice): twice, cid_of(commit): commit, parts.data: root},
    )  # fmt: skip
    assert of_car(forged, COLLECTIONS) is None
    assert walk(forged, COLLECTIONS, honest(forged), by_ways=False) is None


# --- how hosts write what they answer ---


def test_a_part_of_a_repo_is_read_however_it_is_written() -> None:
    one, two = block({"a": 1}), block({"b": 2})
    both = {cid_of(one): one, cid_of(two): two}
    header = {"version": 1, "roots": []}
    empty = section(cid_of(b"left out"), b"")
    for data, root in (
        (car(b"", [one, two], header), None),
        (car(b"", [two, one], header), None),
        (car(cid_of(one), [two, one]), cid_of(one)),
        (car(b"", [one], header) + empty + section(cid_of(two), two), None),
        (car(b"", [one], header) + b"\x00" + section(cid_of(two), two), None),
        (car(b"", [two, one, two], {"version": 1, "roots": [cid_of(two), cid_of(one)]}),
         cid_of(two)),
    ):  # fmt: skip
        assert read_blocks(data) == (root, both)
    assert read_blocks(car(b"", [], header)) == (None, {})


def test_what_is_no_part_of_a_repo_is_refused() -> None:
    one = block({"a": 1})
    good = car(b"", [one], {"version": 1, "roots": []})
    for bad in (
        b"",
        good[:-1],
        good[:-1] + b"\x00",
        b"<html>" * 20,
        car(b"", [one], {"version": 2, "roots": []}),
        car(b"", [one], {"version": 1, "roots": None}),
        car(b"", [one], {"version": 1, "roots": ["x"]}),
        car(b"", [one], {"version": 1}),
        good + section(cid_of(b"another"), one),
    ):
        with pytest.raises(BadCar):
            read_blocks(bad)
