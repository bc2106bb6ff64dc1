"""The schema, and the steps to it from each version before."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import aiosqlite

from indexer.records import binding_of

# Statements that take a file from version n to n + 1, keyed by n. `schema.sql` is what they end in.
MIGRATIONS: Mapping[int, str] = {
    # Repos are fetched whole, and found by backfill.
    1: """
        alter table repos add column whole_rev text;
        alter table repos add column stretch text;
        alter table repos add column resync_due_at integer not null default 0;
        alter table repos add column resync_attempts integer not null default 0;
        alter table repos add column resync_error text;
        create index repos_to_resync on repos (resync_due_at)
            where sync <> 'synchronized' and hosting = 'active';
        create table backfills (
            relay       text    not null,
            collection  text    not null,
            page_cursor text,
            found       integer not null default 0,
            done_at     integer,
            primary key (relay, collection)
        ) strict, without rowid;
        alter table counters rename to counters_before;
        create table counters (
            kind   text    not null check (kind in ('skipped', 'rejected', 'noted')),
            reason text    not null,
            count  integer not null,
            primary key (kind, reason)
        ) strict, without rowid;
    """,
    # Invites are redeemed; invites and verifications are listed; who is not active is asked for;
    # the daemon tells how fast it reads; no query grows with what is done.
    2: """
        drop index invites_by_token;
        create index invites_by_token on invites (token_hash, space_uri);
        create index invites_by_space on invites (space_uri, created_at, uri);
        drop index verifications_by_issuer;
        drop index verifications_by_subject;
        create index verifications_by_time on verifications (revoked, created_at, uri);
        create index verifications_by_issuer on verifications (did, revoked, created_at, uri);
        create index verifications_by_subject
            on verifications (subject, revoked, created_at, uri);
        create index verifications_by_both
            on verifications (subject, did, revoked, created_at, uri);
        create table members (
            space_uri  text    not null,
            did        text    not null,
            rev        text    not null,
            token_hash text    not null check (length(token_hash) = 64),
            added_by   text    not null,
            added_at   integer not null,
            primary key (space_uri, did)
        ) strict, without rowid;
        create index members_by_did on members (did, space_uri);
        create table invite_tokens (
            id         integer primary key,
            token_hash text    not null check (length(token_hash) = 64),
            space_uri  text    not null,
            used_count integer not null default 0 check (used_count >= 0),
            unique (token_hash, space_uri)
        ) strict;
        create index invite_tokens_by_hash on invite_tokens (token_hash);
        insert into invite_tokens (token_hash, space_uri)
            select token_hash, space_uri from (
                select token_hash, space_uri, rev from invites
                union all select token_hash, space_uri, rev from tombstones
                where token_hash is not null
            ) group by token_hash, space_uri order by min(rev);
        create index repos_to_ask on repos (resync_due_at)
            where sync = 'desynchronized' and hosting not in ('active', 'deleted');
        drop index tombstones_by_token;
        create index tombstones_by_token on tombstones (space_uri, token_hash, cause, created_at)
            where token_hash is not null;
        drop index outbox_by_repo;
        create index outbox_by_repo on outbox (did, state, due_at);
        create index outbox_by_state on outbox (state, created_at);
        alter table daemon add column rate real;
        alter table daemon add column is_behind integer check (is_behind in (0, 1));
        alter table daemon add column seconds_left real;
    """,
    # The tokens of a space lie together.
    3: """
        create table tokens_before as select * from invite_tokens;
        drop table invite_tokens;
        create table invite_tokens (
            space_uri  text    not null,
            token_hash text    not null check (length(token_hash) = 64),
            place      integer not null,
            used_count integer not null default 0 check (used_count >= 0),
            primary key (space_uri, token_hash)
        ) strict, without rowid;
        create unique index invite_tokens_by_hash on invite_tokens (token_hash, place);
        insert into invite_tokens
            select space_uri, token_hash, row_number() over (partition by token_hash order by id),
                used_count
            from tokens_before;
        drop table tokens_before;
    """,
    # An invite that was created here is revoked before the firehose shows it.
    4: "alter table invite_tokens add column uri text;",
    # Tokens of callers are not taken again after a restart.
    5: """
        create table used_tokens (
            key     blob    primary key check (length(key) = 32),
            issuer  text    not null,
            ends_at integer not null
        ) strict, without rowid;
        create index used_tokens_by_end on used_tokens (ends_at);
    """,
    # A person may want a repo's CAR; and it is counted how repos were made right.
    6: """
        alter table repos add column
            resync_whole integer not null default 0 check (resync_whole in (0, 1));
        alter table counters rename to counters_before;
        create table counters (
            kind   text    not null check (kind in ('skipped', 'rejected', 'noted',
                                                    'resynced', 'resync_bytes', 'resync_requests')),
            reason text    not null,
            count  integer not null,
            primary key (kind, reason)
        ) strict, without rowid;
        insert into counters select kind, reason, count from counters_before;
        drop table counters_before;
    """,
    # Publishing can be paused, as it is in a copy that was restored.
    7: """
        create table pause (
            id        integer primary key check (id = 1),
            paused_at integer not null,
            reason    text    not null
        ) strict;
    """,
    # A relay that numbers anew is told by its frame at the cursor, and one that hides deletions by
    # what it takes out of a repo's commits.
    8: """
        alter table cursors add column mark blob;
        alter table repos add column sends_prev_data integer not null default 0
            check (sends_prev_data in (0, 1));
    """,
    # A token is bound to its space, or its owner's: whoever was first here, and who made it here
    # before all others.
    9: """
        create table tokens_before as select * from invite_tokens;
        drop table invite_tokens;
        create table invite_tokens (
            space_uri  text    not null,
            token_hash text    not null check (length(token_hash) = 64),
            did        text    not null,
            binding    text    not null check (length(binding) = 32),
            owned      integer not null default 0 check (owned in (0, 1)),
            used_count integer not null default 0 check (used_count >= 0),
            uri        text,
            primary key (space_uri, token_hash)
        ) strict, without rowid;
        create unique index invite_tokens_owned on invite_tokens (token_hash) where owned = 1;
        create index invite_tokens_by_owner on invite_tokens (token_hash, did);
        create index invite_tokens_by_binding on invite_tokens (token_hash, binding);
        insert into invite_tokens
            select space_uri, token_hash,
                substr(space_uri, 6, instr(substr(space_uri, 6), '/') - 1),
                binding_of(space_uri),
                row_number() over (partition by token_hash order by uri is null, place) = 1,
                used_count, uri
            from tokens_before;
        drop table tokens_before;
        alter table repos add column
            awaited integer not null default 0 check (awaited between 0 and 3);
        create index repos_awaited on repos (did) where awaited > 0;
        alter table backfills add column
            settled integer not null default 0 check (settled in (0, 1));
        update backfills set settled = 1 where done_at is not null;
    """,
    # Owners add members as well.
    10: """
        create table members_before as select * from members;
        drop table members;
        create table members (
            space_uri  text    not null,
            did        text    not null,
            rev        text    not null,
            token_hash text    check (length(token_hash) = 64),
            added_by   text    not null,
            added_at   integer not null,
            perms      text    not null default 'write' check (perms in ('read', 'write')),
            primary key (space_uri, did)
        ) strict, without rowid;
        create index members_by_did on members (did, space_uri);
        create index members_added on members (space_uri) where token_hash is null;
        insert into members select *, 'write' from members_before;
        drop table members_before;
    """,
}
SCHEMA_VERSION = 11


def schema() -> str:
    """Return `schema.sql`, from the wheel or from the checkout."""
    beside = Path(__file__).with_name("schema.sql")
    return (beside if beside.exists() else Path(__file__).parents[2] / "schema.sql").read_text()


class DatabaseError(Exception):
    """The file can't be used, in a sentence for the operator."""


async def migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Bring the file to this version's schema."""
    if await version_of(connection, path) == SCHEMA_VERSION:
        return
    try:
        await connection.execute("begin immediate")
        # Asked again under the lock: another process may have been first.
        version = await version_of(connection, path)
        if version == 0:
            await _run_script(connection, schema())
        else:
            await connection.create_function("binding_of", 1, binding_of, deterministic=True)
            for number in range(version, SCHEMA_VERSION):
                await _run_script(connection, MIGRATIONS[number])
        await connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
        await connection.commit()
    except BaseException:
        await connection.rollback()
        raise


async def version_of(connection: aiosqlite.Connection, path: Path) -> int:
    """Return the version of the file's schema, 0 if it is empty; refuse what is not for us."""
    (row,) = await connection.execute_fetchall("pragma user_version")
    version = int(row[0])
    tables = await connection.execute_fetchall("select name from sqlite_schema")
    names = {name for (name,) in tables}
    if names and "tombstones" not in names:
        raise DatabaseError(f"{path} is a database, but not one of Rescind.")
    if version > SCHEMA_VERSION:
        raise DatabaseError(
            f"The database {path} was made by a newer version of Rescind "
            f"(its schema is {version}, this one knows up to {SCHEMA_VERSION}): "
            "upgrade Rescind, or name another file with --db."
        )
    return version


async def _run_script(connection: aiosqlite.Connection, script: str) -> None:
    # Not `executescript`: that would commit the transaction around it.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            await connection.execute(statement)
            statement = ""
    if statement.strip():
        await connection.execute(statement)  # the last one may lack its semicolon
