"""A record counts as standing if the signed commit and the path to it say so, and only then."""

from collections.abc import Callable
from contextlib import suppress

import libipld
import pytest

from indexer.proof.record import StandingRecord, prove_record
from indexer.proof.verify import Unproven
from tests.support.account_keys import Key
from tests.support.frames import (
    ALICE,
    BOB,
    INVITE,
    NOW,
    SPACE,
    Author,
    block,
    car,
    cid_of,
    invite,
    space,
    tid,
    tree,
)

PATH = f"{INVITE}/one"
RECORD = block(invite(f"at://{ALICE}/{SPACE}/garden"))
KEY = Author.key.did_key
OTHERS = {f"app.bsky.feed.post/{n:04}": block({"n": n}) for n in range(300)}


class Repo:
    """A repo with many records, and the parts of the proof of one."""

    def __init__(self, did: str = ALICE, rev: str = tid(5)) -> None:
        records = {path: cid_of(data) for path, data in OTHERS.items()} | {PATH: cid_of(RECORD)}
        self.nodes = tree(records)
        self.commit = block(Author(did).commit_object(rev, cid_of(self.nodes[0])))

    def proof(self, *records: bytes) -> bytes:
        return car(cid_of(self.commit), [self.commit, *self.nodes, *(records or (RECORD,))])


def prove(data: bytes, path: str = PATH, did: str = ALICE, key: str | None = KEY) -> StandingRecord:
    return prove_record(data, did, key, path, NOW)


def refusal(data: bytes, **given: str) -> str:
    with pytest.raises(Unproven) as raised:
        prove(data, **given)
    return raised.value.reason


def test_what_is_proven_is_the_record_as_of_the_commit() -> None:
    found = prove(Repo().proof())
    assert found == StandingRecord(tid(5), libipld.encode_cid(cid_of(RECORD)), RECORD)


def test_each_block_of_the_path_is_needed_and_no_other() -> None:
    repo = Repo()
    needed = []
    for node in repo.nodes:
        rest = [other for other in repo.nodes if other != node]
        data = car(cid_of(repo.commit), [repo.commit, *rest, RECORD])
        with suppress(Unproven):
            assert prove(data).block == RECORD
            continue
        assert refusal(data) == "missing_block"
        needed.append(node)
    assert 1 < len(needed) < 8 < len(repo.nodes)
    assert prove(car(cid_of(repo.commit), [repo.commit, *needed, RECORD])).block == RECORD


CASES: list[tuple[str, str, Callable[[Repo], bytes]]] = [
    ("no bytes", "bad_car", lambda _: b""),
    ("no car", "bad_car", lambda _: b"<html>"),
    ("cut", "bad_car", lambda repo: repo.proof()[:-1]),
    ("a changed record", "bad_block", lambda repo: repo.proof()[:-1] + b"!"),
    ("no record", "missing_block", lambda repo: repo.proof(b"\xa0")),
    ("another root", "missing_block", lambda repo: car(cid_of(b"x"), [repo.commit])),
    ("a node for a root", "bad_commit", lambda repo: car(cid_of(repo.nodes[0]), repo.nodes)),
    ("another account's", "bad_commit", lambda _: Repo(BOB).proof()),
    ("from the future", "future_rev", lambda _: Repo(rev=tid(0, NOW + 600_000)).proof()),
]


@pytest.mark.parametrize(
    ("reason", "make"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_what_is_not_shown_is_not_believed(reason: str, make: Callable[[Repo], bytes]) -> None:
    assert refusal(make(Repo())) == reason


def test_a_proof_of_absence_proves_no_record() -> None:
    for path in (f"{INVITE}/other", f"{INVITE}/-", "a.b.c/d", f"{SPACE}/garden"):
        assert refusal(Repo().proof(), path=path) == "missing_block"


def test_only_the_key_that_the_did_names_will_do() -> None:
    assert refusal(Repo().proof(), key=Key.k256().did_key) == "bad_signature"
    with pytest.raises(Unproven):
        prove(Repo().proof(), key=None)


def test_a_tree_whose_keys_are_out_of_place_is_refused() -> None:
    nodes = tree({PATH: cid_of(RECORD)})
    wrong = block({"l": cid_of(nodes[0]), "e": []})  # a root without keys
    commit = block(Author(ALICE).commit_object(tid(5), cid_of(wrong)))
    assert refusal(car(cid_of(commit), [commit, wrong, *nodes, RECORD])) == "bad_tree"


def test_an_empty_repo_proves_nothing_but_that() -> None:
    nodes = tree({})
    commit = block(Author(ALICE).commit_object(tid(5), cid_of(nodes[0])))
    assert refusal(car(cid_of(commit), [commit, *nodes])) == "missing_block"
    assert prove(Repo().proof()).cid == libipld.encode_cid(cid_of(RECORD))


def test_records_of_one_node_do_not_stand_for_each_other() -> None:
    first = next(iter(OTHERS))
    found = prove(Repo().proof(OTHERS[first], RECORD), path=first)
    assert found.block == OTHERS[first]
    assert refusal(Repo().proof(RECORD), path=first) == "missing_block"


def test_the_space_beside_it_is_of_no_concern() -> None:
    assert prove(Repo().proof(RECORD, block(space()))).block == RECORD
