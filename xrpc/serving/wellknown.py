"""`/.well-known/`: who this service is, for those who look its DID up."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from indexer.config.settings import Settings


def well_known_routes(settings: Settings) -> list[Route]:
    async def document(_: Request) -> Response:
        return JSONResponse(did_document(settings))

    async def did(_: Request) -> Response:
        return PlainTextResponse(settings.service_did)

    return [
        Route("/.well-known/did.json", document, methods=["GET"]),
        Route("/.well-known/atproto-did", did, methods=["GET"]),
    ]


def did_document(settings: Settings) -> dict[str, Any]:
    """`did:web`: where the service that our DID names is to be found."""
    return {
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": settings.service_did,
        "service": [
            {
                "id": f"#{settings.service_id}",
                "type": "RescindAppView",
                "serviceEndpoint": settings.url,
            }
        ],
    }
