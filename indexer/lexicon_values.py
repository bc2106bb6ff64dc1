"""The checks of the lexicon interpreter: one function for each type of value.

Each takes a schema of its type, a value and its place, and returns the value with defaults filled
in, or raises `LexiconError`. Schemas have been checked before and can be trusted; values have not.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from types import NoneType
from typing import Any, Final, NamedTuple, TypeAlias

from indexer.syntax import FORMATS, count_graphemes, is_cid

MAX_DEPTH = 64  # objects and arrays within each other, in a value or a document

Schema: TypeAlias = Mapping[str, Any]


class LexiconError(ValueError):
    """A value, or a document, that does not fit.

    `path` is the place, like `uris/3` or `$type`: empty for the value as a whole, `*` for what is
    inside of fields that no schema describes. The message is a sentence that begins with the
    place and says what is expected there.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'The value'} {problem}")
        self.path = path


class Place(NamedTuple):
    """Where we are in a value: its path, how deep that is, and what to look up on the way.

    `definitions` are by their full names, `checks` by the `type` of a schema.
    """

    path: str
    depth: int
    definitions: Mapping[str, Schema]
    checks: "Mapping[str, Check]"

    def within(self, key: str | int) -> "Place":
        if self.depth >= MAX_DEPTH:
            raise self.refuse(f"is nested deeper than {MAX_DEPTH} levels")
        path = f"{self.path}/{key}" if self.path else str(key)
        if key == "*" and self.path.endswith("*"):
            path = self.path  # one does for all levels: names that a stranger chose stay out
        return Place(path, self.depth + 1, self.definitions, self.checks)

    def refuse(self, problem: str) -> LexiconError:
        return LexiconError(self.path, problem)


def fit(schema: Schema, value: Any, place: Place) -> Any:
    return place.checks[schema["type"]](schema, value, place)


def _boolean(schema: Schema, value: Any, place: Place) -> bool:
    if not isinstance(value, bool):
        raise place.refuse("must be true or false")
    _choice(schema, value, place)
    return value


def _integer(schema: Schema, value: Any, place: Place) -> int:
    # In Python, and only there, True is an integer too.
    if not isinstance(value, int) or isinstance(value, bool):
        raise place.refuse("must be an integer")
    if not -(2**63) <= value < 2**63:
        raise place.refuse("must be an integer of at most 64 bits")
    if value < schema.get("minimum", value):
        raise place.refuse(f"must be {schema['minimum']} or more")
    if value > schema.get("maximum", value):
        raise place.refuse(f"must be {schema['maximum']} or less")
    _choice(schema, value, place)
    return value


def check_string(schema: Schema, value: Any, place: Place) -> str:
    if not isinstance(value, str):
        raise place.refuse("must be a string")
    _sized(schema, "Length", _utf8_size(value, place), "bytes of UTF-8", place)
    if "minGraphemes" in schema or "maxGraphemes" in schema:
        _sized(schema, "Graphemes", count_graphemes(value), "graphemes", place)
    if "format" in schema and not FORMATS[schema["format"]](value):
        raise place.refuse(f"must have the format {schema['format']}")
    _choice(schema, value, place)
    return value


def _utf8_size(text: str, place: Place) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise place.refuse("must be Unicode text, without lone surrogates") from None


def _choice(schema: Schema, value: object, place: Place) -> None:
    if value != schema.get("const", value):
        raise place.refuse(f"must be {json.dumps(schema['const'])}")
    if value not in schema.get("enum", (value,)):
        raise place.refuse(f"must be one of {', '.join(map(json.dumps, schema['enum']))}")


def _sized(schema: Schema, what: str, size: int, unit: str, place: Place) -> None:
    if size < schema.get("min" + what, size):
        raise place.refuse(f"must have at least {schema[f'min{what}']} {unit}")
    if size > schema.get("max" + what, size):
        raise place.refuse(f"must have at most {schema[f'max{what}']} {unit}")


def _bytes(schema: Schema, value: Any, place: Place) -> Any:
    if isinstance(value, bytes):
        size = len(value)
    else:
        text = value["$bytes"] if isinstance(value, dict) and value.keys() == {"$bytes"} else None
        if not isinstance(text, str) or not _BASE64.fullmatch(text):
            raise place.refuse('must be bytes: in JSON, {"$bytes": …} with base64')
        size = len(text.rstrip("=")) * 3 // 4
    _sized(schema, "Length", size, "bytes", place)
    return value


def _cid_link(_: Schema, value: Any, place: Place) -> Any:
    if isinstance(value, bytes):
        # A binary CIDv1: version, codec, hash function and length are one byte each at least.
        fits = value.startswith(b"\x01") and 4 < len(value) <= 128
    else:
        text = value["$link"] if isinstance(value, dict) and value.keys() == {"$link"} else None
        fits = isinstance(text, str) and is_cid(text)
    if not fits:
        raise place.refuse('must be a link: in JSON, {"$link": …} with a CID')
    return value


def _blob(schema: Schema, value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("$type") != "blob":
        raise place.refuse('must be a blob, with "blob" as its $type')
    blob = check_properties(_BLOB, value, place)
    if blob["size"] > schema.get("maxSize", blob["size"]):
        raise place.refuse(f"must be a blob of at most {schema['maxSize']} bytes")
    accept = schema.get("accept", ["*/*"])
    major = blob["mimeType"].partition("/")[0]
    if not {"*/*", f"{major}/*", blob["mimeType"]}.intersection(accept):
        raise place.refuse(f"must be a blob of the type {' or '.join(accept)}")
    return blob


def check_array(schema: Schema, value: Any, place: Place) -> list[Any]:
    if not isinstance(value, list):
        raise place.refuse("must be an array")
    _sized(schema, "Length", len(value), "elements", place)
    return [fit(schema["items"], item, place.within(i)) for i, item in enumerate(value)]


def check_object(schema: Schema, value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict) or _compound(value):
        raise place.refuse("must be an object")
    return check_properties(schema, value, place)


def check_properties(schema: Schema, value: dict[str, Any], place: Place) -> dict[str, Any]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise place.within(name).refuse("is required")
    result = {name: sub["default"] for name, sub in properties.items() if "default" in sub}
    unknown: dict[str, Any] = {}
    for name, item in value.items():
        if name not in properties:
            unknown[name] = result[name] = item
        elif item is None and name in schema.get("nullable", ()):
            result[name] = None
        else:
            result[name] = fit(properties[name], item, place.within(name))
    if unknown:
        _names(unknown, place)
        _data(unknown.values(), place.within("*"))
    return result


def check_record(schema: Schema, type_: str, value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise place.refuse("must be an object")
    if value.get("$type") != type_:
        raise place.within("$type").refuse(f"must be {type_}")
    return check_object(schema["record"], value, place)


def _ref(schema: Schema, value: Any, place: Place) -> Any:
    name = schema["ref"]
    target = place.definitions.get(name, {"type": "unheard of"})
    if target["type"] == "record":
        return check_record(target, name, value, place)
    if target["type"] not in CHECKS:
        raise place.refuse(f"can't be checked: {name} is not known here as a type of values")
    return fit(target, value, place)


def _union(schema: Schema, value: Any, place: Place) -> Any:
    variant = value.get("$type") if isinstance(value, dict) else None
    if not isinstance(variant, str):
        raise place.refuse("must be an object with a $type")
    if variant in schema["refs"]:
        return _ref({"ref": variant}, value, place)
    if schema.get("closed", False):
        raise place.within("$type").refuse(f"must be one of {', '.join(schema['refs'])}")
    return _unknown(schema, value, place)


def _unknown(_: Schema, value: Any, place: Place) -> Any:
    if not isinstance(value, dict) or _compound(value):
        raise place.refuse("must be an object")
    _data((value,), place)
    return value


def _compound(value: dict[str, Any]) -> str | None:
    """Name the type whose JSON form this is, if the object is no object in truth."""
    if "$bytes" in value:
        return "bytes"
    if "$link" in value:
        return "cid-link"
    return "blob" if value.get("$type") == "blob" else None


def _data(values: Iterable[Any], place: Place) -> None:
    """Check values that no schema describes, and all within them, against the data model alone."""
    # Level by level, and in one loop: a stranger's record may be made of 60,000 values, and to
    # call a function for each takes ten times as long.
    while True:
        within: list[Any] = []
        for value in values:
            kind = type(value)
            if kind is dict:
                if compound := _compound(value):
                    CHECKS[compound]({}, value, place)
                else:
                    _names(value, place)
                    within += value.values()
            elif kind is list:
                within += value
            elif kind is str:
                if not value.isascii():
                    _utf8_size(value, place)
            elif kind is int:
                if not -(2**63) <= value < 2**63:
                    _integer({}, value, place)
            elif kind not in _PLAIN:
                raise place.refuse("must be data of atproto, which has no numbers with a fraction")
        if not within:
            return
        values, place = within, place.within("*")


def _names(members: dict[Any, Any], place: Place) -> None:
    """Check the names in an object that no schema describes, and its `$type`."""
    for name in members:
        if type(name) is not str or not name.isascii():
            check_string({}, name, place.within("*"))
    type_ = members.get("$type", "none is needed")
    if type(type_) is not str or not type_:
        check_string({"minLength": 1}, type_, place.within("*"))


Check: TypeAlias = Callable[[Schema, Any, Place], Any]
CHECKS: Final[Mapping[str, Check]] = {
    "boolean": _boolean,
    "integer": _integer,
    "string": check_string,
    "bytes": _bytes,
    "cid-link": _cid_link,
    "blob": _blob,
    "array": check_array,
    "object": check_object,
    "ref": _ref,
    "union": _union,
    "unknown": _unknown,
}
_PLAIN: Final = frozenset((NoneType, bool, bytes))
_BASE64: Final = re.compile(r"(?:[a-zA-Z0-9+/]{4})*(?:[a-zA-Z0-9+/]{2}(?:==)?|[a-zA-Z0-9+/]{3}=?)?")
_BLOB: Final[Schema] = {
    "required": ["ref", "mimeType", "size"],
    "properties": {
        "$type": {"type": "string"},
        "ref": {"type": "cid-link"},
        "mimeType": {"type": "string", "minLength": 1},
        "size": {"type": "integer", "minimum": 1},
    },
}
