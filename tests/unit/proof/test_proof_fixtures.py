"""Commits of real repos are proven, and with any one thing changed they are not.

The vectors were made with the reference implementation: see `tests/vectors`.
"""

from random import Random

import pytest

from indexer.proof.verify import verify_commit, verify_sync
from indexer.stream.decode import decode
from indexer.stream.events import Commit, Rejected, Sync, VerifiedCommit, VerifiedSync
from tests.support.account_keys import Key
from tests.support.frames import COLLECTIONS, NOW
from tests.vectors import RepoVectors, load
from tests.vectors.forge import forgeries
from tests.vectors.mutate import STRANGER, mutations

SEED = 20_261_121


def prove(frame: bytes, did: str, key: str) -> object:
    """Return what becomes of a frame, as the consumer would have it."""
    event = decode(frame, COLLECTIONS, {did, STRANGER})
    match event:
        case Commit():
            return verify_commit(event, COLLECTIONS.__contains__, key, NOW)
        case Sync():
            return verify_sync(event, key, NOW)
    return event


@pytest.fixture(params=load(), ids=lambda vectors: vectors.name)
def repo(request: pytest.FixtureRequest) -> RepoVectors:
    vectors: RepoVectors = request.param
    return vectors


def test_every_commit_of_the_reference_implementation_is_proven(repo: RepoVectors) -> None:
    rev, data = None, None
    for frame in repo.frames:
        change = prove(frame.data, repo.did, repo.key)
        if frame.kind == "old_commit" and isinstance(change, Rejected):
            # A host of old sends new nodes only: a deletion may leave none that show it.
            assert change.reason == "missing_block", frame.note
            event = decode(frame.data, COLLECTIONS, {repo.did})
            assert isinstance(event, Commit)
            assert "delete" in {op.action for op in event.ops}
            rev = change.rev
            continue
        assert isinstance(change, VerifiedCommit | VerifiedSync), frame.note
        if isinstance(change, VerifiedCommit):
            # And they are a chain: each says which state it changed.
            assert change.since == rev
            assert frame.kind == "old_commit" or change.prev_data == data
        rev, data = change.rev, change.data


def test_every_mutated_commit_is_rejected_for_a_reason_that_is_right(repo: RepoVectors) -> None:
    rng, key = Random(SEED), repo.signing_key()
    count = 0
    for frame in repo.frames:
        if frame.kind != "commit":
            continue
        for mutation in mutations(frame.data, key, rng):
            change = prove(mutation.frame, repo.did, repo.key)
            reason = change.reason if isinstance(change, Rejected) else change
            assert reason in mutation.reasons, f"{frame.note}: {mutation.name}: {change}"
            count += 1
    assert count > 100 or repo.name.startswith("upgraded")


@pytest.mark.parametrize("key", [Key.k256(), Key.p256()], ids=["k256", "p256"])
def test_a_well_signed_commit_of_a_malformed_tree_is_rejected(key: Key) -> None:
    did = "did:plc:" + "f" * 24
    for forgery in forgeries(did, key):
        change = prove(forgery.frame, did, key.did_key)
        assert isinstance(change, Rejected), forgery.name
        assert change.reason in forgery.reasons, forgery.name


def test_another_accounts_key_proves_nothing(repo: RepoVectors) -> None:
    stranger = Key.k256().did_key
    for frame in repo.frames[:20]:
        change = prove(frame.data, repo.did, stranger)
        assert isinstance(change, Rejected)
        assert change.reason == "bad_signature"
