"""What an event does to what is known of its repo: how far it is known, and how it is hosted.

Every function changes a `Slice`, or returns the state of a repo that follows from another.

How a repo is hosted has no revision, so `_is_outdated` orders what is said of it otherwise: each
word by its stream. It decides what is shown, never what is revoked.
"""

from typing import NamedTuple
from uuid import uuid4

import libipld

from indexer.lexicon.syntax import format_datetime, parse_datetime
from indexer.proof.mst_node import EMPTY_ROOT
from indexer.proof.repo import Contents
from indexer.rules.slice import Slice
from indexer.store.repos import Repo, hosting_of
from indexer.stream.events import Account, Rejected, VerifiedCommit, VerifiedSync

_NOTHING = (None, libipld.encode_cid(EMPTY_ROOT))  # what `prev_data` is of a repo's first commit
MAX_STEP = 300_000  # ms that our clock may be set back without putting what it dated in doubt
_REPLAY = "replay "  # what the name of no relay begins with


class Stream(NamedTuple):
    """Frames in the order of their `seq`: what a relay sends live, or what one replay plays."""

    relay: str  # host[:port]
    name: str  # whose numbers they are: the relay's, or those of this replay alone

    @classmethod
    def live(cls, relay: str) -> "Stream":
        return cls(relay, relay)

    @classmethod
    def replay(cls, relay: str) -> "Stream":
        return cls(relay, f"{_REPLAY}{uuid4()}")

    @property
    def is_live(self) -> bool:
        return self.name == self.relay


def advance(part: Slice, commit: VerifiedCommit, stream: Stream, now: int) -> bool:
    """Let a repo stand at a commit that is newer; return whether its writes are to be applied."""
    repo = _repo(part, commit.did, commit, stream, now)
    if repo.hosting == "deleted" and _is_back(repo, commit, stream, now):
        # It is for its host to say how it is served now; until then it stays hidden.
        repo = _doubted(repo._replace(hosting="inactive"))
        part.put_repo(repo)
    is_newer = repo.rev is None or commit.rev > repo.rev
    if not is_newer and repo.sync == "synchronized":
        return False  # played again: a repo that is complete up to its rev has nothing to learn
    if repo.whole_rev is not None and commit.rev <= repo.whole_rev:
        return False  # nor from the time before it came into doubt
    if is_downgraded(repo, commit):
        if is_newer:
            part.put_repo(_doubted(repo))
        return False
    part.put_repo(_advanced(repo, commit) if is_newer else repo)
    return True


def is_downgraded(repo: Repo, commit: VerifiedCommit) -> bool:
    """Whether a commit does not say which tree it changed, although its repo's do.

    Neither that nor the operations are signed: a relay that takes both away hides a deletion.
    """
    return repo.sends_prev_data and commit.prev_data is None and commit.since is not None


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


def account(part: Slice, account: Account, stream: Stream, now: int) -> bool:
    """Note what the host says of an account; return whether that was news."""
    repo = part.repo(account.did)
    if _is_outdated(repo, account.seq, account.time, stream, now):
        if stream.is_live and repo.hosting_relay != stream.name and not _ms(account.time):
            # Of two relays, which has no time to go by: the account's host is to be asked.
            part.put_repo(_doubted(repo))
        return False
    hosting = hosting_of(account.active, account.status)
    if hosting == "active" != repo.hosting:
        # Back from wherever it was, it may have changed unseen.
        repo = _doubted(repo)
    elif hosting not in ("active", "deleted") and repo.hosting == "active" and not stream.is_live:
        # The live stream may have missed that it is back since: its host is to be asked.
        repo = _doubted(repo)
    elif hosting == "deleted":
        # All of it is purged: if it comes back, it is new, and no copy from before makes it whole.
        repo = repo._replace(whole_rev=None, stretch=repo.rev)
    part.put_repo(_dated(repo._replace(hosting=hosting), account.seq, account.time, stream, now))
    return True


def time_of_answer(repo: Repo, now: int) -> str | None:
    """Return what dates that a repo's host was asked `now` (Unix ms); None if nothing may.

    What a replay says from before is outdated by it, while the live stream that spoke last goes on
    by its numbers. Where none has spoken, what is known of it is a replay's, by its own clock.
    """
    return format_datetime(now) if _is_told_live(repo) else None


def is_deletion(account: Account) -> bool:
    """Whether the account is gone for good, and all that it wrote."""
    return not account.active and account.status == "deleted"


def reject(part: Slice, rejected: Rejected, stream: Stream, now: int) -> None:
    """A repo said something that can't be so: it is to be rebuilt."""
    if rejected.did is None:
        return
    known = part.repo(rejected.did)
    if (
        known.hosting != "active"
        and rejected.seq is not None
        and _is_outdated(known, rejected.seq, rejected.time, stream, now)
    ):
        return  # it was put away after that, and is fetched anew if it comes back
    repo = _repo(part, rejected.did, rejected, stream, now)
    if rejected.rev is None or repo.rev is None or rejected.rev > repo.rev:
        part.put_repo(_doubted(repo))


def _repo(
    part: Slice, did: str, change: VerifiedCommit | Rejected, stream: Stream, now: int
) -> Repo:
    """Return what is known of a repo, or, if that is nothing, what its first frame tells."""
    repo = part.repo(did)
    is_told = repo.hosting_relay is not None or (not stream.is_live and repo.hosting_time)
    if repo.rev is not None or is_told:
        return repo
    # A host that sends commits of an account serves it: whatever it said of it before is old. But
    # what a replay sends may be from before the account's host was asked.
    return _dated(repo, change.seq, change.time, stream, now)


def _is_back(repo: Repo, commit: VerifiedCommit, stream: Stream, now: int) -> bool:
    """Whether an account that was deleted goes on, and the word that it is back was missed.

    A relay passes on no commit of an account that is gone. (A replay's may be from before.)
    """
    is_news = not _is_outdated(repo, commit.seq, commit.time, stream, now)
    return stream.is_live and is_news and (repo.rev is None or commit.rev > repo.rev)


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
        rev=commit.rev,
        data=commit.data,
        sync=sync,
        whole_rev=whole_rev,
        stretch=stretch,
        sends_prev_data=repo.sends_prev_data or commit.prev_data is not None,
    )


def _is_outdated(repo: Repo, seq: int, time: str | None, stream: Stream, now: int) -> bool:
    """Whether the last word on how a repo is hosted is as new as a frame of this stream.

    Within one stream `seq` decides. Between two it can't: each relay numbers its own, and what
    is replayed may bear numbers that its relay has given up since, or another machine's relay
    of the same name. So the times decide, which is all that is left. But what comes live is newer
    than what no stream has said: that a search found a repo, or what its host has answered.
    """
    if repo.hosting_seq is not None:
        if repo.hosting_relay == stream.name:
            return seq <= repo.hosting_seq
        # Of a replay that holds as well: a clock that ran ahead, cut to ours by `_dated`, makes
        # what was played live look new.
        if repo.hosting_relay == stream.relay and seq <= repo.hosting_seq:
            return True
    if stream.is_live and not _is_told_live(repo):
        return False
    return _is_dated(repo, now) and _ms(time) <= _ms(repo.hosting_time)


def _dated(repo: Repo, seq: int | None, time: str | None, stream: Stream, now: int) -> Repo:
    """Return the repo's state when the last word on how it is hosted is this frame's."""
    if stream.is_live or not _is_told_live(repo):
        # No replay takes a live stream's place: that goes on behind its own last word, as if
        # nothing had been played.
        repo = repo._replace(hosting_relay=stream.name, hosting_seq=seq)
    # Not in the future, or no other relay would be heard until then; and, since hosts' clocks
    # differ, never back, or what came before could be news again.
    time = time if _ms(time) <= now else format_datetime(now)
    is_later = not _is_dated(repo, now) or _ms(time) > _ms(repo.hosting_time)
    return repo._replace(hosting_time=time) if is_later else repo


def _is_dated(repo: Repo, now: int) -> bool:
    """Whether the time of the last word says anything: not if our clock was ahead when it came."""
    return repo.hosting_time is not None and _ms(repo.hosting_time) <= now + MAX_STEP


def _is_told_live(repo: Repo) -> bool:
    """Whether a relay's live stream has said how a repo is hosted, and not just a replay."""
    return repo.hosting_relay is not None and not repo.hosting_relay.startswith(_REPLAY)


def _doubted(repo: Repo) -> Repo:
    """Return the repo's state when commits behind its `rev` may have been missed."""
    return repo._replace(sync="desynchronized", stretch=repo.rev)


def _ms(time: str | None) -> int:
    """Return the moment that a relay names, in Unix ms; one that it can't mean is long ago."""
    try:
        return parse_datetime(time or "")
    except ValueError:
        return 0
