"""The lexicon documents are whole, and so are the tests that are made from them."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

from indexer.lexicon import syntax
from indexer.lexicon.interpreter import Lexicons
from tests.support.lexicon_cases import DOCUMENTS, Document, example, methods
from tests.support.lexicon_texts import FORMATS
from tests.support.method_cases import CASES
from xrpc.methods.table import METHODS

LEXICONS = Lexicons.load(files("xrpc") / "lexicons")


def test_every_method_has_a_document_and_every_document_a_method() -> None:
    assert METHODS.keys() == set(methods())


def test_a_document_lies_in_the_file_of_its_name() -> None:
    assert {name: document["id"] for name, document in DOCUMENTS.items()} == {
        name: name for name in DOCUMENTS
    }


@pytest.mark.parametrize("nsid", DOCUMENTS)
def test_a_document_is_valid_and_all_that_it_refers_to_is_here(nsid: str) -> None:
    assert Lexicons([DOCUMENTS[nsid]])
    names = {
        f"{other}#{name}".removesuffix("#main")
        for other, document in DOCUMENTS.items()
        for name in document["defs"]
    }
    assert set(_references(DOCUMENTS[nsid], nsid)) <= names


def _references(schema: Any, nsid: str) -> Iterator[str]:
    if isinstance(schema, dict) and schema.get("type") == "ref":
        base, _, name = schema["ref"].partition("#")
        yield f"{base or nsid}#{name}".removesuffix("#")
    elif isinstance(schema, dict | list):
        for inner in schema.values() if isinstance(schema, dict) else schema:
            yield from _references(inner, nsid)


def test_a_required_field_is_a_described_one() -> None:
    assert not [place for nsid in DOCUMENTS for place in _undescribed(DOCUMENTS[nsid], nsid)]


def _undescribed(schema: Any, place: str) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("required"), list):
            yield from (f"{place}/{n}" for n in schema["required"] if n not in schema["properties"])
        for name, inner in schema.items():
            yield from _undescribed(inner, f"{place}/{name}")


@pytest.mark.parametrize("nsid", methods())
def test_the_least_that_a_method_may_answer_fits_its_document(nsid: str) -> None:
    least = example(Document(nsid).output)
    assert LEXICONS.output(nsid, least) == least


def test_every_format_has_its_cases() -> None:
    assert FORMATS.keys() == syntax.FORMATS.keys()


def test_every_method_has_a_case_that_works() -> None:
    assert CASES.keys() == METHODS.keys()


def test_every_declared_error_has_a_case() -> None:
    declared = {nsid: LEXICONS.errors(nsid) for nsid in METHODS}
    assert {nsid: CASES[nsid].fails.keys() for nsid in METHODS} == declared
