"""Who belongs to a space besides its owner.

The rows of a space that ended are dead by the revision in them (`living.MEMBER`). They are
removed when that is seen, so that what is counted here is who is there.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from indexer.store import living
from indexer.store.db import Reader, Transaction


@dataclass(frozen=True, slots=True)
class Member:
    """A membership. The fields are explained in `schema.sql`."""

    space_uri: str
    did: str
    rev: str
    token_hash: str | None  # None: the owner added them
    added_by: str
    added_at: int  # Unix ms
    perms: str = "write"  # or `read`


async def add(tx: Transaction, member: Member) -> None:
    """Let somebody in. A dead row of theirs, of a space that was made again, gives way."""
    await tx.execute(
        """
        insert into members (space_uri, did, rev, token_hash, added_by, added_at, perms)
        values (:space_uri, :did, :rev, :token_hash, :added_by, :added_at, :perms)
        on conflict (space_uri, did) do update set
            rev = excluded.rev, token_hash = excluded.token_hash,
            added_by = excluded.added_by, added_at = excluded.added_at, perms = excluded.perms
        """,
        asdict(member),
    )


async def remove(tx: Transaction, space_uri: str, did: str) -> bool:
    """End a membership; return whether there was one."""
    count = await tx.execute(
        "delete from members where space_uri = :space_uri and did = :did",
        {"space_uri": space_uri, "did": did},
    )
    return count > 0


async def set_perms(tx: Transaction, space_uri: str, did: str, perms: str) -> None:
    """Let a member do what `perms` says, `read` or `write`."""
    await tx.execute(
        "update members set perms = :perms where space_uri = :space_uri and did = :did",
        {"space_uri": space_uri, "did": did, "perms": perms},
    )


async def perms_of(db: Reader, space_uri: str, did: str) -> str | None:
    """Return what a member may do, `read` or `write`; None for who is none."""
    row = await db.one(
        f"""
        select perms from members where space_uri = :space_uri and did = :did and {living.MEMBER}
        """,  # noqa: S608
        {"space_uri": space_uri, "did": did},
    )
    return row["perms"] if row else None


async def is_member(db: Reader, space_uri: str, did: str) -> bool:
    """Whether somebody besides the owner belongs to a space."""
    row = await db.one(
        f"""
        select 1 from members where space_uri = :space_uri and did = :did and {living.MEMBER}
        """,  # noqa: S608
        {"space_uri": space_uri, "did": did},
    )
    return row is not None


async def of_space(db: Reader, space_uri: str) -> list[Member]:
    """Return all members of a space, by their DIDs."""
    rows = await db.all(
        f"""
        select space_uri, did, rev, token_hash, added_by, added_at, perms
        from members where space_uri = :space_uri and {living.MEMBER} order by did
        """,  # noqa: S608
        {"space_uri": space_uri},
    )
    return [Member(*row) for row in rows]


async def count_of_space(db: Reader, space_uri: str) -> int:
    row = await db.one(
        "select count(*) as count from members where space_uri = :uri", {"uri": space_uri}
    )
    return row["count"] if row else 0


async def count_joined(db: Reader, did: str) -> int:
    """Count the spaces that somebody has come into by an invite: who is added has no say in it."""
    row = await db.one(
        """
        select count(*) as count from members where did = :did and token_hash is not null
        """,
        {"did": did},
    )
    return row["count"] if row else 0


async def count_added(db: Reader, owner: str) -> int:
    """Count who was added to an owner's spaces, once for each."""
    after, before = living.under(f"at://{owner}")
    row = await db.one(
        """
        select count(*) as count from members indexed by members_added
        where token_hash is null and space_uri > :after and space_uri < :before
        """,
        {"after": after, "before": before},
    )
    return row["count"] if row else 0


async def remove_dead(tx: Transaction, space_uris: Iterable[str]) -> None:
    """Remove who belonged to what these spaces were before they ended."""
    await tx.execute_many(
        f"delete from members where space_uri = :uri and not ({living.MEMBER})",  # noqa: S608
        [{"uri": uri} for uri in space_uris],
    )


async def remove_account(tx: Transaction, did: str) -> int:
    """End all memberships of an account; return how many there were."""
    return await tx.execute("delete from members where did = :did", {"did": did})


async def purge_repo(tx: Transaction, did: str) -> None:
    """Remove a deleted account's memberships, and the members of its own spaces."""
    after, before = living.under(f"at://{did}")
    await tx.execute("delete from members where did = :did", {"did": did})
    await tx.execute(
        "delete from members where space_uri > :after and space_uri < :before",
        {"after": after, "before": before},
    )
