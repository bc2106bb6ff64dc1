"""A repo's records of ours by the few blocks around them, asked of its PDS.

`range_proof` says which blocks come next; here they are asked for, in the ways that the hosts of
the network have. Best is `getRecord` of a path that is not there: its proof of absence brings the
signed commit and a whole way down the tree. Else the commit that `getLatestCommit` names, and then
`getBlocks` of one layer of the tree after the other. Where that gives out no records, they are
asked for one by one. What a host answers is never trusted to be right or complete.
"""

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx
import libipld

from indexer.lexicon.strict_json import parse_json
from indexer.net.guard import FetchError
from indexer.net.requests import request_bytes
from indexer.proof.car import TEXT_LENGTH, BadCar, read_blocks, read_cid
from indexer.proof.range_proof import RangeProof
from indexer.proof.repo import BadRepo, Contents
from indexer.proof.verify import Unproven
from indexer.repos.owner_key import OwnerKey
from indexer.repos.peers import Ability, Peer, Peers, Tally

MAX_CIDS = 200  # in one request
MAX_URL = 12_288  # characters; a PDS refuses a head of 16 KiB
MAX_ANSWER = 1_000_000  # bytes; where more is ours, the whole repo is cheaper
MAX_REQUESTS = 60  # for one repo
MAX_BLOCKS = 5_000  # of one answer
ASK_WITHIN = 10.0  # seconds for one answer
WALK_WITHIN = 60.0  # seconds for one repo
RESTARTS = 3  # of a walk, from a newer commit
# Records of a repo of which the CAR is fetched whenever a layer or more of its tree is left.
FEW = 48
GUESSED = 2  # turns

# How a repo was proven: `whole` is by its CAR, which is not asked for here.
Way = Literal["proof", "layers", "records", "whole"]
_Part = tuple[bytes | None, dict[bytes, bytes]]  # a root, and blocks by CID
_NOTHING: _Part = (None, {})


class NotByRange(Exception):
    """This repo is to be fetched whole; the text says why.

    `failed` is what its host could not do, if it turns out that it serves the repo at all.
    """

    def __init__(self, reason: str, failed: Iterable[Ability] = ()) -> None:
        super().__init__(reason)
        self.failed = frozenset(failed)


class FewRecords(NotByRange):
    """One request for all of it takes less than those for the rest of its parts."""


@dataclass(slots=True)
class _Walk:
    pds: str
    did: str
    peer: Peer
    proof: RangeProof
    key: OwnerKey
    tally: Tally
    failed: set[Ability] = field(default_factory=set)
    restarts: int = 0
    is_split: bool = False  # nodes and records are asked for apart
    way: Way = "layers"  # how it went so far

    def can(self, ability: Ability) -> bool:
        return ability not in self.failed and self.peer.can(ability)


class RangeSource:
    """Asks the PDSes of repos for parts of them."""

    def __init__(self, client: httpx.AsyncClient, peers: Peers) -> None:
        self._client = client
        self._peers = peers

    async def prove(
        self,
        pds: str,
        did: str,
        collections: Collection[str],
        key: OwnerKey,
        tally: Tally,
        *,
        few: int = FEW,
    ) -> tuple[Contents, Way]:
        """Return what a repo holds of these collections, and by which way. Raises NotByRange.

        A repo of up to `few` records is not gone through: whoever asked fetches it whole.
        """
        peer = self._peers.get(pds)
        if not peer.can("nodes"):
            raise NotByRange("the host serves no parts of repos")
        walk = _Walk(pds, did, peer, RangeProof(did, collections), key, tally)
        try:
            async with asyncio.timeout(WALK_WITHIN):
                contents = await self._go(walk, few)
        except (BadRepo, BadCar) as error:
            raise NotByRange(str(error), walk.failed) from None
        except FetchError as error:
            raise NotByRange(f"{pds}: {error}", walk.failed) from None
        except TimeoutError:
            raise NotByRange(f"it takes longer than {WALK_WITHIN:g} s", walk.failed) from None
        peer.lacks(walk.failed)
        return contents, walk.way

    async def _go(self, walk: _Walk, few: int) -> Contents:
        await self._begin(walk)
        for turn in range(MAX_REQUESTS):
            wanted = walk.proof.wanted()
            if not wanted:
                break
            # Asked while the guess is good: of the first way down, or of the root.
            if turn < GUESSED and walk.proof.is_better_whole(few):
                raise FewRecords("it has few records", walk.failed)
            if not await self._take_turn(walk):
                await self._change_way(walk)
        return walk.proof.contents()

    async def _begin(self, walk: _Walk) -> bool:
        """Start from the newest commit; return whether it is another one than before."""
        if walk.can("head"):
            root, blocks = await self._record(walk, walk.proof.first_way)
            if root is not None and root in blocks:
                return await self._begin_by_way(walk, root, blocks)
            walk.failed |= {"head", "ways"}
        before = None
        for _ in range(1 + RESTARTS):
            head = await self._latest(walk)
            if head is None:
                raise NotByRange("the host names no newest commit", walk.failed)
            if not walk.proof.has(head):
                _, blocks = await self._blocks(walk, [head])
                walk.proof.add(blocks)
            if walk.proof.has(head):
                return await self._start(walk, head)
            if head == before:
                break
            before = head  # it may have changed in between
        walk.failed.add("nodes")
        raise NotByRange("the host does not serve the newest commit", walk.failed)

    async def _begin_by_way(self, walk: _Walk, root: bytes, blocks: dict[bytes, bytes]) -> bool:
        walk.proof.add(blocks)
        is_new = await self._start(walk, root)
        commit = walk.proof.commit
        if commit is not None and commit.data in walk.proof.wanted().nodes:
            walk.failed.add("ways")  # the commit came alone
        elif walk.can("ways"):
            walk.way = "proof"
        return is_new

    async def _start(self, walk: _Walk, head: bytes) -> bool:
        """Prove a commit and go on from it, if it is newer; count how often that happens."""
        is_first = walk.proof.commit is None
        try:
            is_new = walk.proof.begin(head, walk.key.value)
        except Unproven as unproven:
            if not await walk.key.renew():
                raise NotByRange(f"the commit is not proven: {unproven.reason}") from None
            try:
                is_new = walk.proof.begin(head, walk.key.value)
            except Unproven as still:
                raise NotByRange(f"the commit is not proven: {still.reason}") from None
        if is_new and not is_first:
            walk.restarts += 1
            if walk.restarts > RESTARTS:
                raise NotByRange("the repo changes faster than it can be walked", walk.failed)
        return is_new

    async def _take_turn(self, walk: _Walk) -> bool:
        """Ask for all that is wanted now, side by side; return whether anything of it came."""
        wanted = walk.proof.wanted()
        ways = wanted.ways if walk.can("ways") else {}
        nodes = [cid for cid in wanted.nodes if cid not in set(ways.values())]
        records = list(dict.fromkeys(wanted.records.values()))
        paths = [*ways]
        if not walk.can("records"):
            walk.way = "records"
            paths += {cid: path for path, cid in wanted.records.items()}.values()
            records = []
        batches = [nodes, records] if walk.is_split else [nodes + records]
        parts = [part for batch in batches for part in chunks(walk.pds, walk.did, batch)]
        if walk.tally.requests + len(parts) + len(paths) > MAX_REQUESTS:
            raise NotByRange(f"it takes more than {MAX_REQUESTS} requests", walk.failed)
        asked = [self._blocks(walk, part) for part in parts]
        asked += [self._record(walk, path) for path in paths]
        answers = await _side_by_side(asked)
        came = 0
        for _, blocks in answers:
            came += walk.proof.add(blocks)
        for root, blocks in answers:
            if root in blocks:
                # The proofs may be of different commits: all goes on from the newest one.
                assert root is not None  # noqa: S101 (for the type)
                await self._start(walk, root)
        return came > 0

    async def _change_way(self, walk: _Walk) -> None:
        """Nothing came: begin anew if the repo has changed, else leave out what the host can't do.

        Whatever an answer was called: a repo that changes meanwhile has many names.
        """
        if await self._begin(walk):
            return
        wanted = walk.proof.wanted()
        if not wanted:
            return
        if wanted.ways and walk.can("ways"):
            walk.failed.add("ways")
        elif wanted.nodes and wanted.records and walk.can("records") and not walk.is_split:
            walk.is_split = True
        elif not wanted.nodes and walk.can("records"):
            walk.failed.add("records")
        else:
            walk.failed.add("nodes")
            raise NotByRange("the host leaves out blocks", walk.failed)

    # --- requests ---

    async def _record(self, walk: _Walk, path: str) -> _Part:
        """Return the proof of a path, be it that nothing is there."""
        collection, _, rkey = path.partition("/")
        query = f"did={quote(walk.did)}&collection={quote(collection)}&rkey={quote(rkey, safe='')}"
        return await self._part(walk, f"getRecord?{query}")

    async def _blocks(self, walk: _Walk, cids: Sequence[bytes]) -> _Part:
        """Return those of these blocks that come."""
        _, blocks = await self._part(walk, _query(walk.did, map(libipld.encode_cid, cids)))
        return None, {cid: blocks[cid] for cid in cids if cid in blocks}

    async def _part(self, walk: _Walk, call: str) -> _Part:
        body = await self._ask(walk, call)
        if body is None:
            return _NOTHING
        root, blocks = read_blocks(body)
        if len(blocks) > MAX_BLOCKS:
            raise BadCar("an answer has more blocks than were asked for")
        return root, blocks

    async def _latest(self, walk: _Walk) -> bytes | None:
        """Return the CID of the newest commit; None if the host does not say."""
        body = await self._ask(walk, f"getLatestCommit?did={quote(walk.did)}")
        try:
            return read_cid(parse_json(body or b"").get("cid"))
        except (ValueError, AttributeError):
            return None

    async def _ask(self, walk: _Walk, call: str) -> bytes | None:
        """Return the body of a 200 answer; None for any other."""
        peer = walk.peer
        async with peer.slots:
            if not peer.small.is_open():
                raise NotByRange("the host's limit of requests is near", walk.failed)
            walk.tally.requests += 1
            answer = await request_bytes(
                self._client, _url(walk.pds, call), max_bytes=MAX_ANSWER, deadline=ASK_WITHIN
            )
        walk.tally.bytes += len(answer.body)
        peer.small.heard(answer.status, answer.headers)
        if answer.status == 429:
            raise NotByRange("the host's limit of requests is reached", walk.failed)
        return answer.body if answer.status == 200 else None


def chunks(pds: str, did: str, cids: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Return CIDs in parts that one request may ask for."""
    room = MAX_URL - len(_url(pds, _query(did, [])))
    size = max(min(MAX_CIDS, room // (len("&cids=") + TEXT_LENGTH)), 1)
    return [cids[first : first + size] for first in range(0, len(cids), size)]


def _query(did: str, cids: Iterable[str]) -> str:
    return f"getBlocks?did={quote(did)}" + "".join(f"&cids={cid}" for cid in cids)


def _url(pds: str, call: str) -> str:
    return f"{pds}/xrpc/com.atproto.sync.{call}"


async def _side_by_side(asked: Sequence[Coroutine[Any, Any, _Part]]) -> list[_Part]:
    """Return all answers; the first failure ends the others."""
    if len(asked) == 1:
        return [await asked[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in asked]
    except* (NotByRange, FetchError, BadCar) as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
