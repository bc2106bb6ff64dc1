"""Who comes by learns what this is, and who looks its DID up finds it."""

import json
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import pytest

from indexer.config.settings import Settings
from tests.support.html_page import Page
from tests.support.xrpc_world import REVOKE_INVITE, World, make_world
from xrpc.methods.table import METHODS
from xrpc.serving.page import render

SHARED = ("rsvp.atmo.space.defs", "tools.ozone.verification.defs")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made, made.serving():
        yield made


async def test_the_page_says_what_this_is(world: World) -> None:
    answer = await world.request("GET", "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    assert "AppView" in page.text
    assert version("rescind") in page.text
    assert "did:web:rescind.test#rescind" in page.text
    for nsid in METHODS:
        assert nsid in page.text


async def test_every_link_of_the_page_leads_somewhere(world: World) -> None:
    page = Page((await world.request("GET", "/")).text)
    own = [link for link in page.links if link.startswith("/")]
    assert len(own) == len(METHODS) + len(SHARED) + 3
    for link in own:
        answer = await world.request("GET", link)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"


async def test_nothing_runs_on_the_page(world: World) -> None:
    answer = await world.request("GET", "/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not {"script", "img", "link", "iframe", "form"} & set(Page(answer.text).tags)


def test_what_gets_into_the_page_is_text() -> None:
    settings = Settings.load({"public_url": "https://x<script>.test"})
    documents = {
        "a.b.<script>": {"main": {"description": "<script>"}},
        "a.b.<script>.defs": {"<script>": {}},
    }
    text = render(settings, documents)
    assert "script" not in Page(text).tags
    assert Page(text).text.count("<script>") == 5


async def test_the_documents_of_the_methods_are_served_as_they_are(world: World) -> None:
    answer = await world.request("GET", f"/lexicons/{REVOKE_INVITE}.json")
    assert answer.json()["id"] == REVOKE_INVITE
    shipped = Path(__file__).parents[3] / "xrpc/lexicons" / f"{REVOKE_INVITE}.json"
    assert answer.json() == json.loads(shipped.read_text())


@pytest.mark.parametrize(
    "path", ["/lexicons//", "/lexicons/x.json", "/lexicons/..%2fapp.py", "/lexicons/../app.py"]
)
async def test_nothing_else_is_served_from_there(world: World, path: str) -> None:
    answer = await world.request("GET", path)
    assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")


async def test_the_did_of_the_service_is_at_its_host(world: World) -> None:
    answer = await world.request("GET", "/.well-known/atproto-did", headers={"origin": "https://x"})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.text == "did:web:rescind.test"
    document = await world.request("GET", "/.well-known/did.json")
    assert document.json()["id"] == answer.text
