"""What lives: conditions that the queries of several tables share, each said once.

A deletion has a revision of its owner's repo, and so has everything that hangs on what it deletes.
These compare the two, so that what ended with a space stays ended when the space is made again,
in whatever order the events are told. What an account's deletion took away took all of it along:
if the account comes back with a space, that is the space that it was.
"""

# Of `spaces` and its owner's `repos`.
SPACE = "spaces.revoked = 0 and repos.hosting = 'active'"

# Of `invites`: it was written after whatever ended its space, and its token is not revoked.
INVITE = """
    invites.revoked = 0
    and not exists (
        select 1 from tombstones
        where tombstones.uri = invites.space_uri and tombstones.rev >= invites.rev
            and tombstones.cause <> 'purged'
    )
    and not exists (
        select 1 from tombstones
        where tombstones.space_uri = invites.space_uri
            and tombstones.token_hash = invites.token_hash and tombstones.cause = 'revoked'
    )
"""

# Of `members`: the space has not ended since the version that they came into.
MEMBER = """
    not exists (
        select 1 from tombstones
        where tombstones.uri = members.space_uri and tombstones.rev >= members.rev
            and tombstones.cause <> 'purged'
    )
"""


def under(prefix: str) -> tuple[str, str]:
    """Return between which texts (both excluded) all lie that go on behind `prefix` and a `/`."""
    return f"{prefix}/", f"{prefix}0"  # `0` comes right after `/`
