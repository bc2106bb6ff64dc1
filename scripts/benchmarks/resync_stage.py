"""What `scripts/bench resync` is played on: a real PDS, with repos that came in by importRepo."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from scripts.benchmarks.repo_corpus import OTHERS, START, new_rkey, our_record
from scripts.benchmarks.tree import GrowingTree
from tests.localnet import LocalNetwork
from tests.localnet.account import Account
from tests.localnet.xrpc import checked
from tests.support.account_keys import K256, Key
from tests.support.frames import CREATED, VERIFICATION, Author, block, car, cid_of, section, tid

SEED = "rescind bench resync"
AT_ONCE = 6  # accounts that are made, and repos that are imported
IMPORT_WITHIN = 300.0  # seconds
TEXT = (40, 240)  # of a post's text


@dataclass(frozen=True, slots=True)
class Size:
    """How large repos are, in records."""

    large: int
    large_ours: int
    many: int  # repos, as at a first start
    least: int
    most: int
    each_ours: int
    few: int  # repos all of whose records are ours
    few_ours: int


FULL = Size(
    large=20_000, large_ours=5, many=300, least=50, most=5_000, each_ours=2, few=20, few_ours=30
)


@dataclass(frozen=True, slots=True)
class Stage:
    """A network, and the DIDs of its repos."""

    network: LocalNetwork
    large: str
    many: tuple[str, ...]
    few: tuple[str, ...]


def sizes(size: Size, rng: Random) -> list[int]:
    """Return how many records each of many repos has: log-uniform."""
    low, high = math.log(size.least), math.log(size.most)
    return [round(math.exp(rng.uniform(low, high))) for _ in range(size.many)]


async def fill(network: LocalNetwork, size: Size) -> Stage:
    """Make the accounts, and import their repos."""
    rng = Random(SEED)
    wanted = [(size.large, size.large_ours)]
    wanted += [(records, size.each_ours) for records in sizes(size, rng)]
    wanted += [(size.few_ours, size.few_ours)] * size.few
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, records: int, ours: int) -> str:
        async with slots:
            account = await network.pds.create_account(network.handle("repo"))
            data = make_car(key_of(account), account.did, records, ours, Random(f"{SEED}{number}"))
            await _import(account, data)
            return account.did

    dids = await asyncio.gather(*(one(number, *each) for number, each in enumerate(wanted)))
    return Stage(network, dids[0], tuple(dids[1 : 1 + size.many]), tuple(dids[1 + size.many :]))


async def _import(account: Account, data: bytes) -> None:
    headers = {
        "authorization": f"Bearer {account.token}",
        "content-type": "application/vnd.ipld.car",
    }
    # A busy machine takes long for the large one.
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=IMPORT_WITHIN) as client:
        url = f"{account.pds.url}/xrpc/com.atproto.repo.importRepo"
        checked(await client.post(url, content=data, headers=headers))


def key_of(account: Account) -> Key:
    """Return the key with which an account's PDS signs its commits."""
    [file] = account.pds.directory.glob(f"actors/*/{account.did}/key")
    secret = int.from_bytes(file.read_bytes())
    return Key(ec.derive_private_key(secret, ec.SECP256K1()), *K256)


def make_car(key: Key, did: str, records: int, ours: int, rng: Random) -> bytes:
    """Return a whole repo, signed with this key."""
    author = Author(did)
    author.key = key
    found = {}
    for number in range(records):
        name = VERIFICATION if number < ours else rng.choice(OTHERS)
        fields = our_record(rng, did, name) if number < ours else post(rng, name)
        found[f"{name}/{new_rkey(rng)}".encode()] = block(fields)
    tree = GrowingTree({path: cid_of(record) for path, record in found.items()})
    data = tree.root()
    commit = block(author.commit_object(tid(0, START), data))
    return car(cid_of(commit), []) + b"".join(_sections([commit, *tree.nodes(), *found.values()]))


def post(rng: Random, collection: str) -> dict[str, str]:
    text = rng.randbytes(rng.randrange(*TEXT) // 2).hex()
    return {"$type": collection, "text": text, "createdAt": CREATED}


def _sections(blocks: list[bytes]) -> Iterator[bytes]:
    return (section(cid_of(data), data) for data in blocks)
