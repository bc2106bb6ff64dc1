"""One record of a repo, from the CAR that proves it: the signed commit and the path to it. Pure.

Source: `com.atproto.sync.getRecord` and atproto.com/specs/repository.
"""

from typing import NamedTuple

import libipld

from indexer.lexicon.syntax import tid_time
from indexer.proof.car import BadBlock, BadCar, read_car
from indexer.proof.mst import MissingBlock, Tree
from indexer.proof.mst_node import BadTree
from indexer.proof.verify import MAX_AHEAD, Unproven, prove_commit


class StandingRecord(NamedTuple):
    """A record that stands in a repo at this revision, which need not be the one that wrote it."""

    rev: str
    cid: str  # text form
    block: bytes


def prove_record(car: bytes, did: str, key: str | None, path: str, now: int) -> StandingRecord:
    """Prove that a repo holds a record at this path; return it as of the commit that proves it.

    `key` is the did:key that the DID names. `now` is Unix ms. Raises `Unproven`, with
    `missing_block` also for a proof that there is no record at the path.
    """
    try:
        root, blocks = read_car(car)
        if root not in blocks:
            raise Unproven("missing_block")
        commit = prove_commit(blocks[root], did, key)
        if tid_time(commit.rev) > now * 1000 + MAX_AHEAD:
            raise Unproven("future_rev")
        cid = Tree(commit.data, blocks).get(path.encode())
        if cid is None or cid not in blocks:
            raise Unproven("missing_block")
    except BadBlock:
        raise Unproven("bad_block") from None
    except BadCar:
        raise Unproven("bad_car") from None
    except MissingBlock:
        raise Unproven("missing_block") from None
    except BadTree:
        raise Unproven("bad_tree") from None
    return StandingRecord(commit.rev, libipld.encode_cid(cid), blocks[cid])
