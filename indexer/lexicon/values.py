"""The checks of values that have others within them, and of what no schema describes."""

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Final

from indexer.lexicon.checks import (
    ANY_DEPTH,
    Check,
    Checks,
    LexiconError,
    Maker,
    Schema,
    at,
    enter,
)
from indexer.lexicon.scalars import SCALARS, size_of, utf8_size


def _blob(schema: Schema, checks: Checks) -> Check:
    check_properties = _properties(_BLOB, checks)
    most, accept = schema.get("maxSize"), schema.get("accept", ["*/*"])

    def check(value: Any, depth: int) -> dict[str, Any]:
        if not isinstance(value, dict) or value.get("$type") != "blob":
            raise LexiconError("", 'must be a blob, with "blob" as its $type')
        blob: dict[str, Any] = check_properties(value, depth)
        if most is not None and blob["size"] > most:
            raise LexiconError("", f"must be a blob of at most {most} bytes")
        major = blob["mimeType"].partition("/")[0]
        if not {"*/*", f"{major}/*", blob["mimeType"]}.intersection(accept):
            raise LexiconError("", f"must be a blob of the type {' or '.join(accept)}")
        return blob

    return check


def make_array(schema: Schema, checks: Checks) -> Check:
    check_item = checks.of(schema["items"])
    fit_length = size_of(schema, "Length", "elements")

    def check(value: Any, depth: int) -> list[Any]:
        if not isinstance(value, list):
            raise LexiconError("", "must be an array")
        if fit_length:
            fit_length(len(value))
        if value:
            enter(depth)
        result: list[Any] = []
        try:
            for item in value:
                result.append(check_item(item, depth + 1))
        except LexiconError as error:
            raise error.within(len(result)) from None
        return result

    return check


def make_object(schema: Schema, checks: Checks) -> Check:
    check_properties = _properties(schema, checks)

    def check(value: Any, depth: int) -> Any:
        if not isinstance(value, dict) or _compound(value):
            raise LexiconError("", "must be an object")
        return check_properties(value, depth)

    return check


def _properties(schema: Schema, checks: Checks) -> Check:
    properties = schema.get("properties", {})
    # Whatever else an object may hold, its `$type` is known.
    of_property = {"$type": _SOME_STRING}
    of_property |= {name: checks.of(sub) for name, sub in properties.items()}
    defaults = {name: sub["default"] for name, sub in properties.items() if "default" in sub}
    required, nullable = schema.get("required", ()), frozenset(schema.get("nullable", ()))

    def check(value: dict[str, Any], depth: int) -> dict[str, Any]:
        for name in required:
            if name not in value:
                raise LexiconError(name, "is required")
        if value:
            enter(depth)
        result = defaults.copy()
        unknown: dict[str, Any] = {}
        for name, item in value.items():
            check_item = of_property.get(name)
            if check_item is None:
                unknown[name] = result[name] = item
            elif item is None and name in nullable:
                result[name] = None
            else:
                try:
                    result[name] = check_item(item, depth + 1)
                except LexiconError as error:
                    raise error.within(name) from None
        if unknown:
            _names(unknown)
            at("*", _check_data, unknown.values(), depth)
        return result

    return check


def _ref(schema: Schema, checks: Checks) -> Check:
    name = schema["ref"]

    def check(value: Any, depth: int) -> Any:
        return checks.named(name)(value, depth)

    return check


def _union(schema: Schema, checks: Checks) -> Check:
    refs, is_closed = schema["refs"], schema.get("closed", False)

    def check(value: Any, depth: int) -> Any:
        variant = value.get("$type") if isinstance(value, dict) else None
        if not isinstance(variant, str):
            raise LexiconError("", "must be an object with a $type")
        if variant in refs:
            return checks.named(variant)(value, depth)
        if is_closed:
            raise LexiconError("$type", f"must be one of {', '.join(refs)}")
        return _check_unknown(value, depth)

    return check


def _unknown(_: Schema, __: Checks) -> Check:
    return _check_unknown


def _check_unknown(value: Any, depth: int) -> Any:
    if not isinstance(value, dict) or _compound(value):
        raise LexiconError("", "must be an object")
    _check_data((value,), depth)
    return value


def _compound(value: dict[str, Any]) -> str | None:
    """Name the type whose JSON form this is, if the object is no object in truth."""
    if "$bytes" in value:
        return "bytes"
    if "$link" in value:
        return "cid-link"
    return "blob" if value.get("$type") == "blob" else None


def check_fields_unknown(members: dict[str, Any]) -> None:
    """Check fields that no schema describes, nested to any depth: its limit is another's."""
    _names(members)
    at("*", _check_data, members.values(), ANY_DEPTH)


def _check_data(values: Iterable[Any], depth: int) -> None:
    """Check values that no schema describes, and all within them, against the data model alone."""
    # Level by level: a stranger's record may be made of 20,000 values, and to call a function for
    # each takes ten times as long; or of as many levels, and no call goes into itself so deep.
    level, top = values, depth
    while level:
        try:
            level = _check_level(level, depth)
            if level:
                enter(depth)
        except LexiconError as error:
            if depth == top:
                raise
            raise error.within("*") from None
        depth += 1


def _check_level(values: Iterable[Any], depth: int) -> list[Any]:
    """Check values without what lies within them, and return that."""
    within: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is dict:
            if compound := _compound(value):
                _COMPOUND[compound](value, depth)
            else:
                _names(value)
                within += value.values()
        elif kind is list:
            within += value
        elif kind is str:
            if not value.isascii():
                utf8_size(value)
        elif kind is int:
            if not -(2**63) <= value < 2**63:
                _ANY_INTEGER(value, depth)
        elif kind not in _PLAIN:
            raise LexiconError("", "must be data of atproto, which has no numbers with a fraction")
    return within


def _names(members: dict[Any, Any]) -> None:
    """Check the names in an object that no schema describes, and its `$type`."""
    for name in members:
        if type(name) is not str or not name.isascii():
            at("*", _ANY_STRING, name, 0)
    type_ = members.get("$type", "none is needed")
    if type(type_) is not str or not type_:
        at("*", _SOME_STRING, type_, 0)


MAKERS: Final[Mapping[str, Maker]] = {
    **SCALARS,
    "blob": _blob,
    "array": make_array,
    "object": make_object,
    "ref": _ref,
    "union": _union,
    "unknown": _unknown,
}
_PLAIN: Final = frozenset((NoneType, bool, bytes))
_BLOB: Final[Schema] = {
    "required": ["ref", "mimeType", "size"],
    "properties": {
        "$type": {"type": "string"},
        "ref": {"type": "cid-link"},
        "mimeType": {"type": "string", "minLength": 1},
        "size": {"type": "integer", "minimum": 1},
    },
}
_WITHOUT_SCHEMA: Final = Checks({}, MAKERS)
_ANY_INTEGER: Final = _WITHOUT_SCHEMA.of({"type": "integer"})
_ANY_STRING: Final = _WITHOUT_SCHEMA.of({"type": "string"})
_SOME_STRING: Final = _WITHOUT_SCHEMA.of({"type": "string", "minLength": 1})
_COMPOUND: Final = {
    type_: _WITHOUT_SCHEMA.of({"type": type_}) for type_ in ("bytes", "cid-link", "blob")
}
