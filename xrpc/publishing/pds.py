"""The only door to a PDS for writing, and to what it says of a single record.

Sources: the lexicons com.atproto.server.{createSession,refreshSession}, com.atproto.repo.
{applyWrites,deleteRecord,getRecord} and com.atproto.sync.{getLatestCommit,getRecord}.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx

from indexer.lexicon.syntax import is_cid, is_did, is_handle, is_tid
from indexer.net.guard import FetchError
from indexer.net.requests import Answer, fetch, request_json, retry_after
from xrpc.publishing.redaction import repeats, scrub

CALL_DEADLINE = 15.0  # seconds for one call, from connecting to the last byte
MAX_ANSWER = 4_000_000  # bytes; a record is at most 1 MB, and JSON makes it longer
MAX_PROOF = 2_000_000  # bytes; a record, a commit, and a few nodes of a tree
MAX_WRITES = 200  # of one applyWrites call
MAX_MESSAGE = 200  # characters that we keep of what a PDS says
UNNAMED = "HTTP 401"  # what stands for the name of a refusal of token or password without one

_TOKEN_ERRORS = frozenset(("ExpiredToken", "InvalidToken"))
_INACTIVE_ERRORS = frozenset(("AccountDeactivated", "AccountSuspended", "AccountTakedown"))


class PdsError(Exception):
    """The PDS did not do it. The subclass says what helps."""


class PdsUnavailableError(PdsError):
    """It can't be reached, is overloaded or broken: later, and not for this repo alone."""

    def __init__(self, message: str, retry_after: float | None = None, status: int | None = None):
        super().__init__(message)
        self.retry_after = retry_after  # seconds, if the PDS named a time
        self.status = status  # None when no answer came


class PdsRefusedError(PdsError):
    """It says no to this call: another call may fare better."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"{error}: {message}" if message else error)
        self.error = error


class TokenRefusedError(PdsRefusedError):
    """The token has run out, or is not taken: refresh it, or log in again."""


class AccountInactiveError(PdsRefusedError):
    """The account is deactivated or taken down: no call and no token helps until it is back."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What `createSession` and `refreshSession` give."""

    did: str
    handle: str | None
    access: str
    refresh: str

    def __repr__(self) -> str:  # tokens have no place in a traceback
        return f"Tokens(did={self.did!r})"


@dataclass(frozen=True, slots=True)
class Target:
    """A record to delete."""

    uri: str
    did: str
    collection: str
    rkey: str


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to create, with its `$type`."""

    did: str
    collection: str
    rkey: str
    value: Mapping[str, Any]

    @property
    def target(self) -> Target:
        """The same record, as what may be asked for or deleted."""
        uri = f"at://{self.did}/{self.collection}/{self.rkey}"
        return Target(uri, self.did, self.collection, self.rkey)


@dataclass(frozen=True, slots=True)
class Created:
    """What the PDS says of a commit that creates: its rev, and the CID of each record, in order."""

    rev: str
    cids: tuple[str, ...]


class PdsClient:
    """Calls to PDSes, through a client that is guarded against private addresses.

    Whatever a PDS says, no error that is raised here repeats a token or a password.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def create_session(self, pds: str, identifier: str, password: str) -> Tokens:
        """Log in. Raises `PdsRefusedError` for a wrong password."""
        try:
            answer = await self._call(
                pds,
                "com.atproto.server.createSession",
                json={"identifier": identifier, "password": password},
            )
        except TokenRefusedError as refused:
            if refused.error != UNNAMED:
                raise
            raise PdsRefusedError(UNNAMED, f"{pds} does not take this app password") from None
        return _tokens(answer, (password,))

    async def refresh_session(self, pds: str, refresh: str) -> Tokens:
        """Exchange a refresh token, which is used up by that, for new tokens."""
        answer = await self._call(pds, "com.atproto.server.refreshSession", token=refresh, json={})
        return _tokens(answer, (refresh,))

    async def delete_session(self, pds: str, refresh: str) -> None:
        await self._call(pds, "com.atproto.server.deleteSession", token=refresh, json={})

    async def create_records(self, pds: str, access: str, records: Sequence[NewRecord]) -> Created:
        """Create up to 200 records of one repo in one commit.

        All or nothing, and nothing that is there is overwritten: a PDS fails the whole call, with
        status 500, if there is a record already. (`putRecord` would name that error, but takes a
        record of the same content for its own, and some hosts don't tell a `swapRecord` of null
        from none.)
        """
        writes = [
            {
                "$type": "com.atproto.repo.applyWrites#create",
                "collection": record.collection,
                "rkey": record.rkey,
                "value": record.value,
            }
            for record in records
        ]
        answer = await self._call(
            pds,
            "com.atproto.repo.applyWrites",
            token=access,
            json={"repo": records[0].did, "writes": writes},
        )
        rev, cids = _commit_rev(answer), _cids(answer)
        if len(cids) != len(records):
            cids = await self._cids_of(pds, records)
        return Created(rev or await self.latest_rev(pds, records[0].did), cids)

    async def _cids_of(self, pds: str, records: Sequence[NewRecord]) -> tuple[str, ...]:
        """Ask for what was written, where the PDS acknowledged without naming it."""
        found = [await self.record_cid(pds, record.target) for record in records]
        if None in found:
            raise PdsUnavailableError("the PDS acknowledged, and does not show what it wrote")
        return tuple(cid for cid in found if cid is not None)

    async def delete_records(self, pds: str, access: str, targets: Sequence[Target]) -> str | None:
        """Delete up to 200 records of one repo in one commit; return its rev, if the PDS names it.

        All or nothing: a PDS fails the whole call, with status 500, if one record is missing.
        """
        writes = [
            {
                "$type": "com.atproto.repo.applyWrites#delete",
                "collection": target.collection,
                "rkey": target.rkey,
            }
            for target in targets
        ]
        answer = await self._call(
            pds,
            "com.atproto.repo.applyWrites",
            token=access,
            json={"repo": targets[0].did, "writes": writes},
        )
        return _commit_rev(answer)

    async def delete_record(
        self, pds: str, access: str, target: Target, swap: str | None = None
    ) -> str | None:
        """Delete one record; return the commit's rev.

        None means that there was no such record, or that the PDS does not name its commits.
        With `swap`, a CID, only if that version stands there: else `PdsRefusedError` InvalidSwap.
        """
        answer = await self._call(
            pds,
            "com.atproto.repo.deleteRecord",
            token=access,
            json={
                "repo": target.did,
                "collection": target.collection,
                "rkey": target.rkey,
                **({} if swap is None else {"swapRecord": swap}),
            },
        )
        return _commit_rev(answer)

    async def record_cid(self, pds: str, target: Target) -> str | None:
        """Return the CID of the record as it stands, or None if the repo has no such record."""
        params = {"repo": target.did, "collection": target.collection, "rkey": target.rkey}
        try:
            answer = await self._call(pds, "com.atproto.repo.getRecord", params=params)
        except PdsRefusedError as refused:
            if refused.error == "RecordNotFound":
                return None
            raise
        cid = answer.get("cid")
        if not isinstance(cid, str) or not is_cid(cid):
            raise PdsUnavailableError("the PDS shows the record without its CID")
        return cid

    async def record_proof(self, pds: str, target: Target) -> bytes:
        """Return the CAR that is to prove how a record stands: see `proof.record`."""
        params = {"did": target.did, "collection": target.collection, "rkey": target.rkey}
        url = f"{pds}/xrpc/com.atproto.sync.getRecord?{urlencode(params)}"
        try:
            return await fetch(self._client, url, max_bytes=MAX_PROOF, deadline=CALL_DEADLINE)
        except FetchError as error:
            raise PdsUnavailableError(f"no proof of the record: {error}") from error

    async def latest_rev(self, pds: str, did: str) -> str:
        """Return the rev of the repo's newest commit."""
        answer = await self._call(pds, "com.atproto.sync.getLatestCommit", params={"did": did})
        rev = answer.get("rev")
        if not isinstance(rev, str) or not is_tid(rev):
            raise PdsUnavailableError("the PDS names no rev of the newest commit")
        return rev

    async def _call(
        self,
        pds: str,
        nsid: str,
        *,
        token: str | None = None,
        params: dict[str, str] | None = None,
        json: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call a method: a procedure if there is a body, else a query."""
        # refreshSession and deleteSession are procedures that take no body at all.
        has_body = bool(json)
        try:
            answer = await request_json(
                self._client,
                "GET" if json is None else "POST",
                f"{pds}/xrpc/{nsid}",
                json=json if has_body else None,
                params=params,
                headers={"authorization": f"Bearer {token}"} if token else None,
                deadline=CALL_DEADLINE,
                max_bytes=MAX_ANSWER,
            )
        except FetchError as error:
            raise PdsUnavailableError(f"no answer: {error}") from error
        if answer.status == 200:
            return answer.body if isinstance(answer.body, dict) else {}
        password = (json or {}).get("password")
        raise _error(answer, [secret for secret in (token, password) if secret])


def _error(answer: Answer, secrets: Collection[str]) -> PdsError:
    """Return what an answer that refuses means. `secrets` are those that the request had."""
    body = answer.body if isinstance(answer.body, dict) else {}
    error, message = (_text(body.get(name), secrets) for name in ("error", "message"))
    if error in _INACTIVE_ERRORS:
        return AccountInactiveError(error, message)
    # A token that has run out comes with status 400 and a name, or with 401, which is about what
    # the request had to show for itself, also where the host names nothing.
    if secrets and (error in _TOKEN_ERRORS or answer.status == 401):
        return TokenRefusedError(error or UNNAMED, message)
    # Without a name it is no answer of a PDS, but of a proxy before it: it refuses nothing.
    if not error or answer.status == 429 or answer.status >= 500 or answer.status < 400:
        text = f"HTTP {answer.status} {error}".rstrip()
        return PdsUnavailableError(text, retry_after(answer), answer.status)
    return PdsRefusedError(error, message)


def _text(value: object, secrets: Collection[str]) -> str:
    """Return what a PDS says, without secrets, cut short, and with nothing to steer a terminal."""
    text = scrub(value, secrets)[:MAX_MESSAGE] if isinstance(value, str) else ""
    return "".join(char if char.isprintable() else " " for char in text)


def _tokens(answer: dict[str, Any], secrets: Collection[str]) -> Tokens:
    did, handle = answer.get("did"), answer.get("handle")
    access, refresh = answer.get("accessJwt"), answer.get("refreshJwt")
    if not isinstance(did, str) or not is_did(did) or repeats(did, secrets):
        raise PdsUnavailableError("the PDS gave a session without a DID")
    if not isinstance(access, str) or not isinstance(refresh, str):
        raise PdsUnavailableError("the PDS gave a session without tokens")
    # Both are shown, and a name may be made of a password as well as of anything else.
    if not isinstance(handle, str) or not is_handle(handle) or repeats(handle, secrets):
        handle = None
    return Tokens(did, handle, access, refresh)


def _cids(answer: dict[str, Any]) -> tuple[str, ...]:
    results = answer.get("results")
    named = (
        [r.get("cid") for r in results if isinstance(r, dict)] if isinstance(results, list) else []
    )
    return tuple(cid for cid in named if isinstance(cid, str) and is_cid(cid))


def _commit_rev(answer: dict[str, Any]) -> str | None:
    commit = answer.get("commit")
    rev = commit.get("rev") if isinstance(commit, dict) else None
    return rev if isinstance(rev, str) and is_tid(rev) else None
