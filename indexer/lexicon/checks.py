"""What a check of the lexicon interpreter is, and how it is made.

A check takes a value and the depth at which it lies, and returns the value with defaults filled
in, or raises `LexiconError`. It is made once, when the documents are read, and holds what the
schema says; a place gets its name only when something there is refused. Schemas have been checked
before and can be trusted; values have not.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

MAX_DEPTH = 64  # objects and arrays within each other, in a value or a document
ANY_DEPTH = -(10**9)  # where a value begins whose depth is limited by other means

Schema: TypeAlias = Mapping[str, Any]
Check: TypeAlias = Callable[[Any, int], Any]
Maker: TypeAlias = Callable[[Schema, "Checks"], Check]


class LexiconError(ValueError):
    """A value, or a document, that does not fit.

    `path` is the place, like `uris/3` or `$type`: empty for the value as a whole, `*` for what is
    inside of fields that no schema describes. The message is a sentence that begins with the
    place and says what is expected there.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'The value'} {problem}")
        self.path = path
        self.problem = problem

    def within(self, key: str | int) -> "LexiconError":
        """Return this error as one of the value that has the refused one at `key`."""
        if key == "*" and self.path.startswith("*"):
            return self  # one does for all levels: names that a stranger chose stay out
        return LexiconError(f"{key}/{self.path}" if self.path else str(key), self.problem)


class Checks:
    """Makes the checks of schemas.

    `definitions` are by their full names, `makers` by the `type` of a schema.
    """

    def __init__(self, definitions: Mapping[str, Schema], makers: Mapping[str, Maker]) -> None:
        self._definitions = definitions
        self._makers = makers
        self._named: dict[str, Check] = {}

    def of(self, schema: Schema) -> Check:
        return self._makers[schema["type"]](schema, self)

    def named(self, name: str) -> Check:
        """Return the check of a definition: made when it is first met, as it may lead to itself."""
        found = self._named.get(name)
        if found is None:
            found = self._named[name] = self._make(name)
        return found

    def _make(self, name: str) -> Check:
        target = self._definitions.get(name, {"type": "unheard of"})
        if target["type"] == "record":
            return as_record(self.of(target["record"]), name)
        if target["type"] not in self._makers:
            return _refuse(f"can't be checked: {name} is not known here as a type of values")
        return self.of(target)


def at(key: str | int, check: Check, value: Any, depth: int) -> Any:
    """Check what lies at `key` of a value of this depth."""
    try:
        return check(value, depth + 1)
    except LexiconError as error:
        raise error.within(key) from None


def _refuse(problem: str) -> Check:
    def check(_: Any, __: int) -> None:
        raise LexiconError("", problem)

    return check


def enter(depth: int) -> None:
    """Look into a value of this depth."""
    if depth >= MAX_DEPTH:
        raise LexiconError("", f"is nested deeper than {MAX_DEPTH} levels")


def as_record(check_fields: Check, type_: str) -> Check:
    """Return the check of a record whose `$type` must be `type_`."""

    def check(value: Any, depth: int) -> Any:
        if not isinstance(value, dict):
            raise LexiconError("", "must be an object")
        if value.get("$type") != type_:
            raise LexiconError("$type", f"must be {type_}")
        return check_fields(value, depth)

    return check
