"""What is true of an index at any moment, whatever came and in whatever order."""

from tests.support.index_file import Index


async def nothing_revoked_lives(index: Index) -> None:
    """Nor is anyone a member of a space that has ended since."""
    alive = await index.db.all(
        """
        select uri from (
            select uri, cid from spaces where revoked = 0
            union all select uri, cid from invites where revoked = 0
            union all select uri, cid from verifications where revoked = 0
        ) join tombstones using (uri, cid) where cause = 'revoked'
        union all
        select invites.uri from invites join tombstones using (space_uri, token_hash)
        where invites.revoked = 0 and cause = 'revoked'
        union all
        select uri from verifications join outbox using (uri)
        where revoked = 0 and state in ('pending', 'blocked')
        """
    )
    assert [row["uri"] for row in alive] == []
    dead = await index.db.all(
        """
        select uri from members join tombstones on uri = members.space_uri
        where tombstones.rev >= members.rev
        """
    )
    assert [row["uri"] for row in dead] == []
