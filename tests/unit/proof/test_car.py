"""A CAR's blocks are taken only if each is what its CID says; anything else is a `BadCar`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.proof.car import MAX_BLOCK, BadBlock, BadCar, read_car
from tests.support.frames import block, car, cid_of, section, varint

ONE, TWO = block({"a": 1}), block({"b": 2})
ROOT = cid_of(ONE)
CAR = car(ROOT, [ONE, TWO])
HEAD = car(ROOT, [])


def test_every_block_is_found_under_its_cid() -> None:
    assert read_car(CAR) == (ROOT, {cid_of(ONE): ONE, cid_of(TWO): TWO})


def test_a_car_may_have_no_block_and_the_same_block_twice() -> None:
    assert read_car(HEAD) == (ROOT, {})
    assert read_car(car(ROOT, [ONE, ONE])) == (ROOT, {ROOT: ONE})


def test_a_block_may_be_empty_and_of_one_mebibyte_but_not_larger() -> None:
    # The length before it takes one byte to 127, two to 16,383, and then three; 36 are the CID's.
    for size in (0, 127 - 36, 128 - 36, 16_383 - 36, 16_384 - 36, MAX_BLOCK):
        data = bytes(size)
        assert read_car(car(ROOT, [data])) == (ROOT, {cid_of(data): data})
    with pytest.raises(BadCar):
        read_car(car(ROOT, [bytes(MAX_BLOCK + 1)]))


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_any_byte_of_any_block_is_noticed(bit: int) -> None:
    for place in range(len(HEAD), len(CAR)):
        data = bytearray(CAR)
        data[place] ^= 1 << bit
        with pytest.raises(BadCar):
            read_car(bytes(data))


def test_a_flipped_bit_in_the_bytes_of_a_block_is_told_apart() -> None:
    data = bytearray(CAR)
    data[-1] ^= 1
    with pytest.raises(BadBlock):
        read_car(bytes(data))


def test_a_cut_car_is_noticed_wherever_it_is_cut_but_between_blocks() -> None:
    whole = {len(HEAD), len(car(ROOT, [ONE]))}
    for end in range(len(CAR)):
        if end in whole:
            read_car(CAR[:end])
        else:
            with pytest.raises(BadCar):
                read_car(CAR[:end])


@pytest.mark.parametrize(
    "header",
    [
        {"version": 2, "roots": [ROOT]},
        {"version": 1, "roots": []},
        {"version": 1, "roots": [ROOT, ROOT]},
        {"version": 1, "roots": ROOT},
        {"version": 1, "roots": ["x"]},
        {"version": 1, "roots": [b"short"]},
        {"version": 1, "roots": None},
        {"version": 1},
        {"roots": [ROOT]},
        [1],
        7,
        {"version": 1, "roots": [ROOT], "x": "y" * 1_000},
    ],
)
def test_a_header_that_is_not_of_version_1_with_one_root_is_refused(header: object) -> None:
    with pytest.raises(BadCar):
        read_car(car(ROOT, [ONE], header))


@pytest.mark.parametrize(
    "head",
    [b"", b"\x80", b"\xff" * 5, b"\xff" * 1_000, b"\x01\xff", varint(900) + b"\x81" * 900],
    ids=["empty", "half a length", "5 bytes of length", "1000", "no CBOR", "deep nesting"],
)
def test_a_header_that_is_none_is_refused(head: bytes) -> None:
    with pytest.raises(BadCar):
        read_car(head)


@pytest.mark.parametrize(
    "tail",
    [
        varint(2**32),
        varint(2**63) + bytes(100),
        b"\x80" * 50,
        varint(35) + bytes(35),
        varint(0),
        section(b"\x01\x55\x12\x20" + cid_of(TWO)[4:], TWO),
        section(b"\x12\x20" + cid_of(TWO)[4:] + b"xx", TWO),
    ],
    ids=["4 GB", "2^63", "endless length", "no CID", "nothing", "a raw block", "a CID version 0"],
)
def test_a_block_of_another_form_is_refused(tail: bytes) -> None:
    with pytest.raises(BadCar):
        read_car(CAR + tail)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_car_or_a_bad_one(data: bytes) -> None:
    for car_bytes in (data, HEAD + data):
        try:
            _, blocks = read_car(car_bytes)
        except BadCar:
            continue
        assert all(cid_of(found) == cid for cid, found in blocks.items())
