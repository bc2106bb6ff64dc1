"""Frames as no honest host makes them, by kind: each is refused or skipped, none is dangerous."""

from collections.abc import Callable, Iterator
from typing import Any

from tests.support.frames import (
    ALICE,
    BOB,
    SPACE,
    TIME,
    VERIFICATION,
    Author,
    block,
    car,
    cid_of,
    foreign_commit,
    frame,
    identity_frame,
    space,
    tid,
    verification,
)

Frames = Iterator[tuple[int, bytes]]  # with their seqs
MICROSECONDS = 1_790_000_000_000_000
_GARBLED = (b"\x78\x18" + TIME.encode(), b"\x61\xff")


def array(value: bytes, count: int) -> bytes:
    return b"\x9a" + count.to_bytes(4) + value * count


def _of(count: int, make: Callable[[int], bytes]) -> Callable[[], Frames]:
    return lambda: ((seq, make(seq)) for seq in range(1, count + 1))


def _tiny(field: bytes, value: bytes, size: int) -> Callable[[int], bytes]:
    """Return a commit with a field that is an array of tiny values."""
    many = field + array(value, size // len(value))

    def make(seq: int) -> bytes:
        plain = block({"seq": seq, "repo": BOB, "rev": tid(1), "time": TIME})
        return block({"op": 1, "t": "#commit"}) + bytes((plain[0] + 1,)) + many + plain[1:]

    return make


def _header_in_another_order(seq: int) -> bytes:
    plain = block({"op": 1, "t": "#commit"})
    return foreign_commit(seq).replace(plain, b"\xa2\x62op\x01\x61t\x67#commit")


def _record(value: bytes) -> Callable[[int], bytes]:
    """Return commits, each of another repo, of a space with an unknown field."""
    data = block(space(z=1)).replace(b"\x61z\x01", b"\x61z" + value)

    def make(seq: int) -> bytes:
        return Author(_did(seq)).commit(seq, {f"{SPACE}/x": data})

    return make


def _node(seq: int) -> bytes:
    """Return a commit whose tree is one block of tiny values."""
    author, node = Author(_did(seq)), array(b"\x80", 1_000_000)
    commit = block(author.commit_object(tid(1), cid_of(node)))
    record = block(verification())
    ops = [{"action": "create", "path": f"{VERIFICATION}/x", "cid": cid_of(record)}]
    body: dict[str, Any] = {
        "seq": seq, "time": TIME, "repo": author.did, "rev": tid(1), "since": None,
        "commit": cid_of(commit), "ops": ops, "blobs": [], "rebase": False, "tooBig": False,
        "blocks": car(cid_of(commit), [commit, node, record]),
    }  # fmt: skip
    return frame("#commit", body)


def _badly_signed(seq: int) -> bytes:
    """Return a commit that another key signed than the one that its DID names."""
    return Author(_did(seq % 1_200)).commit(seq, {f"{VERIFICATION}/{seq}": verification()})


def _did(number: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    return f"did:plc:{'s' * 20}" + "".join(
        letters[number >> shift & 31] for shift in (15, 10, 5, 0)
    )


def _jumping() -> Frames:
    author = Author(_did(0))
    for number in range(1, 500):
        seq = MICROSECONDS + number * 50_000
        yield seq, author.commit(seq, {f"{VERIFICATION}/{number}": verification()})


KINDS: dict[str, Callable[[], Frames]] = {
    "#identity whose time is no UTF-8": _of(
        2_000, lambda seq: identity_frame(seq, ALICE).replace(*_GARBLED)
    ),
    "a header in another order": _of(500, _header_in_another_order),
    "4.9 MB of empty arrays in ops": _of(3, _tiny(b"\x63ops", b"\x80", 4_900_000)),
    "4.9 MB of empty maps in blobs": _of(3, _tiny(b"\x65blobs", b"\xa0", 4_900_000)),
    "64 KB of empty maps in blobs": _of(100, _tiny(b"\x65blobs", b"\xa0", 65_000)),
    "1 KB of empty maps in blobs": _of(5_000, _tiny(b"\x65blobs", b"\xa0", 1_000)),
    "a record of 20,000 values": _of(40, _record(array(b"\xa0", 19_900))),
    "a record of a million values": _of(10, _record(array(b"\x80", 990_000))),
    "a record of 1 MB of text": _of(10, _record(b"\x7a" + (990_000).to_bytes(4) + b"x" * 990_000)),
    "a tree of a million values": _of(10, _node),
    "bad signatures of 1,200 DIDs": _of(1_200, _badly_signed),
    "seqs of microseconds": _jumping,
}
