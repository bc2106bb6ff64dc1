"""What is known of an invite's token besides its records: who claims it, and whose it is.

A hash is public, so strangers can put it into invites to spaces of their own. Each owner of a
space with such an invite has a claim. A token that is bound to a space is that space's, whatever
is claimed. One that is not belongs to an owner if, when that is decided, nobody else claims it;
it is decided when the live stream shows a claim, and for all that are known when a search for
repos has come to its end (see `backfills`). Once decided, it stays so.
"""

from collections.abc import Iterable

from indexer.lexicon.syntax import parse_at_uri
from indexer.records import binding_of
from indexer.store.db import Reader, Transaction

# Three seeks, however many spaces an owner has with one token.
_IS_ALONE = """
    not exists (
        select 1 from invite_tokens where token_hash = :token_hash and owned = 1
    ) and not exists (
        select 1 from invite_tokens where token_hash = :token_hash and did < :did
    ) and not exists (
        select 1 from invite_tokens where token_hash = :token_hash and did > :did
    )
"""


async def note(tx: Transaction, tokens: Iterable[tuple[str, str]], *, decide: bool) -> None:
    """Note claims, by space URI and hash, in order.

    With `decide` a token whose first claim this is, or whose claims are all of one owner, is his.
    """
    await tx.execute_many(
        f"""
        insert into invite_tokens (space_uri, token_hash, did, binding, owned)
        values (:space_uri, :token_hash, :did, :binding,
                case when :decide = 1 and {_IS_ALONE} then 1 else 0 end)
        on conflict (space_uri, token_hash) do update set owned = 1
            where excluded.owned = 1 and invite_tokens.owned = 0
        """,  # noqa: S608
        [
            {**_claim(space_uri, token_hash), "decide": int(decide)}
            for space_uri, token_hash in tokens
        ],
    )


async def decide_all(tx: Transaction) -> None:
    """Let each token that is nobody's yet, and that one owner alone claims, be his."""
    await tx.execute(
        """
        update invite_tokens set owned = 1 where (token_hash, space_uri) in (
            select token_hash, min(space_uri) from invite_tokens
            group by token_hash having max(owned) = 0 and min(did) = max(did)
        )
        """
    )


async def note_created(tx: Transaction, space_uri: str, token_hash: str, uri: str) -> None:
    """Note a new token whose record is about to be written, under this URI."""
    await tx.execute(
        """
        insert into invite_tokens (space_uri, token_hash, did, binding, owned, uri)
        values (:space_uri, :token_hash, :did, :binding, 1, :uri)
        """,
        {**_claim(space_uri, token_hash), "uri": uri},
    )


async def created_as(db: Reader, space_uri: str, token_hash: str) -> str | None:
    """Return the URI of the record that was created here with a token, or was about to be.

    None for a token that was only seen.
    """
    row = await db.one(
        "select uri from invite_tokens where space_uri = :space_uri and token_hash = :token_hash",
        {"space_uri": space_uri, "token_hash": token_hash},
    )
    return row["uri"] if row else None


async def count_use(tx: Transaction, token_hash: str, space_uri: str) -> None:
    """Count that a token has let one more in."""
    await tx.execute(
        """
        insert into invite_tokens (space_uri, token_hash, did, binding, used_count)
        values (:space_uri, :token_hash, :did, :binding, 1)
        on conflict (space_uri, token_hash)
            do update set used_count = invite_tokens.used_count + 1
        """,
        _claim(space_uri, token_hash),
    )


async def owned_space(db: Reader, token_hash: str) -> str | None:
    """Return the space for which it was decided whose a token is; None while it is nobody's.

    For a token that is bound to no space. It may lead to others of the same owner as well.
    """
    row = await db.one(
        "select space_uri from invite_tokens where token_hash = :token_hash and owned = 1",
        {"token_hash": token_hash},
    )
    return row["space_uri"] if row else None


async def space_of(db: Reader, token_hash: str, binding: str) -> str | None:
    """Return the URI of the space that a bound token is for; None if no invite to it is known."""
    row = await db.one(
        """
        select space_uri from invite_tokens
        where token_hash = :token_hash and binding = :binding limit 1
        """,
        {"token_hash": token_hash, "binding": binding},
    )
    return row["space_uri"] if row else None


async def spaces_of(db: Reader, token_hash: str, did: str, limit: int) -> list[str]:
    """Return the URIs of an owner's spaces that have, or had, an invite with this token."""
    rows = await db.all(
        """
        select space_uri from invite_tokens
        where token_hash = :token_hash and did = :did limit :limit
        """,
        {"token_hash": token_hash, "did": did, "limit": limit},
    )
    return [row["space_uri"] for row in rows]


async def is_claimed(db: Reader, token_hash: str) -> bool:
    """Whether any invite with this token was seen."""
    row = await db.one(
        "select 1 from invite_tokens where token_hash = :token_hash limit 1",
        {"token_hash": token_hash},
    )
    return row is not None


def _claim(space_uri: str, token_hash: str) -> dict[str, str]:
    return {
        "space_uri": space_uri,
        "token_hash": token_hash,
        "did": parse_at_uri(space_uri).authority,
        "binding": binding_of(space_uri),
    }
