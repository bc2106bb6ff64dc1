"""Calls made from lexicon documents: at each edge of what a document allows, and one beyond.

The documents are read here a second time, by hand: the tests must not believe the interpreter.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from tests.support.lexicon_texts import BAD_TEXTS, CID, FAMILY, FORMATS, ODD_TEXTS

Schema = Mapping[str, Any]

# Of each type of JSON a value; a schema's own type is left out.
ALIENS: dict[str, list[Any]] = {
    "null": [None],
    "boolean": [True],
    "integer": [1],
    "fraction": [1.5, 1.0],
    "string": ["1"],
    "array": [[]],
    "object": [{}],
    "bytes": [{"$bytes": "AAAA"}],
    "cid-link": [{"$link": CID}],
}
FIRST, LAST = -(2**63), 2**63 - 1  # of the integers
UNKNOWN_FIELDS: dict[str, Any] = {"$type": "com.example.x", "later": {"deep": [1, None, {"": {}}]}}


@dataclass(frozen=True, slots=True)
class Edge:
    """What a call may be given, and what its handler must get of that."""

    about: str
    given: dict[str, Any]
    expected: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """A call that is wrong in one place; `options` are those of a request."""

    about: str
    place: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spot:
    """A place that a document describes; `put` gives the whole input with a value there."""

    place: str
    schema: Schema
    required: bool
    put: Callable[[Any], dict[str, Any]]


class Document:
    """A query or a procedure as its lexicon document describes it, with no reference left."""

    def __init__(self, nsid: str) -> None:
        main = _inline(DOCUMENTS[nsid]["defs"]["main"], nsid)
        self.nsid = nsid
        self.is_query: bool = main["type"] == "query"
        self.verb = "GET" if self.is_query else "POST"
        self.errors: list[str] = [error["name"] for error in main.get("errors", ())]
        empty: Schema = {"type": "object", "properties": {}}
        taken = main.get("parameters", empty) if self.is_query else main["input"]["schema"]
        self.input: Schema = taken
        self.output: Schema = main["output"]["schema"]

    def example(self) -> dict[str, Any]:
        """Return the least that fits."""
        made: dict[str, Any] = example(self.input)
        return made

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a request that gives this."""
        if not self.is_query:
            return {"json": given}
        return {"params": [(name, text) for name in given for text in _texts(given[name])]}

    def edges(self, base: dict[str, Any]) -> Iterator[Edge]:
        """Change one place of a good call after the other, as far as the document lets it."""
        yield self._edge("nothing else", base)
        for spot in _spots(self.input, base, "", lambda given: given):
            for about, value in _edges(spot.schema):
                if not (self.is_query and value == []):  # which no query string can say
                    yield self._edge(f"{spot.place}: {about}", spot.put(value))
            if spot.schema["type"] == "integer" and not self.is_query:
                whole = max(1, spot.schema.get("minimum", 1))
                about = f"{spot.place}: written with a point"
                yield Edge(about, spot.put(float(whole)), self._edge("", spot.put(whole)).expected)
            if spot.schema["type"] == "object" and not self.is_query:
                value = {**example(spot.schema), **UNKNOWN_FIELDS}
                yield self._edge(f"{spot.place}: unknown fields", spot.put(value))
            if "/" not in spot.place and not spot.required and spot.place in base:
                rest = {name: value for name, value in base.items() if name != spot.place}
                yield self._edge(f"{spot.place}: absent", rest)
        if self.is_query:
            yield Edge("unknown", {**base, "later": "x"}, self._edge("", base).expected)
        else:
            yield self._edge("unknown fields", {**base, **UNKNOWN_FIELDS})

    def faults(self) -> Iterator[Fault]:
        """Break one place of an example after the other."""
        yield from self._param_faults() if self.is_query else self._body_faults()

    def _edge(self, about: str, given: dict[str, Any]) -> Edge:
        # In a query string, an empty cursor is none.
        none = self.is_query and given.get("cursor") == ""
        said = {name: value for name, value in given.items() if not (none and name == "cursor")}
        return Edge(about, given, _filled(self.input, said))

    def _body_faults(self) -> Iterator[Fault]:
        base = self.example()
        for name in self.input.get("required", ()):
            rest = {key: value for key, value in base.items() if key != name}
            yield Fault(f"{name}: missing", name, {"json": rest})
        for spot in _spots(self.input, base, "", lambda given: given):
            kind = spot.schema["type"]
            for other, values in ALIENS.items():
                for value in values if other != kind else ():
                    if (kind, value) == ("integer", 1.0):
                        continue  # JSON has one kind of number: this is 1
                    about = f"{spot.place}: {json.dumps(value)} for {kind}"
                    yield Fault(about, spot.place, {"json": spot.put(value)})
            for about, value in _beyond(spot.schema):
                yield Fault(f"{spot.place}: {about}", spot.place, {"json": spot.put(value)})
            for name in spot.schema.get("required", ()):
                rest = {key: v for key, v in example(spot.schema).items() if key != name}
                place = f"{spot.place}/{name}"
                yield Fault(f"{place}: missing", place, {"json": spot.put(rest)})

    def _param_faults(self) -> Iterator[Fault]:
        base = self.example()
        for name in self.input.get("required", ()):
            rest = {key: value for key, value in base.items() if key != name}
            yield Fault(f"{name}: missing", name, self.options(rest))
        for name, schema in self.input["properties"].items():
            for place, about, value in _bad_params(name, schema):
                options = self.options({**base, name: value})
                yield Fault(f"{name}: {about}", place, options)


def example(schema: Schema) -> Any:
    """Return a value that fits: of an object what is required, of an array one element."""
    match schema["type"]:
        case "object" | "params":
            properties = schema.get("properties", {})
            return {name: example(properties[name]) for name in schema.get("required", ())}
        case "array":
            return [example(schema["items"])]
        case "union" | "unknown":
            return {"$type": "com.example.x"}
    return next(value for _, value in _edges(schema))


def methods() -> list[str]:
    """Return the NSIDs of all documents that describe a query or a procedure."""
    mains = {nsid: document["defs"].get("main", {}) for nsid, document in DOCUMENTS.items()}
    return [nsid for nsid, main in mains.items() if main.get("type") in ("query", "procedure")]


def _spots(
    schema: Schema, value: Any, place: str, put: Callable[[Any], dict[str, Any]]
) -> Iterator[Spot]:
    """Yield the places below this one, from the outside to the inside."""
    match schema["type"]:
        case "object" | "params":
            for name, inner in schema.get("properties", {}).items():

                def put_field(given: Any, name: str = name) -> dict[str, Any]:
                    return put({**value, name: given})

                here = f"{place}/{name}".removeprefix("/")
                required = name in schema.get("required", ())
                yield Spot(here, inner, required, put_field)
                yield from _spots(inner, value.get(name, example(inner)), here, put_field)
        case "array":

            def put_element(given: Any) -> dict[str, Any]:
                return put([given])

            yield Spot(f"{place}/0", schema["items"], True, put_element)
            element = value[0] if value else example(schema["items"])
            yield from _spots(schema["items"], element, f"{place}/0", put_element)


def _edges(schema: Schema) -> Iterator[tuple[str, Any]]:
    """Yield what just fits one schema, by what it is about."""
    match schema["type"]:
        case _ if choices := _choices(schema):
            yield from ((repr(choice), choice) for choice in choices)
        case "boolean":
            yield from (("true", True), ("false", False))
        case "integer":
            yield "least", schema.get("minimum", FIRST)
            yield "most", schema.get("maximum", LAST)
        case "array":
            least, most = schema.get("minLength", 0), schema.get("maxLength", 3)
            for size in sorted({least, most}):
                yield f"{size} elements", [example(schema["items"])] * size
        case "string" if "format" in schema:
            for text in FORMATS[schema["format"]][0]:
                yield f"{schema['format']} {text[:60]!r}", text
        case "string":
            limits = sorted(schema.keys() & _STEPS.keys())
            texts = [*schema.get("knownValues", ()), *(() if limits else ODD_TEXTS)]
            yield from ((repr(text[:60]), text) for text in texts)
            for limit in limits:
                yield from _sized(limit, schema[limit])


def _beyond(schema: Schema) -> Iterator[tuple[str, Any]]:
    """Yield what is of the type of one schema, and yet does not fit it."""
    choices = _choices(schema)
    match schema["type"]:
        case "boolean" if choices:
            yield "another", not choices[0]
        case "integer":
            yield "too little", schema.get("minimum", FIRST) - 1
            yield "too much", schema.get("maximum", LAST) + 1
            if choices:
                yield "another", max(choices) + 1
        case "array":
            for limit, step in (("minLength", -1), ("maxLength", 1)):
                if schema.get(limit):
                    size = schema[limit] + step
                    yield f"{size} elements", [example(schema["items"])] * size
        case "string":
            for text in FORMATS[schema["format"]][1] if "format" in schema else ():
                yield f"not {schema['format']}: {text[:60]!r}", text
            for choice in choices:
                for text in sorted({choice + "\n", choice.upper(), choice + "x", ""} - {*choices}):
                    yield f"another: {text!r}", text
            for limit in sorted(schema.keys() & _STEPS.keys()):
                yield from _sized(limit, schema[limit] + _STEPS[limit])


_STEPS = {"minLength": -1, "minGraphemes": -1, "maxLength": 1, "maxGraphemes": 1}


def _choices(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def _sized(limit: str, size: int) -> Iterator[tuple[str, str]]:
    """Yield texts of just so many bytes or graphemes, of one and of more bytes a character."""
    unit = "graphemes" if "Graphemes" in limit else "bytes"
    yield f"{size} {unit} for {limit}", "x" * size
    if unit == "graphemes":
        yield f"{size} long {unit} for {limit}", FAMILY * size
    elif size > 1:
        yield f"{size} {unit} of Latin-1 for {limit}", "é" * (size // 2) + "x" * (size % 2)


def _filled(schema: Schema, value: Any) -> Any:
    """Return the value with the defaults of what is absent."""
    match schema["type"]:
        case "object" | "params":
            inner = schema.get("properties", {})
            filled = {name: sub["default"] for name, sub in inner.items() if "default" in sub}
            for name, item in value.items():
                filled[name] = _filled(inner.get(name, _ANY), item)
            return filled
        case "array":
            return [_filled(schema["items"], item) for item in value]
    return value


_ANY: Schema = {"type": "unknown"}


def _bad_params(name: str, schema: Schema) -> Iterator[tuple[str, str, Any]]:
    """Yield what a parameter may not be, with its place and what it is about."""
    if schema["type"] != "array":
        once = example(schema)
        yield name, "repeated", ["x" if once == "" else once] * 2
    # What is no text of its type at all is told of before there is an element.
    element = schema.get("items", schema)
    for text in BAD_TEXTS.get(element["type"], ()):
        yield name, repr(text[:60]), text
    for about, value in _beyond(element):
        yield name if element is schema else f"{name}/0", about, value
    if element is not schema:
        yield from ((name, about, value) for about, value in _beyond(schema))


def _texts(value: Any) -> list[str]:
    """Return a parameter as a query string writes it: an array repeats the name."""
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value if isinstance(value, str) else json.dumps(value)]


def _inline(schema: Any, nsid: str) -> Any:
    if isinstance(schema, list):
        return [_inline(item, nsid) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "ref":
        base, _, name = schema["ref"].partition("#")
        return _inline(DOCUMENTS[base or nsid]["defs"][name or "main"], base or nsid)
    return {key: _inline(value, nsid) for key, value in schema.items()}


def _read() -> dict[str, dict[str, Any]]:
    folder = files("xrpc") / "lexicons"
    entries = [entry for entry in folder.iterdir() if entry.name.endswith(".json")]
    return {entry.name.removesuffix(".json"): json.loads(entry.read_text()) for entry in entries}


DOCUMENTS = dict(sorted(_read().items()))  # by their files' names
