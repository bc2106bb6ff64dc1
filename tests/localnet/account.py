"""An account on a PDS, seen by its owner: the calls that a client would make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

from tests.localnet.xrpc import checked

if TYPE_CHECKING:
    from tests.localnet.pds import Pds

PAGE = 100  # records; the most that com.atproto.repo.listRecords gives at once


class StrongRef(NamedTuple):
    """A record and its version."""

    uri: str
    cid: str


@dataclass(frozen=True, slots=True)
class Account:
    """A session for one account. Every method raises PdsError when the PDS refuses.

    `password` is the one that the session was made with: the account's own or an app password.
    """

    did: str
    handle: str
    password: str = field(repr=False)
    pds: Pds
    token: str = field(repr=False)  # the access token; lasts two hours

    async def create_record(
        self, collection: str, record: Mapping[str, object], rkey: str | None = None
    ) -> StrongRef:
        """Create a record; the PDS chooses a TID when there is no rkey."""
        body = {**self._record(collection, record), **({} if rkey is None else {"rkey": rkey})}
        return _strong_ref(await self._write("com.atproto.repo.createRecord", body))

    async def put_record(
        self, collection: str, record: Mapping[str, object], rkey: str
    ) -> StrongRef:
        """Create the record or replace it."""
        body = {**self._record(collection, record), "rkey": rkey}
        return _strong_ref(await self._write("com.atproto.repo.putRecord", body))

    async def delete_record(self, collection: str, rkey: str) -> None:
        """Delete the record; one that is missing is no error."""
        body = {"repo": self.did, "collection": collection, "rkey": rkey}
        await self._write("com.atproto.repo.deleteRecord", body)

    async def apply_writes(self, writes: Sequence[Mapping[str, object]]) -> Any:
        """Make one commit of up to 200 writes (`{"$type": "…applyWrites#create", …}`).

        Returns the answer: `commit` (`cid`, `rev`) and `results`, one a write.
        """
        body = {"repo": self.did, "writes": list(writes), "validate": False}
        return await self._write("com.atproto.repo.applyWrites", body)

    async def get_record(self, collection: str, rkey: str) -> Any:
        """Return the record's value, or None if the repo has no such record."""
        params = {"repo": self.did, "collection": collection, "rkey": rkey}
        response = await self.pds.query("com.atproto.repo.getRecord", params)
        if response.status_code == 400 and response.json().get("error") == "RecordNotFound":
            return None
        return checked(response)["value"]

    async def list_records(self, collection: str) -> list[dict[str, Any]]:
        """Return all records of a collection, newest first: `uri`, `cid` and `value` of each."""
        records: list[dict[str, Any]] = []
        params: dict[str, str | int] = {"repo": self.did, "collection": collection, "limit": PAGE}
        while True:
            page = checked(await self.pds.query("com.atproto.repo.listRecords", params))
            records += page["records"]
            if "cursor" not in page:
                return records
            params["cursor"] = page["cursor"]

    async def create_app_password(self, name: str) -> str:
        """Make an app password and return it."""
        answer = await self._write("com.atproto.server.createAppPassword", {"name": name})
        return str(answer["password"])

    async def revoke_app_password(self, name: str) -> None:
        """Withdraw an app password; its sessions end when they need a refresh."""
        await self._write("com.atproto.server.revokeAppPassword", {"name": name})

    async def app_session(self, password: str) -> Account:
        """Log in once more, with an app password (or the account's own)."""
        body = {"identifier": self.did, "password": password}
        answer = checked(await self.pds.procedure("com.atproto.server.createSession", body))
        return replace(self, password=password, token=answer["accessJwt"])

    async def service_auth(self, aud: str, lxm: str, exp: int | None = None) -> str:
        """Return a service-auth token; `exp` is in seconds since 1970, in a minute if None."""
        params: dict[str, str | int] = {"aud": aud, "lxm": lxm}
        if exp is not None:
            params["exp"] = exp
        nsid = "com.atproto.server.getServiceAuth"
        return str(checked(await self.pds.query(nsid, params, self.token))["token"])

    async def call(self, nsid: str, body: Mapping[str, object], proxy: str) -> httpx.Response:
        """Call a procedure of another service (`did:web:…#id`) through the PDS.

        Returns whatever came back: tests look at errors too.
        """
        return await self.pds.procedure(nsid, body, self.token, proxy)

    async def deactivate(self) -> None:
        """Deactivate the account; its repo goes dark."""
        await self._write("com.atproto.server.deactivateAccount", {})

    async def activate(self) -> None:
        """Bring a deactivated account back."""
        await self._write("com.atproto.server.activateAccount", None)

    async def _write(self, nsid: str, body: Mapping[str, object] | None) -> Any:
        return checked(await self.pds.procedure(nsid, body, self.token))

    def _record(self, collection: str, record: Mapping[str, object]) -> dict[str, object]:
        # Never validated by the PDS: it knows few of the collections, and what a stranger
        # could write with another PDS a test must be able to write here.
        value = {"$type": collection, **record}
        return {"repo": self.did, "collection": collection, "record": value, "validate": False}


def _strong_ref(answer: Any) -> StrongRef:
    return StrongRef(answer["uri"], answer["cid"])
