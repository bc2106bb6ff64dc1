"""Strict JSON: it can be read in one way only, is not nested deeply, and can be stored."""

import json
from typing import Any

MAX_JSON_DEPTH = 32  # levels; the documents of this network have about four


def parse_json(raw: bytes) -> Any:
    """Return the value of a strict JSON text in UTF-8, or raise ValueError.

    Strict: no key twice in an object, no NaN or Infinity, no lone surrogate in a string, at most
    `MAX_JSON_DEPTH` levels. So every string of the value can be encoded, stored and logged.
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


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


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
