"""What a repo holds of ours, proven from the few blocks around it, as they come. Pure.

Who asks for blocks says which came, and is told what comes next: nodes around our collections,
layer by layer, and at last our records. Blocks are named by their hashes, so those of an older
commit serve for the next one as far as nothing has changed. What comes out is what the CAR of
the whole repo would have given.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import libipld

from indexer.proof.mst_node import BadTree
from indexer.proof.range_tree import RangeTree, TooMany
from indexer.proof.repo import BadRepo, Contents
from indexer.proof.verify import SignedCommit, prove_commit
from indexer.records import MAX_RECORD

MAX_RECORDS = 5_000  # of ours, and as many nodes on the way to them: beyond, the CAR is cheaper
MAX_HELD = 4_000_000  # bytes of blocks

# Layers of the root in trees of some ten records, and in those of a few tens, with few exceptions.
LOW, HIGH = 1, 3
MUCH = 4  # one of so many records is still to come, and ours

# A key that is valid, and before which no other valid one comes.
FIRST_KEY = "-"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is still to come."""

    nodes: tuple[bytes, ...]  # CIDs
    records: dict[str, bytes]  # CIDs by path
    # The node that a way down begins with, by a path on it: a proof of that path, be it that it is
    # not there, brings the whole way at once.
    ways: dict[str, bytes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.records)


class RangeProof:
    """One repo's proof. Blocks are added as they come, and belong to no commit until `begin`."""

    def __init__(self, did: str, collections: Collection[str]) -> None:
        self._did = did
        self._collections = collections
        self._blocks: dict[bytes, bytes] = {}
        self._held = 0
        self._tree: RangeTree | None = None
        self.commit: SignedCommit | None = None

    @property
    def first_way(self) -> str:
        """The path to ask for before anything is known."""
        return f"{min(self._collections)}/{FIRST_KEY}"

    def is_better_whole(self, few: int) -> bool:
        """Whether the CAR may be had for less than what is left, of a repo of up to `few` records.

        That is a guess, by what was read of the tree: its height, and one way down. Where it is
        wrong the CAR is larger than it was taken for, so a repo of which little is ours has to be
        small by its height, too.
        """
        tree = self._tree
        if tree is None or not tree.wanted or not 0 < tree.guess <= few:
            return False
        left = len(self.wanted().records) + len(tree.wanted)
        return tree.top <= LOW or (left * MUCH >= tree.guess and tree.top <= HIGH)

    def has(self, cid: bytes) -> bool:
        return cid in self._blocks

    def add(self, blocks: Mapping[bytes, bytes]) -> int:
        """Keep blocks that were checked against their CIDs; return how many were new.

        Raises `BadRepo` if they are too many, or show a tree that can't be.
        """
        new = {cid: block for cid, block in blocks.items() if cid not in self._blocks}
        self._held += sum(map(len, new.values()))
        if self._held > MAX_HELD:
            raise BadRepo(f"more than {MAX_HELD} bytes around our records")
        self._blocks |= new
        self._descend()
        return len(new)

    def begin(self, head: bytes, key: str | None) -> bool:
        """Prove the commit of this CID, whose block was added, and start from its tree.

        Return whether that is another commit than before; an older one is not begun with. Raises
        `BadRepo` if its block is not here, and `Unproven` if the owner of the key did not sign it.
        """
        block = self._blocks.get(head)
        if block is None:
            raise BadRepo("the newest commit is not there")
        commit = prove_commit(block, self._did, key)
        if self.commit is not None and commit.rev <= self.commit.rev:
            return False
        self.commit = commit
        self._tree = RangeTree(commit.data, self._collections, MAX_RECORDS)
        self._descend()
        return True

    def wanted(self) -> Wanted:
        """Return what comes next; nothing if all is proven."""
        tree = self._tree
        if tree is None:
            return Wanted((), {})
        ways: dict[str, bytes] = {}
        for cid, place in tree.wanted.items():
            starts = tree.starts_within(place)
            # In the lowest layer the node itself is the whole way. Of several beginnings below
            # one node, the way to the first may show that there is nothing of the others.
            if starts and place.layer != 0:
                ways[f"{starts[0].decode()}{FIRST_KEY}"] = cid
        missing = {p: cid for p, cid in tree.records.items() if cid not in self._blocks}
        return Wanted(tuple(tree.wanted), missing, ways)

    def contents(self) -> Contents:
        """Return what is proven. Raises `BadRepo` while anything is missing."""
        if self._tree is None or self.commit is None or self.wanted():
            raise BadRepo("a block of the proof is missing")
        records = {}
        for path, cid in self._tree.records.items():
            block = self._blocks[cid]
            records[path] = (libipld.encode_cid(cid), block if len(block) <= MAX_RECORD else b"")
        data = libipld.encode_cid(self.commit.data)
        return Contents(self._did, self.commit.rev, data, records)

    def _descend(self) -> None:
        """Read the nodes that are here and wanted, and those that these lead to."""
        tree = self._tree
        try:
            while tree and (here := [cid for cid in tree.wanted if cid in self._blocks]):
                for cid in here:
                    tree.read(cid, self._blocks[cid])
        except (BadTree, TooMany) as error:
            raise BadRepo(f"the blocks are no repo: {error}") from None
