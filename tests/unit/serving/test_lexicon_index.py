"""Who wants to call this service finds every document, and whom to ask."""

import html
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.config.settings import Settings
from tests.support.html_page import Page
from tests.support.lexicon_cases import DOCUMENTS
from tests.support.xrpc_world import World, make_world
from xrpc.serving.page import render


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path, contact="help@rescind.test") as made, made.serving():
        yield made


@pytest.mark.parametrize("path", ["/lexicons/", "/lexicons"])
async def test_the_index_names_every_document(world: World, path: str) -> None:
    answer = await world.request("GET", path, headers={"origin": "https://explorer.example"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert [entry["id"] for entry in answer.json()["lexicons"]] == list(DOCUMENTS)


async def test_every_entry_of_the_index_leads_to_its_document(world: World) -> None:
    for entry in (await world.request("GET", "/lexicons/")).json()["lexicons"]:
        assert entry["url"].startswith("https://rescind.test/lexicons/")
        answer = await world.request("GET", entry["url"].removeprefix("https://rescind.test"))
        assert answer.json() == DOCUMENTS[entry["id"]]


async def test_the_index_is_read_and_not_written(world: World) -> None:
    answer = await world.request("POST", "/lexicons/")
    assert (answer.status_code, answer.json()["error"]) == (405, "MethodNotAllowed")


async def test_the_page_names_every_document_and_the_index(world: World) -> None:
    page = Page((await world.request("GET", "/")).text)
    assert "/lexicons/" in page.links
    for nsid, document in DOCUMENTS.items():
        assert f"/lexicons/{nsid}.json" in page.links
        if "main" not in document["defs"]:
            assert nsid in page.text
            assert ", ".join(document["defs"]) in page.text


async def test_the_page_says_whom_to_ask(world: World) -> None:
    page = Page((await world.request("GET", "/")).text)
    assert "help@rescind.test" in page.text
    assert "mailto:help@rescind.test" in page.links


def test_a_page_without_a_contact_names_none() -> None:
    assert "Contact" not in Page(render(Settings.load({}), {})).text


@pytest.mark.parametrize(
    ("contact", "link"),
    [
        ("https://example.org/help?a=1&b=2", "https://example.org/help?a=1&b=2"),
        (
            'https://example.org/"onmouseover="alert(1)',
            'https://example.org/"onmouseover="alert(1)',
        ),
        ("https://example.org/'><script>", "https://example.org/'><script>"),
        ("a?subject=x&b@example.org", "mailto:a%3Fsubject%3Dx%26b@example.org"),
    ],
)
def test_a_contact_is_text_whatever_is_in_it(contact: str, link: str) -> None:
    text = render(Settings.load({"contact": contact}), {})
    page = Page(text)
    assert contact in page.text
    assert link in page.links
    assert "script" not in page.tags
    assert html.escape(contact) in text
