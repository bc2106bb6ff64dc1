"""`/`: a page for a person who comes by; and the lexicon documents, with their index."""

import json
from collections.abc import Mapping
from html import escape
from importlib.metadata import version
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from indexer.config.settings import Settings

# Nothing is loaded and nothing runs, whatever gets into the page.
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Rescind</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 45rem; margin: 2rem auto; \
padding: 0 1rem }} code {{ overflow-wrap: anywhere }}</style>
<h1>Rescind</h1>
<p>An <a href="https://atproto.com">AT Protocol</a> AppView. It indexes spaces, the invites to them
and verifications, and revokes invites and verifications for good: what is revoked counts no more
here at once, and is deleted from the repo that it is in.</p>
<dl>
<dt>Version</dt><dd>{version}</dd>
<dt>DID</dt><dd><a href="/.well-known/did.json"><code>{did}</code></a></dd>
<dt>Health</dt><dd><a href="/xrpc/_health"><code>/xrpc/_health</code></a></dd>
<dt>Lexicons</dt><dd><a href="/lexicons/"><code>/lexicons/</code></a></dd>
{contact}</dl>
<h2>Methods</h2>
<p>Call them through your PDS, with the header <code>atproto-proxy: {did}#{service_id}</code>, or at
<code>{url}/xrpc/</code> with a token of <code>com.atproto.server.getServiceAuth</code>. Each links
to its lexicon document.</p>
<dl>
{methods}
</dl>
<h2>Shared definitions</h2>
<p>What the documents of the methods refer to.</p>
<dl>
{shared}
</dl>
</html>
"""


def page_routes(settings: Settings, documents: Traversable) -> list[Route]:
    """Serve the page and the documents of this folder; both are made once."""
    texts = {
        file.name: file.read_bytes() for file in documents.iterdir() if file.name.endswith(".json")
    }
    parsed = {name.removesuffix(".json"): json.loads(texts[name]) for name in sorted(texts)}
    page = render(settings, {nsid: document["defs"] for nsid, document in parsed.items()})
    index = {
        "lexicons": [
            {"id": nsid, "url": f"{settings.url}/lexicons/{quote(nsid)}.json"} for nsid in parsed
        ]
    }

    async def show(_: Request) -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    async def list_documents(_: Request) -> Response:
        return JSONResponse(index)

    async def document(request: Request) -> Response:
        text = texts.get(request.path_params["name"])
        if text is None:
            raise HTTPException(404)
        return Response(text, media_type="application/json")

    return [
        Route("/", show, methods=["GET"]),
        Route("/lexicons", list_documents, methods=["GET"]),
        Route("/lexicons/", list_documents, methods=["GET"]),
        Route("/lexicons/{name}", document, methods=["GET"]),
    ]


def render(settings: Settings, documents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page; `documents` are the definitions of each, by NSID and name.

    A document without a `main` describes no method, but what others share.
    """
    methods, shared = [], []
    for nsid, definitions in documents.items():
        if "main" in definitions:
            methods.append(_entry(nsid, definitions["main"].get("description", "")))
        else:
            shared.append(_entry(nsid, ", ".join(definitions)))
    return _PAGE.format(
        version=escape(version("rescind")),
        did=escape(settings.service_did),
        service_id=escape(settings.service_id),
        url=escape(settings.url),
        contact=_contact(settings.contact),
        methods="\n".join(methods),
        shared="\n".join(shared),
    )


def _entry(nsid: str, words: str) -> str:
    return (
        f'<dt><a href="/lexicons/{escape(nsid)}.json"><code>{escape(nsid)}</code></a></dt>'
        f"<dd>{escape(words)}</dd>"
    )


def _contact(contact: str | None) -> str:
    """Return the line that says whom to ask, if the operator says so."""
    if contact is None:
        return ""
    link = contact if "://" in contact else f"mailto:{quote(contact, safe='@')}"
    return f'<dt>Contact</dt><dd><a href="{escape(link)}">{escape(contact)}</a></dd>\n'
