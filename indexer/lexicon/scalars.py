"""The checks of values that have no others within them, and of how large a value may be."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from indexer.lexicon.checks import Check, Checks, LexiconError, Maker, Schema
from indexer.lexicon.syntax import FORMATS, count_graphemes, is_cid


def _boolean(schema: Schema, _: Checks) -> Check:
    choose = _choice(schema)

    def check(value: Any, _: int) -> bool:
        if not isinstance(value, bool):
            raise LexiconError("", "must be true or false")
        if choose:
            choose(value)
        return value

    return check


def _integer(schema: Schema, _: Checks) -> Check:
    least, most = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
    choose = _choice(schema)

    def check(value: Any, _: int) -> int:
        if type(value) is not int:  # in Python, and only there, True is an integer too
            raise LexiconError("", "must be an integer")
        if not least <= value <= most:
            if not -(2**63) <= value < 2**63:
                raise LexiconError("", "must be an integer of at most 64 bits")
            limit = f"{least} or more" if value < least else f"{most} or less"
            raise LexiconError("", f"must be {limit}")
        if choose:
            choose(value)
        return value

    return check


def make_string(schema: Schema, _: Checks) -> Check:
    fit_length = size_of(schema, "Length", "bytes of UTF-8")
    fit_graphemes = size_of(schema, "Graphemes", "graphemes")
    format_ = schema.get("format")
    has_format = FORMATS[format_] if format_ else None
    choose = _choice(schema)

    def check(value: Any, _: int) -> str:
        if not isinstance(value, str):
            raise LexiconError("", "must be a string")
        size = len(value) if value.isascii() else utf8_size(value)
        if fit_length:
            fit_length(size)
        if fit_graphemes:
            fit_graphemes(count_graphemes(value))
        if has_format and not has_format(value):
            raise LexiconError("", f"must have the format {format_}")
        if choose:
            choose(value)
        return value

    return check


def utf8_size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise LexiconError("", "must be Unicode text, without lone surrogates") from None


def _choice(schema: Schema) -> Callable[[object], None] | None:
    """Return what refuses a value that is not the one, or none of those, that may be."""
    if "const" not in schema and "enum" not in schema:
        return None

    def choose(value: object) -> None:
        if value != schema.get("const", value):
            raise LexiconError("", f"must be {json.dumps(schema['const'])}")
        if value not in schema.get("enum", (value,)):
            raise LexiconError("", f"must be one of {', '.join(map(json.dumps, schema['enum']))}")

    return choose


def size_of(schema: Schema, what: str, unit: str) -> Callable[[int], None] | None:
    """Return what refuses a size beyond the schema's limits, if it has any."""
    least, most = schema.get("min" + what, 0), schema.get("max" + what)
    if not least and most is None:
        return None

    def fit(size: int) -> None:
        if size < least:
            raise LexiconError("", f"must have at least {least} {unit}")
        if most is not None and size > most:
            raise LexiconError("", f"must have at most {most} {unit}")

    return fit


def _bytes(schema: Schema, _: Checks) -> Check:
    fit_length = size_of(schema, "Length", "bytes")

    def check(value: Any, _: int) -> Any:
        if isinstance(value, bytes):
            size = len(value)
        else:
            has_form = isinstance(value, dict) and value.keys() == {"$bytes"}
            text = value["$bytes"] if has_form else None
            if not isinstance(text, str) or not _BASE64.fullmatch(text):
                raise LexiconError("", 'must be bytes: in JSON, {"$bytes": …} with base64')
            size = len(text.rstrip("=")) * 3 // 4
        if fit_length:
            fit_length(size)
        return value

    return check


def _cid_link(_: Schema, __: Checks) -> Check:
    return _check_link


def _check_link(value: Any, _: int) -> Any:
    if isinstance(value, bytes):
        # A binary CIDv1: version, codec, hash function and length are one byte each at least.
        fits = value.startswith(b"\x01") and 4 < len(value) <= 128
    else:
        text = value["$link"] if isinstance(value, dict) and value.keys() == {"$link"} else None
        fits = isinstance(text, str) and is_cid(text)
    if not fits:
        raise LexiconError("", 'must be a link: in JSON, {"$link": …} with a CID')
    return value


SCALARS: Final[Mapping[str, Maker]] = {
    "boolean": _boolean,
    "integer": _integer,
    "string": make_string,
    "bytes": _bytes,
    "cid-link": _cid_link,
}
_BASE64: Final = re.compile(r"(?:[a-zA-Z0-9+/]{4})*(?:[a-zA-Z0-9+/]{2}(?:==)?|[a-zA-Z0-9+/]{3}=?)?")
