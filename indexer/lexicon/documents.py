"""How a lexicon document is read: its definitions, checked by the same means as values are."""

import re
from functools import partial
from typing import Any, Final

from indexer.lexicon.checks import Check, Checks, LexiconError, Maker, Schema, at
from indexer.lexicon.scalars import make_string
from indexer.lexicon.syntax import FORMATS, is_nsid
from indexer.lexicon.values import MAKERS, make_array, make_object

# Three types of schema exist for documents only: `schema` is a schema `of`
# one of some types, `map` an object with any names, `reference` the name of a definition.


def _schema(schema: Schema, checks: Checks) -> Check:
    types = schema["of"]

    def check(value: Any, depth: int) -> dict[str, Any]:
        type_ = value.get("type") if isinstance(value, dict) else None
        if not isinstance(type_, str) or type_ not in types:
            raise LexiconError("", f"must be a schema of the type {' or '.join(types)}")
        for name in _REQUIRED.get(type_, ()):
            if name not in value:
                raise LexiconError(name, "is required")
        result: dict[str, Any] = checks.named(_ANY_SCHEMA)(value, depth)
        if type_ in _SCALAR:
            plain = {"type": type_}
            at("enum", make_array({"items": plain}, checks), value.get("enum", []), depth)
            if "const" in value:
                at("const", checks.of(plain), value["const"], depth)
            if "default" in value:
                at("default", checks.of(result), value["default"], depth)
        return result

    return check


def _map(schema: Schema, checks: Checks) -> Check:
    check_item = checks.of(schema["values"])

    def check(value: Any, depth: int) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise LexiconError("", "must be an object")
        return {name: at(name, check_item, item, depth) for name, item in value.items()}

    return check


def _reference(base: str, _: Schema, checks: Checks) -> Check:
    check_text = make_string({}, checks)

    def check(value: Any, depth: int) -> str:
        name: str = check_text(value, depth)
        nsid, mark, fragment = name.partition("#")
        if not is_nsid(nsid or base) or (mark and not _DEFINITION.fullmatch(fragment)):
            raise LexiconError("", "must be an NSID, a # and a name, or both together")
        return f"{nsid or base}{mark}{fragment}".removesuffix("#main")

    return check


def read_document(document: Any) -> dict[str, Schema]:
    """Return the definitions of a document by their full names; references become full too."""
    id_ = document.get("id") if isinstance(document, dict) else None
    base = id_ if isinstance(id_, str) else ""
    makers: dict[str, Maker] = {
        **MAKERS,
        "schema": _schema,
        "map": _map,
        "reference": partial(_reference, base),
    }
    check = make_object(_DOCUMENT, Checks({_ANY_SCHEMA: _SCHEMA}, makers))
    try:
        definitions = check(document, 0)["defs"]
    except LexiconError as error:
        raise error.within(base) if base else error from None
    if not definitions:
        raise LexiconError(f"{base}/defs", "must have a definition")
    for name, schema in definitions.items():
        if not _DEFINITION.fullmatch(name):
            raise LexiconError(f"{base}/defs", "must have names of letters and digits")
        if schema["type"] in _PRIMARY and name != "main":
            raise LexiconError(f"{base}/defs/{name}", f"must be main to be a {schema['type']}")
    return {base if name == "main" else f"{base}#{name}": d for name, d in definitions.items()}


_SCALAR = ("boolean", "integer", "string")
_NAMED = (*_SCALAR, "bytes", "cid-link", "blob", "array", "object")
_PRIMARY = ("record", "query", "procedure", "subscription", "permission-set")
_FIELD: Final = {"type": "schema", "of": (*_NAMED, "ref", "union", "unknown")}
_REQUIRED: Final = {
    "array": ("items",),
    "ref": ("ref",),
    "union": ("refs",),
    "record": ("key", "record"),
}
_DEFINITION: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9]{0,62}")
_NUMBER: Final = {"type": "integer"}
_SIZE: Final = {"type": "integer", "minimum": 0}
_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_BODY: Final = {
    "type": "object",
    "required": ["encoding"],
    "properties": {
        "encoding": _TEXT,
        "schema": {"type": "schema", "of": ("object", "ref", "union")},
    },
}
_ERROR: Final = {"type": "object", "required": ["name"], "properties": {"name": _TEXT}}
# A field means the same in every type that has it, so that one table does for all of them.
_ANY_SCHEMA: Final = "schema"  # its name here
_SCHEMA: Final[Schema] = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("minLength", "maxLength", "minGraphemes", "maxGraphemes"), _SIZE),
        **dict.fromkeys(("minimum", "maximum"), _NUMBER),
        **dict.fromkeys(("required", "nullable", "knownValues", "accept"), _TEXTS),
        **dict.fromkeys(("input", "output"), _BODY),
        "maxSize": _SIZE,
        "format": {"type": "string", "enum": list(FORMATS)},
        "items": _FIELD,
        "properties": {"type": "map", "values": _FIELD},
        "ref": {"type": "reference"},
        "refs": {"type": "array", "items": {"type": "reference"}},
        "closed": {"type": "boolean"},
        "key": _TEXT,
        "record": {"type": "schema", "of": ("object",)},
        "parameters": {"type": "schema", "of": ("params",)},
        "errors": {"type": "array", "items": _ERROR},
    },
}
_DOCUMENT: Final[Schema] = {
    "required": ["lexicon", "id", "defs"],
    "properties": {
        "lexicon": {"type": "integer", "const": 1},
        "id": {"type": "string", "format": "nsid"},
        "defs": {"type": "map", "values": {"type": "schema", "of": (*_NAMED, "token", *_PRIMARY)}},
    },
}
