"""The records of a repo, of whatever kind."""

from indexer.store.db import Reader


async def uris_of_repo(db: Reader, did: str) -> set[str]:
    """Return the URI of each record of a repo that is here, or whose deletion is not confirmed."""
    rows = await db.all(
        """
        select uri from spaces where did = :did
        union select uri from invites where did = :did
        union select uri from untrusted_invites where did = :did
        union select uri from verifications where did = :did
        union select uri from outbox where did = :did and state in ('pending', 'sent', 'blocked')
        """,
        {"did": did},
    )
    return {row["uri"] for row in rows}
