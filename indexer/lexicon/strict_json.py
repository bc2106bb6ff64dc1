"""Strict JSON: it can be read in one way only, is not nested deeply, and can be stored."""

import json
import re
from typing import Any

MAX_JSON_DEPTH = 32  # levels; the documents of this network have about four


def parse_json(raw: bytes) -> Any:
    """Return the value of a strict JSON text in UTF-8, or raise ValueError.

    Strict: no key twice in an object, no NaN or Infinity, no number beyond a double, no lone
    surrogate in a string, at most `MAX_JSON_DEPTH` levels. So every string of the value can be
    encoded, stored and logged. An integer is an `int` however it is written: 5, 5.0 and 50e-1.
    """
    text = raw.decode()
    try:
        value = _STRICT.decode(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    # What has few brackets can't be deep: most texts need not be walked through.
    if text.count("{") + text.count("[") > MAX_JSON_DEPTH and not _is_shallow(value):
        raise ValueError("JSON is nested too deeply")
    if "\\u" in text:  # only an escape can make a lone surrogate
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("JSON object has a key twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> int | float:
    """Return what has a point or an exponent: an integer if it is one to the last digit."""
    value = float(text)  # of any length and exponent in no time, but rounded
    if abs(value) == float("inf"):
        raise ValueError("JSON number is too large")
    if not value.is_integer() or abs(value) >= 2**64:  # more than an integer of atproto can be
        return value
    if len(text) <= _EXACT and value:
        return int(value)
    sign, whole, fraction, exponent = _NUMBER.fullmatch(text).groups("")  # type: ignore[union-attr]
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return 0
    scale = int(exponent or 0) - len(fraction) + len(digits) - len(significant)
    return int(sign + significant) * 10**scale if scale >= 0 else value


_STRICT = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_number
)
_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?", re.ASCII)
_EXACT = 15  # characters: with so few digits, a fraction is never rounded to an integer but zero


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        nested = [each for each in level if isinstance(each, dict | list)]
        if not nested:
            return True
        level = [
            child
            for each in nested
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return False
