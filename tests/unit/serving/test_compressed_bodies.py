"""A body may come compressed, and is bounded by what it stands for."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.xrpc_world import ALICE, REVOKE_VERIFICATIONS, World, make_world
from xrpc.errors import InvalidRequestError
from xrpc.serving.coding import MAX_MEMBERS, Decoder

MAX_BODY = 256_000  # bytes
GOOD = b'{"uris":[]}'
PATH = f"/xrpc/{REVOKE_VERIFICATIONS}"
MB = 1_000_000


def raw_deflate(data: bytes) -> bytes:
    packed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packed.compress(data) + packed.flush()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # the same each time, as the names of tests must be


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzipped),
    "gzip, as its old name": ("x-gzip", gzipped),
    "gzip in capitals": ("GZIP", gzipped),
    "deflate in zlib's form": ("deflate", zlib.compress),
    "deflate, stored": ("deflate", lambda data: zlib.compress(data, 0)),
    "deflate without a wrapper": ("deflate", raw_deflate),
    "as it is": ("identity", bytes),
}
COMPRESSED = {name: coding for name, coding in CODINGS.items() if name != "as it is"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE, session=False)
        yield made


async def post(world: World, content: Any, *codings: str, **headers: str) -> httpx.Response:
    all_headers = [
        ("authorization", f"Bearer {world.token(ALICE, REVOKE_VERIFICATIONS)}"),
        ("content-type", "application/json"),
        *(("content-encoding", coding) for coding in codings),
        *headers.items(),
    ]
    return await world.request("POST", PATH, content=content, headers=all_headers)


async def pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


@pytest.mark.parametrize("name", CODINGS)
async def test_a_compressed_body_is_read(world: World, name: str) -> None:
    coding, pack = CODINGS[name]
    for content in (pack(GOOD), pieces(pack(GOOD), 1)):
        answer = await post(world, content, coding)
        assert answer.json() == {"revokedVerifications": [], "failedRevocations": []}


async def test_a_compressed_body_says_what_a_plain_one_does(world: World) -> None:
    body = json.dumps({"uris": ["at://did:plc:x/com.example.other/one"]}).encode()
    plain, packed = await post(world, body), await post(world, gzipped(body), "gzip")
    assert plain.status_code == 200
    assert plain.json() == packed.json()


@pytest.mark.parametrize("name", CODINGS)
async def test_the_limit_of_a_body_holds_for_what_it_stands_for(world: World, name: str) -> None:
    coding, pack = CODINGS[name]
    refused = await post(world, pack(GOOD.ljust(MAX_BODY + 1)), coding)
    assert refusal(refused) == (413, "PayloadTooLarge")
    if "stored" not in name:  # which is larger than what it stands for
        for content in (pack(GOOD.ljust(MAX_BODY)), pieces(pack(GOOD.ljust(MAX_BODY)), 5_000)):
            assert (await post(world, content, coding)).status_code == 200


async def test_the_limit_of_a_body_holds_for_its_compressed_form_too(world: World) -> None:
    content = zlib.compress(GOOD.ljust(MAX_BODY - 5), 0)
    assert len(content) > MAX_BODY
    for sent in (content, pieces(content, 50_000)):
        assert refusal(await post(world, sent, "deflate")) == (413, "PayloadTooLarge")


@pytest.mark.parametrize("name", COMPRESSED)
async def test_a_bomb_is_refused(world: World, name: str) -> None:
    coding, pack = CODINGS[name]
    if "stored" in name:
        return  # it does not grow
    bomb = pack(b" " * 200 * MB)
    assert len(bomb) < MAX_BODY
    assert refusal(await post(world, bomb, coding)) == (413, "PayloadTooLarge")


def test_a_bomb_takes_no_memory() -> None:
    bomb = gzipped(b" " * 200 * MB)
    tracemalloc.start()
    decoder = Decoder("gzip", MAX_BODY)
    found = decoder.feed(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == MAX_BODY + 1
    assert peak < 2 * MB
    assert len(decoder.feed(bomb)) <= 1  # nor when it is asked again


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", GOOD),
        ("gzip", b""),
        ("gzip", zlib.compress(GOOD)),
        ("deflate", GOOD),
        ("deflate", b""),
        ("deflate", gzipped(GOOD)),
        *(
            (coding, broken)
            for coding, pack in COMPRESSED.values()
            for broken in (
                pack(GOOD)[:-1],
                pack(GOOD)[:1],
                pack(GOOD) + b"x",
                pack(GOOD) + GOOD,
            )
        ),
        ("gzip", gzipped(GOOD) + gzipped(b"")[:-1]),  # its last member
        ("deflate", zlib.compress(GOOD) + zlib.compress(b"")),
        ("gzip", gzipped(GOOD) + gzipped(b"") * MAX_MEMBERS),
        ("gzip", gzipped(GOOD)[:-5] + b"\x00" + gzipped(GOOD)[-4:]),  # its checksum
        ("deflate", zlib.compress(GOOD)[:-1] + b"\x00"),
    ],
)
async def test_a_body_that_is_not_as_it_says_is_refused(
    world: World, coding: str, content: bytes
) -> None:
    for sent in (content, pieces(content, 1)):
        answer = await post(world, sent, coding)
        assert refusal(answer) == (400, "InvalidRequest")
        assert coding.lower() in answer.json()["message"]


async def test_a_gzip_body_may_have_several_members(world: World) -> None:
    content = gzipped(GOOD[:5]) + gzipped(GOOD[5:]) + gzipped(b"") * (MAX_MEMBERS - 2)
    for sent in (content, pieces(content, 1)):
        answer = await post(world, sent, "gzip")
        assert answer.json() == {"revokedVerifications": [], "failedRevocations": []}


async def test_the_limit_of_a_body_holds_for_all_its_members_together(world: World) -> None:
    fits = gzipped(GOOD) + gzipped(b" " * (MAX_BODY - len(GOOD)))
    assert (await post(world, fits, "gzip")).status_code == 200
    for more in (gzipped(b" "), gzipped(b" " * 200 * MB)):
        assert refusal(await post(world, fits + more, "gzip")) == (413, "PayloadTooLarge")


@pytest.mark.parametrize(
    "codings",
    [
        ("br",),
        ("zstd",),
        ("compress",),
        ("gzipped",),
        ("gzip, gzip",),
        ("gzip", "deflate"),
        ("identity, gzip",),
        ("*",),
    ],
)
async def test_other_codings_are_refused_with_those_that_are_read(
    world: World, codings: tuple[str, ...]
) -> None:
    answer = await post(world, gzipped(GOOD), *codings)
    assert refusal(answer) == (415, "UnsupportedMediaType")
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert "gzip, deflate" in answer.json()["message"]


async def test_who_is_not_proven_has_nothing_decompressed(world: World) -> None:
    headers = {"content-type": "application/json", "content-encoding": "br"}
    answer = await world.request("POST", PATH, content=b"x", headers=headers)
    assert refusal(answer) == (401, "AuthMissing")


def test_bytes_of_another_coding_are_not_taken_for_an_end() -> None:
    decoder = Decoder("deflate", MAX_BODY)
    with pytest.raises(InvalidRequestError, match="ends before"):
        decoder.end()
    decoder.feed(zlib.compress(GOOD))
    decoder.end()
    with pytest.raises(InvalidRequestError, match="goes on behind"):
        decoder.feed(b"x")
