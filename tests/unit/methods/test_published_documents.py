"""What a client of the published documents sends is taken, and what it expects is answered.

`tests/published` has them by names, types and limits. Ours may say more, and never other things.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lexicon_cases import DOCUMENTS, Document, _inline

PUBLISHED = Path(__file__).parents[2] / "published"
FILES = sorted(PUBLISHED.glob("*/*.json"))
LIMITS = ("type", "format", "minimum", "maximum", "maxLength")
Schema = dict[str, Any]


def read(file: Path) -> Schema:
    """Return the main definition of a published document, with no reference left; {} if none."""
    era = {one.stem: json.loads(one.read_text()) for one in file.parent.glob("*.json")}

    def whole(schema: Any, nsid: str) -> Any:
        if isinstance(schema, list):
            return [whole(item, nsid) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if schema.get("type") == "ref":
            base, _, name = schema["ref"].partition("#")
            return whole(era[base or nsid]["defs"][name], base or nsid)
        return {key: whole(value, nsid) for key, value in schema.items()}

    main: Schema = whole(era[file.stem]["defs"].get("main", {}), file.stem)
    return main


METHODS = {f"{file.parent.name}/{file.stem}": main for file in FILES if (main := read(file))}


def taken(main: Schema) -> Schema:
    given: Schema = main["parameters"] if main["type"] == "query" else main["input"]["schema"]
    return given


def differences(theirs: Schema, ours: Schema, place: str) -> Iterator[str]:
    """Yield where two schemas of one thing differ in what both of them describe."""
    for name in LIMITS:
        if name in theirs and theirs[name] != ours.get(name) and theirs["type"] != "params":
            yield f"{place}: {name}"
    if "items" in theirs:
        yield from differences(theirs["items"], ours["items"], f"{place}/0")
    for name, inner in theirs.get("properties", {}).items():
        if name in ours["properties"]:
            yield from differences(inner, ours["properties"][name], f"{place}/{name}")


@pytest.mark.parametrize("name", METHODS)
def test_a_published_method_is_one_of_ours_of_the_same_kind_with_the_same_errors(
    name: str,
) -> None:
    nsid = name.partition("/")[2]
    theirs, ours = METHODS[name], DOCUMENTS[nsid]["defs"]["main"]
    assert ours["type"] == theirs["type"]
    errors = {error["name"] for error in theirs.get("errors", ())}
    assert errors <= {error["name"] for error in ours.get("errors", ())}


@pytest.mark.parametrize("name", METHODS)
def test_all_that_a_client_may_send_is_described_and_no_more_is_required(name: str) -> None:
    theirs, ours = taken(METHODS[name]), Document(name.partition("/")[2]).input
    assert set(theirs["properties"]) <= set(ours["properties"])
    assert set(ours.get("required", ())) <= set(theirs.get("required", ()))
    assert list(differences(theirs, ours, "")) == []


# In what is answered, a format may be missing here: what we answer has it all the same.
UNSAID = {"format"}


def lacking(theirs: Schema, ours: Schema, place: str) -> Iterator[str]:
    """Yield what a client requires of an answer and our document does not promise."""
    for name in theirs.get("required", ()):
        if name not in ours.get("required", ()):
            yield f"{place}/{name}"
    if "items" in theirs:
        yield from lacking(theirs["items"], ours["items"], f"{place}/0")
    for name, inner in theirs.get("properties", {}).items():
        if name in ours["properties"]:
            yield from lacking(inner, ours["properties"][name], f"{place}/{name}")


@pytest.mark.parametrize("name", METHODS)
def test_all_that_a_client_requires_of_an_answer_is_promised(name: str) -> None:
    theirs = METHODS[name]["output"]["schema"]
    ours = Document(name.partition("/")[2]).output
    assert list(lacking(theirs, ours, "")) == []
    found = [one for one in differences(theirs, ours, "") if one.split()[-1] not in UNSAID]
    assert found == []


def test_the_views_are_those_of_the_published_documents() -> None:
    for era in ("with_the_seed", "later"):
        file = PUBLISHED / era / "rsvp.atmo.space.defs.json"
        for name, theirs in json.loads(file.read_text())["defs"].items():
            ours = _inline(DOCUMENTS["rsvp.atmo.space.defs"]["defs"][name], "rsvp.atmo.space.defs")
            assert list(lacking(theirs, ours, name)) == []
