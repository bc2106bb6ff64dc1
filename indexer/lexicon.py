"""An interpreter over lexicon documents: does this value fit its schema?

It takes values as `json.loads` and as `libipld.decode_dag_cbor` give them: bytes and links are
`{"$bytes": …}` and `{"$link": …}` or plain `bytes`. libipld makes `bytes` of byte strings and of
links alike, so that in this form the one can't be told from the other by more than its look.

Unexpected fields are allowed, as lexicons must be able to grow, but what they hold has to be data
of atproto: no float, no integer beyond 64 bits, no lone surrogate, no endless nesting.

Errors name the place and what is expected there; they never repeat the value.

Sources: atproto.com/specs/{lexicon,data-model}.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from indexer.lexicon_values import (
    CHECKS,
    MAX_DEPTH,
    Check,
    LexiconError,
    Place,
    Schema,
    check_array,
    check_object,
    check_properties,
    check_record,
    check_string,
    fit,
)
from indexer.syntax import FORMATS, is_nsid

__all__ = ["MAX_DEPTH", "LexiconError", "Lexicons"]


class Lexicons:
    """Lexicon documents, ready to check values against.

    Methods that check return the value with the defaults of absent fields filled in; they raise
    `LexiconError`, and nothing else, whatever the value is. An NSID that is not described here,
    or not as that kind of thing, is the caller's mistake: `KeyError`.
    """

    def __init__(self, documents: Iterable[Any]) -> None:
        """Raise `LexiconError` for a document that breaks the rules of the lexicon language."""
        definitions: dict[str, Schema] = {}
        self._definitions: Mapping[str, Schema] = MappingProxyType(definitions)
        for document in documents:
            for name, schema in _read_document(document).items():
                if name in definitions:
                    raise LexiconError(name, "is defined twice")
                definitions[name] = schema

    @classmethod
    def load(cls, *directories: Path | Traversable) -> Self:
        """Read every `*.json` in these directories; an error names the file."""
        documents = []
        for directory in directories:
            for file in sorted(directory.iterdir(), key=lambda entry: entry.name):
                if file.name.endswith(".json"):
                    try:
                        documents.append(json.loads(file.read_bytes()))
                    except ValueError as error:
                        raise LexiconError(file.name, f"is not JSON: {error}") from error
        return cls(documents)

    def kind(self, nsid: str) -> str | None:
        """Return what the NSID names, like `query` or `record`; None if it is not known here."""
        schema = self._definitions.get(nsid)
        return None if schema is None else schema["type"]

    def errors(self, nsid: str) -> frozenset[str]:
        """Return the names of the errors that a query or a procedure declares."""
        schema = self._primary(nsid, "query", "procedure")
        return frozenset(error["name"] for error in schema.get("errors", ()))

    def record(self, nsid: str, value: object, type_: str | None = None) -> dict[str, Any]:
        """Check a record, whose `$type` must be `type_`: by default the NSID itself."""
        return check_record(self._primary(nsid, "record"), type_ or nsid, value, self._top())

    def input(self, nsid: str, value: object) -> Any:
        """Check the body of a call; None stands for no body."""
        return self._body(self._primary(nsid, "procedure").get("input"), value)

    def output(self, nsid: str, value: object) -> Any:
        """Check the body of an answer; None stands for no body."""
        return self._body(self._primary(nsid, "query", "procedure").get("output"), value)

    def params(self, nsid: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Check and type a query string; parameters that the document lacks are left out.

        An integer is decimal digits with or without a minus sign, a boolean `true` or `false`,
        an array a repeated name. Any other parameter may come only once.
        """
        schema = self._primary(nsid, "query", "procedure").get("parameters", {})
        place = self._top()
        texts: dict[str, list[str]] = {name: [] for name in schema.get("properties", ())}
        for name, text in pairs:
            if name in texts:
                texts[name].append(text)
        values = {
            name: _read_param(schema["properties"][name], given, place.within(name))
            for name, given in texts.items()
            if given
        }
        return check_object(schema, values, place)

    def _primary(self, nsid: str, *kinds: str) -> Schema:
        if self.kind(nsid) not in kinds:
            raise KeyError(f"no {' or '.join(kinds)} {nsid!r} among the lexicons")
        return self._definitions[nsid]

    def _body(self, body: Schema | None, value: object) -> Any:
        if body is None:
            if value is not None:
                raise LexiconError("", "must be absent: no body is expected")
            return None
        return fit(body["schema"], value, self._top()) if "schema" in body else value

    def _top(self) -> Place:
        return Place("", 0, self._definitions, CHECKS)


def _read_param(schema: Schema, texts: list[str], place: Place) -> Any:
    if schema["type"] == "array":
        return [_read_text(schema["items"]["type"], text, place) for text in texts]
    if len(texts) > 1:
        raise place.refuse("must be given only once")
    return _read_text(schema["type"], texts[0], place)


def _read_text(type_: str, text: str, place: Place) -> Any:
    if type_ == "integer":
        if not _DIGITS.fullmatch(text):
            raise place.refuse("must be an integer in decimal digits")
        return int(text)
    if type_ == "boolean":
        if text not in {"true", "false"}:
            raise place.refuse("must be true or false")
        return text == "true"
    return text


# Documents are read by the same checks. Three types exist for them only: `schema` is a schema `of`
# one of some types, `map` an object with any names, `reference` the name of a definition.


def _schema(schema: Schema, value: Any, place: Place) -> dict[str, Any]:
    type_ = value.get("type") if isinstance(value, dict) else None
    if not isinstance(type_, str) or type_ not in schema["of"]:
        raise place.refuse(f"must be a schema of the type {' or '.join(schema['of'])}")
    for name in _REQUIRED.get(type_, ()):
        if name not in value:
            raise place.within(name).refuse("is required")
    result = check_properties(_SCHEMA, value, place)
    if type_ in _SCALAR:
        plain = {"type": type_}
        check_array({"items": plain}, value.get("enum", []), place.within("enum"))
        if "const" in value:
            fit(plain, value["const"], place.within("const"))
        if "default" in value:
            fit(result, value["default"], place.within("default"))
    return result


def _map(schema: Schema, value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise place.refuse("must be an object")
    return {name: fit(schema["values"], item, place.within(name)) for name, item in value.items()}


def _reference(base: str, _: Schema, value: Any, place: Place) -> str:
    name = check_string({}, value, place)
    nsid, mark, fragment = name.partition("#")
    if not is_nsid(nsid or base) or (mark and not _DEFINITION.fullmatch(fragment)):
        raise place.refuse("must be an NSID, a # and a name, or both together")
    return f"{nsid or base}{mark}{fragment}".removesuffix("#main")


def _read_document(document: Any) -> dict[str, Schema]:
    """Return the definitions of a document by their full names; references become full too."""
    id_ = document.get("id") if isinstance(document, dict) else None
    base = id_ if isinstance(id_, str) else ""
    checks: dict[str, Check] = {
        **CHECKS,
        "schema": _schema,
        "map": _map,
        "reference": partial(_reference, base),
    }
    definitions = check_object(_DOCUMENT, document, Place(base, 0, {}, checks))["defs"]
    if not definitions:
        raise LexiconError(f"{base}/defs", "must have a definition")
    for name, schema in definitions.items():
        if not _DEFINITION.fullmatch(name):
            raise LexiconError(f"{base}/defs", "must have names of letters and digits")
        if schema["type"] in _PRIMARY and name != "main":
            raise LexiconError(f"{base}/defs/{name}", f"must be main to be a {schema['type']}")
    return {base if name == "main" else f"{base}#{name}": d for name, d in definitions.items()}


_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")  # as many as 64 bits can need
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
_SCHEMA: Final[Schema] = {
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
    }
}
_DOCUMENT: Final[Schema] = {
    "required": ["lexicon", "id", "defs"],
    "properties": {
        "lexicon": {"type": "integer", "const": 1},
        "id": {"type": "string", "format": "nsid"},
        "defs": {"type": "map", "values": {"type": "schema", "of": (*_NAMED, "token", *_PRIMARY)}},
    },
}
