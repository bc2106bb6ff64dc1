"""`tools.ozone.verification.listVerifications`: page by page, in one order for all."""

from dataclasses import replace
from typing import Any

from indexer.lexicon.syntax import parse_datetime
from indexer.records import Row, Verification
from indexer.store import verifications
from indexer.store.db import Reader
from indexer.store.verifications import Key, Span
from xrpc.errors import ForbiddenError
from xrpc.methods import page_cursor
from xrpc.methods.views import verification_views
from xrpc.services import Call, Services

ANSWER_WITHIN = 8.0  # seconds; a PDS that proxies the call gives up after 10
LOOK_AT = 101  # rows at once, after a first look at no more than the page takes
MAX_PAIRS = 100  # of an issuer and a subject that are looked up as such; SQLite joins 500 ranges
MAX_LOOKS = 10  # a call; where most rows are not to be shown, a page may be short, or even empty

FIRST, END = (-(2**63), ""), (2**63 - 1, "")  # before and behind every key


async def list_verifications(services: Services, call: Call) -> dict[str, Any]:
    """`tools.ozone.verification.listVerifications`, by the time that the records bear.

    Operators see all; others see what they granted themselves, and Forbidden for what others did.
    A verification that is there all the time comes exactly once, whatever is added and revoked
    between the pages. There may be more as long as there is a cursor, also after a short page.
    Both `createdAfter` and `createdBefore` exclude the time itself, to the millisecond.
    """
    wanted = call.input
    issuers = list(dict.fromkeys(wanted.get("issuers", ())))
    subjects = list(dict.fromkeys(wanted.get("subjects", ())))
    if call.caller.did not in services.settings.operators:
        issuers = issuers or [call.caller.did]
        if issuers != [call.caller.did]:
            raise ForbiddenError("you may list what you granted; operators may list all")
    span = _span(wanted, issuers, subjects)
    rows, cursor = await _page(services.db, span, set(issuers), wanted["limit"])
    views = await verification_views(services, rows, call.arrived + ANSWER_WITHIN)
    answer: dict[str, Any] = {"verifications": views}
    if cursor is not None:
        answer["cursor"] = page_cursor.encode(cursor)
    return answer


def _span(wanted: dict[str, Any], issuers: list[str], subjects: list[str]) -> Span:
    after, before = FIRST, END
    if "createdAfter" in wanted:
        after = (parse_datetime(wanted["createdAfter"]) + 1, "")
    if "createdBefore" in wanted:
        before = (parse_datetime(wanted["createdBefore"]), "")
    newest_first = wanted["sortDirection"] == "desc"
    span = Span(
        # A subject's are fewer than an issuer's: those are picked from these, not the other way.
        by="subject" if subjects else "did" if issuers else None,
        dids=subjects or issuers,
        revoked=[wanted["isRevoked"]] if "isRevoked" in wanted else [False, True],
        after=after,
        before=before,
        newest_first=newest_first,
        issuers=issuers if subjects and len(issuers) * len(subjects) <= MAX_PAIRS else (),
    )
    return _behind(span, page_cursor.decode(wanted["cursor"])) if "cursor" in wanted else span


def _behind(span: Span, key: Key) -> Span:
    """Return what of a span comes behind a key."""
    if span.newest_first:
        return replace(span, before=min(span.before, key))
    return replace(span, after=max(span.after, key))


async def _page(
    db: Reader, span: Span, issuers: set[str], limit: int
) -> tuple[list[Row], Key | None]:
    """Return the next rows to show, and the key behind which there may be more, if there may.

    Bounded: strangers may have written any number of rows that are not to be shown.
    """
    shown: list[Row] = []
    look_at = min(limit + 1, LOOK_AT)  # a full page, and whether there is more
    for _ in range(MAX_LOOKS):
        found = await verifications.read(db, span, look_at)
        for row, is_active in found:
            if not is_active or (issuers and row.did not in issuers):
                continue
            if len(shown) == limit:
                return shown, _key(shown[-1])
            shown.append(row)
        if len(found) < look_at:
            return shown, None
        span = _behind(span, _key(found[-1][0]))
        look_at = LOOK_AT
    return shown, _key(found[-1][0])


def _key(row: Row) -> Key:
    assert isinstance(row.fields, Verification)  # noqa: S101 (a row of `verifications`)
    return row.fields.created_at, row.uri
