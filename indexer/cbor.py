"""What can be told of DAG-CBOR without building it, in a bounded number of steps. Pure.

A decoder makes an object of each value: of a stranger's megabyte of empty lists, a million. And it
refuses the whole for one wrong byte. This walks from head to head instead.

Source: RFC 8949, section 3.
"""

from contextlib import suppress
from typing import NamedTuple

MAX_FIELDS = 64  # of a map that is skimmed; those of the protocol have a dozen
MAX_TEXT = 2_048  # bytes of a text that is skimmed; a DID is no longer
SKIM_STEPS = 10_000  # values that are looked at in all

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)  # major types
_IN_HEAD = 24  # an argument below stands in the head itself; from here on behind it
_INDEFINITE = 28  # from here on none that DAG-CBOR has
_SIMPLE_VALUES = {20: False, 21: True, 22: None}

Scalar = int | str | bool | None
Fields = dict[str, Scalar]


def has_more_values(data: bytes, most: int) -> bool:
    """Whether these items are made of more values than `most`, or claim to be.

    A key of a map counts with its value, a link as one. Of data that is malformed it is told up to
    there.
    """
    position, left, end = 0, most, len(data)
    while position < end:
        left -= 1
        if left < 0:
            return True
        first = data[position]
        position += 1
        kind, argument = first >> 5, first & 31
        if argument >= _IN_HEAD:
            if argument >= _INDEFINITE:
                return False
            size = 1 << (argument - _IN_HEAD)
            argument = int.from_bytes(data[position : position + size])
            position += size
        if kind in (_BYTES, _TEXT):
            position += argument
        elif kind in (_ARRAY, _MAP):
            if argument > left:
                return True
            if kind == _MAP:
                left += argument
        elif kind == _TAG:
            left += 1
    return False


def without_depths(data: bytes, levels: int, most: int) -> bytes | None:
    """Return a map without the fields that are nested deeper than so many levels.

    Decoders go into each other for each level, and have to stop somewhere. None if it is no map,
    or has more values than `most`.
    """
    walk = _Walk(data, 2 * most)
    kept: list[bytes] = []
    try:
        kind, count = walk.head()
        if kind != _MAP or count > most:
            return None
        for _ in range(count):
            start = walk.position
            walk.skip(*walk.head())  # the key
            if walk.skip(*walk.head()) <= levels:
                kept.append(data[start : walk.position])
    except _LostError:
        return None
    if walk.position != len(data):
        return None
    return b"\xb9" + len(kept).to_bytes(2) + b"".join(kept)


class Skimmed(NamedTuple):
    """The plain fields of the maps that an event stream's message is made of, as far as they go."""

    header: Fields
    body: Fields
    body_at: int | None  # where the body begins; None if the header has no end


def skim(message: bytes) -> Skimmed:
    """Return what fields can be read of a message, whatever else is wrong with it.

    Text that is not UTF-8 is read with replacements, a long one cut. Fields that are no numbers,
    texts, booleans or nulls are left out, and so is all behind a place where it makes no sense.
    """
    header: Fields = {}
    body: Fields = {}
    walk = _Walk(message, SKIM_STEPS)
    try:
        walk.fields(header)
    except _LostError:
        return Skimmed(header, body, None)
    body_at = walk.position
    with suppress(_LostError):
        walk.fields(body)
    return Skimmed(header, body, body_at)


class _LostError(Exception):
    """Here it makes no sense any more, or takes too long."""


class _Walk:
    def __init__(self, data: bytes, steps: int) -> None:
        self.position = 0
        self._data = data
        self._steps = steps

    def fields(self, into: Fields) -> None:
        """Read a map; of a key that comes twice the first value counts."""
        kind, count = self.head()
        if kind != _MAP or count > MAX_FIELDS:
            raise _LostError
        for _ in range(count):
            kind, size = self.head()
            if kind != _TEXT:
                raise _LostError
            key = self._text(size)
            value = self._value()
            if not isinstance(value, _Other) and key not in into:
                into[key] = value

    def _value(self) -> "Scalar | _Other":
        kind, argument = self.head()
        if kind == _UNSIGNED:
            return argument
        if kind == _NEGATIVE:
            return -1 - argument
        if kind == _TEXT:
            return self._text(argument)
        if kind == _SIMPLE and argument in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[argument]
        self.skip(kind, argument)
        return _OTHER

    def skip(self, kind: int, argument: int) -> int:
        """Pass over the rest of a value whose head was read; return how deep it is nested."""
        within = [0]  # values that are still to come, level by level
        deepest = 0
        while True:
            if kind in (_BYTES, _TEXT):
                self.position += argument
            elif kind in (_ARRAY, _MAP) and argument:
                within.append(argument if kind == _ARRAY else 2 * argument)
                deepest = max(deepest, len(within) - 1)
            elif kind == _TAG:
                within[-1] += 1
            while len(within) > 1 and not within[-1]:
                within.pop()
            if not within[-1]:
                return deepest
            within[-1] -= 1
            kind, argument = self.head()

    def head(self) -> tuple[int, int]:
        data, position = self._data, self.position
        self._steps -= 1
        if position >= len(data) or not self._steps:
            raise _LostError
        kind, argument = data[position] >> 5, data[position] & 31
        position += 1
        if argument >= _IN_HEAD:
            if argument >= _INDEFINITE:
                raise _LostError
            size = 1 << (argument - _IN_HEAD)
            argument = int.from_bytes(data[position : position + size])
            position += size
        self.position = position
        return kind, argument

    def _text(self, size: int) -> str:
        start = self.position
        self.position += size
        if self.position > len(self._data):
            raise _LostError
        return self._data[start : start + min(size, MAX_TEXT)].decode(errors="replace")


class _Other:
    """A value that is none of the plain ones."""


_OTHER = _Other()
