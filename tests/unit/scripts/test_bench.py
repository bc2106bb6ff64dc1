"""What `scripts/bench` measures on is right: every commit is proven, and they are a chain."""

import time
from dataclasses import replace

import pytest

from indexer.proof.repo import read_repo
from indexer.proof.verify import verify_commit
from indexer.stream.decode import decode
from indexer.stream.events import Commit, Rejected, VerifiedCommit
from scripts.benchmarks import repo_corpus
from scripts.benchmarks.repo_corpus import Corpus, Size
from tests.support.frames import COLLECTIONS, SCOPE, VERIFICATION

SMALL = Size(repos=3, records=400, commits=100, car_records=900, car_ours=30)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return repo_corpus.make(tmp_path_factory.mktemp("bench"), SMALL)


def events(corpus: Corpus) -> list[Commit]:
    found = [decode(frame, COLLECTIONS, ()) for frame in corpus.frames()]
    commits = [event for event in found if isinstance(event, Commit)]
    assert len(commits) == len(found) == corpus.commits == SMALL.commits
    return commits


def test_every_commit_is_proven_and_follows_the_one_before(corpus: Corpus) -> None:
    keys = {repo.did: repo.key for repo in corpus.repos}
    state = {repo.did: (repo.rev, repo.data) for repo in corpus.repos}
    now = int(time.time() * 1000)
    for seq, event in enumerate(events(corpus), 1):
        commit = verify_commit(event, COLLECTIONS.__contains__, keys[event.repo], now)
        assert isinstance(commit, VerifiedCommit)
        assert commit.seq == seq
        assert (commit.since, commit.prev_data) == state[commit.did]
        state[commit.did] = commit.rev, commit.data
        (write,) = commit.writes
        assert write.action == "create"
        SCOPE.read(write.collection, write.block or b"")
    assert len(state) == SMALL.repos


def test_another_key_proves_nothing(corpus: Corpus) -> None:
    event = events(corpus)[0]
    stranger = next(repo.key for repo in corpus.repos if repo.did != event.repo)
    commit = verify_commit(event, COLLECTIONS.__contains__, stranger, int(time.time() * 1000))
    assert isinstance(commit, Rejected)


def test_the_car_is_a_whole_repo(corpus: Corpus) -> None:
    whole = corpus.whole
    contents = read_repo(corpus.car, whole.did, whole.key, COLLECTIONS)
    assert (contents.rev, contents.data) == (whole.rev, whole.data)
    assert len(contents.records) == SMALL.car_ours
    for path, (_, record) in contents.records.items():
        assert path.startswith(VERIFICATION)
        SCOPE.read(VERIFICATION, record)


def test_a_corpus_is_made_once(corpus: Corpus) -> None:
    made: list[bool] = []
    again = repo_corpus.make(corpus.directory.parent, SMALL, lambda: made.append(True))
    assert (again, made) == (corpus, [])
    assert repo_corpus.make(corpus.directory.parent, replace(SMALL, commits=5)) != corpus
