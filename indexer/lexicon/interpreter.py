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
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, Self

from indexer.lexicon.checks import (
    MAX_DEPTH,
    Check,
    Checks,
    LexiconError,
    Schema,
    as_record,
)
from indexer.lexicon.documents import read_document
from indexer.lexicon.values import MAKERS, check_fields_unknown, make_object

__all__ = ["MAX_DEPTH", "LexiconError", "Lexicons"]


class Lexicons:
    """Lexicon documents, ready to check values against.

    Methods that check return the value with the defaults of absent fields filled in; they raise
    `LexiconError`, and nothing else, whatever the value is. An NSID that is not described here,
    or not as that kind of thing, is the caller's mistake: `KeyError`.
    """

    def __init__(self, documents: Iterable[Any]) -> None:
        """Raise `LexiconError` for a document that breaks the rules of the lexicon language."""
        self._definitions: dict[str, Schema] = {}
        for document in documents:
            for name, schema in read_document(document).items():
                if name in self._definitions:
                    raise LexiconError(name, "is defined twice")
                self._definitions[name] = schema
        checks = Checks(self._definitions, MAKERS)
        self._records: dict[str, Check] = {}  # of their fields
        self._calls: dict[str, _Call] = {}
        for name, schema in self._definitions.items():
            if schema["type"] == "record":
                self._records[name] = checks.of(schema["record"])
            elif schema["type"] in {"query", "procedure"}:
                self._calls[name] = _Call.of(schema, checks)

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
        return self._call(nsid).errors

    def record(self, nsid: str, value: object, type_: str | None = None) -> dict[str, Any]:
        """Check a record, whose `$type` must be `type_`: by default the NSID itself."""
        if nsid not in self._records:
            raise KeyError(f"no record {nsid!r} among the lexicons")
        checked: dict[str, Any] = as_record(self._records[nsid], type_ or nsid)(value, 0)
        return checked

    def stored_record(
        self, nsid: str, value: Mapping[str, Any], type_: str | None = None
    ) -> dict[str, Any]:
        """Check a record that a repo holds; return the fields that its document has.

        The others may be nested to any depth: hosts take whatever their stack allows.
        """
        described = {"$type", *self._definitions[nsid]["record"].get("properties", {})}
        check_fields_unknown({key: item for key, item in value.items() if key not in described})
        known = {key: item for key, item in value.items() if key in described}
        return self.record(nsid, known, type_)

    def input(self, nsid: str, value: object) -> Any:
        """Check the body of a call; None stands for no body."""
        call = self._call(nsid)
        if call.kind != "procedure":
            raise KeyError(f"{nsid!r} is a {call.kind}, which has no input")
        return call.input(value, 0)

    def output(self, nsid: str, value: object) -> Any:
        """Check the body of an answer; None stands for no body."""
        return self._call(nsid).output(value, 0)

    def params(self, nsid: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Check and type a query string; parameters that the document lacks are left out.

        An integer is decimal digits with or without a minus sign, a boolean `true` or `false`,
        an array a repeated name. Any other parameter may come only once.
        """
        call = self._call(nsid)
        values: dict[str, Any] = {}
        for name, text in pairs:
            schema = call.parameters.get(name)
            if schema is None:
                continue
            if schema["type"] == "array":
                values.setdefault(name, []).append(_read_text(name, schema["items"]["type"], text))
            elif name in values:
                raise LexiconError(name, "must be given only once")
            else:
                values[name] = _read_text(name, schema["type"], text)
        checked: dict[str, Any] = call.params(values, 0)
        return checked

    def _call(self, nsid: str) -> "_Call":
        if nsid not in self._calls:
            raise KeyError(f"no query or procedure {nsid!r} among the lexicons")
        return self._calls[nsid]


@dataclass(frozen=True, slots=True)
class _Call:
    """A query or a procedure, with the checks of what goes in and comes out."""

    kind: str
    errors: frozenset[str]
    parameters: Mapping[str, Schema]  # by name
    params: Check
    input: Check
    output: Check

    @classmethod
    def of(cls, schema: Schema, checks: Checks) -> Self:
        parameters = schema.get("parameters", {})
        return cls(
            kind=schema["type"],
            errors=frozenset(error["name"] for error in schema.get("errors", ())),
            parameters=parameters.get("properties", {}),
            params=make_object(parameters, checks),
            input=_body(schema.get("input"), checks),
            output=_body(schema.get("output"), checks),
        )


def _body(body: Schema | None, checks: Checks) -> Check:
    if body is None:
        return _no_body
    return checks.of(body["schema"]) if "schema" in body else _any_body


def _no_body(value: Any, _: int) -> None:
    if value is not None:
        raise LexiconError("", "must be absent: no body is expected")


def _any_body(value: Any, _: int) -> Any:
    return value


def _read_text(name: str, type_: str, text: str) -> Any:
    if type_ == "integer":
        if not _DIGITS.fullmatch(text):
            raise LexiconError(name, "must be an integer in decimal digits")
        return int(text)
    if type_ == "boolean":
        if text not in {"true", "false"}:
            raise LexiconError(name, "must be true or false")
        return text == "true"
    return text


_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")  # as many as 64 bits can need
