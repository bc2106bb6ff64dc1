"""CAR version 1: bytes to blocks, each checked against its CID. Pure.

Source: atproto.com/specs/repository (CAR file serialization) and ipld.io/specs/transport/car.
"""

from base64 import b32decode
from hashlib import sha256
from mmap import mmap

import libipld

from indexer.stream.decode import CID_LENGTH, CID_PREFIX

MAX_HEADER = 1_000  # bytes; a header with one root takes 59
TEXT_LENGTH = 59  # characters of a CID in its text form
MAX_BLOCK = 1_048_576  # bytes; a record is at most 1 MiB, and MST nodes are far smaller


class BadCar(ValueError):
    """The bytes are no CAR of a repo."""


class BadBlock(BadCar):
    """A block's bytes are not those that its CID names."""


def read_cid(text: object) -> bytes:
    """Return the binary form of a CID of a repo. Raises `BadCar` if the text is none."""
    try:
        if not isinstance(text, str) or len(text) != TEXT_LENGTH or text[0] != "b":
            raise ValueError(text)
        cid = b32decode(text[1:].upper() + "======")
    except ValueError:
        raise BadCar("a CID is not one of a repo") from None
    if cid[:4] != CID_PREFIX:
        raise BadCar("a CID is of another kind than a repo's")
    return cid


def read_car(data: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return the root's CID and every block by CID (binary forms).

    Raises `BadCar`, or `BadBlock` for a hash that does not match: no library does that check.
    """
    root, position = read_header(data)
    blocks: dict[bytes, bytes] = {}
    end = len(data)
    while position < end:
        cid, start, position = read_section(data, position)
        block = data[start:position]
        if sha256(block).digest() != cid[4:]:
            raise BadBlock("a block does not match its CID")
        blocks[cid] = block
    return root, blocks


def read_blocks(data: bytes) -> tuple[bytes | None, dict[bytes, bytes]]:
    """Return the root's CID, if one is named, and the blocks by CID: an answer that is a part.

    Its header may name no root or several, and where a block is not there a section may be empty.
    Raises `BadCar` and `BadBlock` like `read_car`.
    """
    roots, position = _read_roots(data)
    blocks: dict[bytes, bytes] = {}
    end = len(data)
    while position < end:
        if data[position] == 0:
            position += 1
            continue
        cid, start, position = read_section(data, position)
        block = data[start:position]
        if not block:
            continue
        if sha256(block).digest() != cid[4:]:
            raise BadBlock("a block does not match its CID")
        blocks[cid] = block
    return (roots[0] if roots else None), blocks


def read_header(data: bytes | mmap) -> tuple[bytes, int]:
    """Return the root's CID, and where the first block begins."""
    roots, start = _read_roots(data)
    if len(roots) != 1:
        raise BadCar("the header does not name one root")
    return roots[0], start


def read_section(data: bytes | mmap, position: int) -> tuple[bytes, int, int]:
    """Return a block's CID, where its bytes begin, and where they end."""
    try:
        length, second = data[position], data[position + 1]
    except IndexError:
        raise BadCar("a block is cut off") from None
    start = position + 1
    # Nearly all lengths are of one byte or two, and a call for each would cost more than its hash.
    if length > 0x7F:
        if second > 0x7F:
            length, start = _varint(data, position)
        else:
            length, start = length & 0x7F | second << 7, position + 2
    end = start + length
    if not CID_LENGTH <= length <= CID_LENGTH + MAX_BLOCK or end > len(data):
        raise BadCar("a block is cut off, too short or too long")
    split = start + CID_LENGTH
    cid = data[start:split]
    if cid[:4] != CID_PREFIX:
        raise BadCar("a CID is of another kind than a repo's")
    return cid, split, end


def _read_roots(data: bytes | mmap) -> tuple[list[bytes], int]:
    """Return the CIDs of the roots, and where the first block begins."""
    length, start = _varint(data, 0)
    if length > MAX_HEADER or start + length > len(data):
        raise BadCar("the header is cut off or too long")
    try:
        fields = libipld.decode_dag_cbor(data[start : start + length])
        version, roots = fields["version"], list(fields["roots"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadCar("the header is not a map with a version and roots") from error
    if version != 1 or not all(isinstance(r, bytes) and len(r) == CID_LENGTH for r in roots):
        raise BadCar("the header is not of version 1 with roots that are CIDs")
    return roots, start + length


def _varint(data: bytes | mmap, position: int) -> tuple[int, int]:
    """Return an unsigned LEB128 number and the position behind it."""
    value = shift = 0
    for index in range(position, min(position + 5, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise BadCar("a length is cut off or too long")
