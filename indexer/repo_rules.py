"""What an event does to what is known of its repo: how far it is known, and how it is hosted.

Every function changes a `Slice`, or returns the state of a repo that follows from another.
"""

import libipld

from indexer.events import Account, Rejected, VerifiedCommit, VerifiedSync
from indexer.mst_node import EMPTY_ROOT
from indexer.repo import Contents
from indexer.slice import Slice
from indexer.store.repos import Repo, hosting_of
from indexer.syntax import format_datetime, parse_datetime

_NOTHING = (None, libipld.encode_cid(EMPTY_ROOT))  # what `prev_data` is of a repo's first commit


def advance(part: Slice, commit: VerifiedCommit, relay: str) -> bool:
    """Let a repo stand at a commit that is newer; return whether its writes are to be applied."""
    repo = _repo(part, commit.did, commit, relay)
    is_newer = repo.rev is None or commit.rev > repo.rev
    if not is_newer and repo.sync == "synchronized":
        return False  # played again: a repo that is complete up to its rev has nothing to learn
    if repo.whole_rev is not None and commit.rev <= repo.whole_rev:
        return False  # nor from the time before it came into doubt
    part.put_repo(_advanced(repo, commit) if is_newer else repo)
    return True


def made_whole(repo: Repo, contents: Contents) -> Repo:
    """Return the repo's state after a copy of it was applied."""
    rev = contents.rev
    if repo.rev is None or rev >= repo.rev:
        return repo._replace(
            rev=rev, data=contents.data, sync="synchronized", whole_rev=rev, stretch=rev
        )
    if repo.stretch is not None and rev >= repo.stretch:
        # From the copy on, every commit was seen and applied.
        return repo._replace(sync="synchronized", whole_rev=repo.rev)
    return repo  # the copy is older than the gap


def sync(part: Slice, sync: VerifiedSync) -> None:
    """Let a repo stand where its host says; it is out of step if that is news."""
    repo = part.repo(sync.did)
    known = repo.data == sync.data
    if repo.rev is not None and (sync.rev < repo.rev or (sync.rev == repo.rev and known)):
        return
    state = repo._replace(rev=sync.rev, data=sync.data)
    if known:
        whole_rev = sync.rev if repo.whole_rev == repo.rev else repo.whole_rev
        part.put_repo(state._replace(whole_rev=whole_rev))
    else:
        part.put_repo(state._replace(sync="desynchronized", stretch=sync.rev))


def account(part: Slice, account: Account, relay: str, now: int) -> bool:
    """Note what the host says of an account; return whether that was news."""
    repo = part.repo(account.did)
    if repo.hosting_relay == relay:
        if repo.hosting_seq is not None and account.seq <= repo.hosting_seq:
            return False
    elif repo.hosting_time is not None and _ms(account.time) <= _ms(repo.hosting_time):
        # Two relays' sequences can't be compared, and an account event has no rev: the time is
        # all that is left. It decides what is shown, never what is revoked.
        return False
    hosting = hosting_of(account.active, account.status)
    if hosting == "active" != repo.hosting:
        # Back from wherever it was, it may have changed unseen.
        repo = _doubted(repo)
    elif hosting == "deleted":
        repo = repo._replace(whole_rev=None)  # all of it is purged: if it comes back, it is new
    part.put_repo(
        repo._replace(
            hosting=hosting,
            hosting_relay=relay,
            hosting_seq=account.seq,
            # Not in the future, or no other relay would be heard until then.
            hosting_time=account.time if _ms(account.time) <= now else format_datetime(now),
        )
    )
    return True


def is_deletion(account: Account) -> bool:
    """Whether the account is gone for good, and all that it wrote."""
    return not account.active and account.status == "deleted"


def reject(part: Slice, rejected: Rejected, relay: str) -> None:
    """A repo said something that can't be so: it is to be rebuilt."""
    if rejected.did is None:
        return
    repo = _repo(part, rejected.did, rejected, relay)
    if repo.hosting != "active" and _is_before_hosting(repo, rejected, relay):
        return  # it was put away after that, and is fetched anew if it comes back
    if rejected.rev is None or repo.rev is None or rejected.rev > repo.rev:
        part.put_repo(_doubted(repo))


def _repo(part: Slice, did: str, change: VerifiedCommit | Rejected, relay: str) -> Repo:
    """Return what is known of a repo, or, if that is nothing, what its first frame tells."""
    repo = part.repo(did)
    if repo.rev is not None or repo.hosting_relay is not None:
        return repo
    # A host that sends commits of an account serves it: whatever it said of it before is old.
    return repo._replace(hosting_relay=relay, hosting_seq=change.seq, hosting_time=change.time)


def _advanced(repo: Repo, commit: VerifiedCommit) -> Repo:
    """Return the repo's state after a commit that is newer than it."""
    sync, whole_rev, stretch = repo.sync, repo.whole_rev, repo.stretch
    is_first = commit.since is None and commit.prev_data in _NOTHING
    if repo.rev is None and repo.sync == "pending" and is_first:
        # The repo's first commit: there is nothing older.
        sync, whole_rev, stretch = "synchronized", commit.rev, commit.rev
    elif repo.rev is None:
        stretch = commit.since
    elif commit.since != repo.rev or commit.prev_data not in (None, repo.data):
        sync, stretch = "desynchronized", commit.since
    elif repo.whole_rev == repo.rev:
        whole_rev = commit.rev
    return repo._replace(
        rev=commit.rev, data=commit.data, sync=sync, whole_rev=whole_rev, stretch=stretch
    )


def _is_before_hosting(repo: Repo, rejected: Rejected, relay: str) -> bool:
    """Whether a frame is older than the last word of the same relay on the account."""
    return (
        repo.hosting_relay == relay
        and repo.hosting_seq is not None
        and rejected.seq is not None
        and rejected.seq <= repo.hosting_seq
    )


def _doubted(repo: Repo) -> Repo:
    """Return the repo's state when commits behind its `rev` may have been missed."""
    return repo._replace(sync="desynchronized", stretch=repo.rev)


def _ms(time: str | None) -> int:
    """Return the moment that a relay names, in Unix ms; one that it can't mean is long ago."""
    try:
        return parse_datetime(time or "")
    except ValueError:
        return 0
