"""Plain XRPC calls over loopback, for tests that look at every answer, good or bad."""

import base64
from collections.abc import Mapping
from typing import Any

import httpx

REQUEST_TIMEOUT = 30.0  # seconds; longer than the 10 that a PDS gives a service it proxies to


class PdsError(Exception):
    """A server answered with an error: its status, its name and its message."""

    def __init__(self, response: httpx.Response) -> None:
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        self.status = response.status_code
        self.error = answer.get("error")
        self.message = answer.get("message")
        super().__init__(f"{response.url.path}: {self.status} {self.error}: {self.message}")


def checked(response: httpx.Response) -> Any:
    """Return the JSON of a good answer (None if it is empty), or raise PdsError."""
    if not response.is_success:
        raise PdsError(response)
    return response.json() if response.content else None


async def query(
    url: str, nsid: str, params: Mapping[str, str | int], headers: Mapping[str, str]
) -> httpx.Response:
    """Call a query and return whatever came back."""
    async with _client() as client:
        return await client.get(f"{url}/xrpc/{nsid}", params=params, headers=headers)


async def procedure(
    url: str, nsid: str, body: Mapping[str, object] | bytes | None, headers: Mapping[str, str]
) -> httpx.Response:
    """Call a procedure, with JSON, a CAR or nothing, and return whatever came back."""
    async with _client() as client:
        if isinstance(body, bytes):
            car = {**headers, "content-type": "application/vnd.ipld.car"}
            return await client.post(f"{url}/xrpc/{nsid}", content=body, headers=car)
        return await client.post(f"{url}/xrpc/{nsid}", json=body, headers=headers)


def bearer(token: str | None) -> dict[str, str]:
    """Return the header for a token, or none."""
    return {} if token is None else {"authorization": f"Bearer {token}"}


def basic(name: str, password: str) -> dict[str, str]:
    """Return the header for a name and a password."""
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def _client() -> httpx.AsyncClient:
    # One for each call, so that no connection outlives a PDS that was killed; without the
    # environment's proxies; and without loading certificates, since all is plain http.
    return httpx.AsyncClient(timeout=REQUEST_TIMEOUT, trust_env=False, verify=False)
