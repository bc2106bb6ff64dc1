"""The verifications."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from indexer.records import Row, Verification
from indexer.store.db import Reader, Transaction, json_list
from indexer.store.db import Row as DbRow

Key = tuple[int, str]  # `created_at` and URI: the order of every list

_COLUMNS = "uri, did, cid, rev, revoked, subject, handle, display_name, created_at"


async def load(db: Reader, uris: Iterable[str]) -> list[Row]:
    rows = await db.all(
        f"select {_COLUMNS} from json_each(:uris) cross join verifications on uri = value",  # noqa: S608
        {"uris": json_list(uris)},
    )
    return [_row(row) for row in rows]


async def save(tx: Transaction, rows: Iterable[tuple[Row, Verification]]) -> None:
    await tx.execute_many(
        """
        insert into verifications (uri, did, cid, rev, revoked, subject, handle, display_name,
                                   created_at)
        values (?, ?, ?, ?, ?, ?, ?, ?, ?)
        on conflict (uri) do update set
            cid = excluded.cid, rev = excluded.rev, revoked = excluded.revoked,
            subject = excluded.subject, handle = excluded.handle,
            display_name = excluded.display_name, created_at = excluded.created_at
        """,
        [(*row[:5], *verification) for row, verification in rows],
    )


async def delete(tx: Transaction, uris: Iterable[str]) -> None:
    await tx.execute_many(
        "delete from verifications where uri = :uri", [{"uri": uri} for uri in uris]
    )


async def count_live(db: Reader) -> int:
    row = await db.one(
        """
        select count(*) as count from verifications join repos using (did)
        where verifications.revoked = 0 and repos.hosting = 'active'
        """
    )
    return row["count"] if row else 0


async def granted(db: Reader, issuer: str, subjects: Iterable[str]) -> set[tuple[str, str]]:
    """Return each (subject, handle) that an issuer has verified, of these subjects."""
    # By both: anybody can verify a subject any number of times, and an issuer grants to many.
    rows = await db.all(
        """
        select subject, handle from verifications indexed by verifications_by_both
        where did = :issuer and revoked = 0
            and subject in (select value from json_each(:subjects))
        """,
        {"issuer": issuer, "subjects": json_list(subjects)},
    )
    return {(row["subject"], row["handle"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the order of lists, to be read from one end.

    It is cut out of one index: all verifications (`by` is None), or those of each DID in `dids`,
    an issuer or a subject; of each subject only what these `issuers` wrote, if any are named.
    """

    by: Literal["did", "subject"] | None
    dids: Sequence[str]  # each once
    revoked: Sequence[bool]  # one of them, or both
    after: Key  # excluded
    before: Key  # excluded
    newest_first: bool
    issuers: Sequence[str] = ()  # each once; with subjects in `dids` only


async def read(db: Reader, span: Span, limit: int) -> list[tuple[Row, bool]]:
    """Return the first rows of a span, and of each whether its repo is active.

    One statement: a row that is being revoked is in it once, not twice and not never.
    """
    sql, params = read_statement(span, limit)
    rows = await db.all(sql, params)
    return [(_row(row), row["hosting"] == "active") for row in rows]


def read_statement(span: Span, limit: int) -> tuple[str, dict[str, object]]:
    """Return what `read` asks: a search of an index for each DID and state, merged to the limit."""
    way = "desc" if span.newest_first else "asc"
    named = [f"{span.by} = :did_{n}" for n in range(len(span.dids))] if span.by else ["true"]
    if span.issuers:
        writers = [f"did = :issuer_{n}" for n in range(len(span.issuers))]
        named = [f"{who} and {writer}" for who in named for writer in writers]
    ranges = [
        f"""
            select created_at, uri from verifications
            where {who} and revoked = {int(state)}
                and (created_at, uri) > (:after_at, :after_uri)
                and (created_at, uri) < (:before_at, :before_uri)
        """  # noqa: S608
        for who in named
        for state in span.revoked
    ]
    sql = f"""
        select {", ".join(f"verifications.{name}" for name in _COLUMNS.split(", "))}, hosting
        from (
            {" union all ".join(ranges)}
            order by created_at {way}, uri {way} limit :limit
        ) as found
        cross join verifications on verifications.uri = found.uri
        cross join repos on repos.did = verifications.did
        order by found.created_at {way}, found.uri {way}
        """  # noqa: S608
    (after_at, after_uri), (before_at, before_uri) = span.after, span.before
    params = {
        "after_at": after_at,
        "after_uri": after_uri,
        "before_at": before_at,
        "before_uri": before_uri,
        "limit": limit,
        **{f"did_{n}": did for n, did in enumerate(span.dids)},
        **{f"issuer_{n}": did for n, did in enumerate(span.issuers)},
    }
    return sql, params


def _row(row: DbRow) -> Row:
    fields = Verification(*row[5:9])
    return Row(row["uri"], row["did"], row["cid"], row["rev"], bool(row["revoked"]), fields)
