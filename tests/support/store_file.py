"""A database in a file of its own, without an index in it."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.store.db import Database
from tests.support.frames import ALICE, VERIFICATION

RELAY = "relay.test"
URI = f"at://{ALICE}/{VERIFICATION}/3k"
NOW = 1_000  # Unix ms

# What files of older versions have where one of this version has something else.
VERSION_9 = """
    drop table invite_tokens;
    create table invite_tokens (
        space_uri  text    not null,
        token_hash text    not null check (length(token_hash) = 64),
        place      integer not null,
        used_count integer not null default 0 check (used_count >= 0),
        uri        text,
        primary key (space_uri, token_hash)
    ) strict, without rowid;
    create unique index invite_tokens_by_hash on invite_tokens (token_hash, place);
    drop table members;
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
    drop table members;
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
    drop index repos_awaited;
    alter table repos drop column awaited;
    alter table backfills drop column settled;
    pragma user_version = 9;
"""
VERSION_8 = f"""{VERSION_9}
    alter table cursors drop column mark;
    alter table repos drop column sends_prev_data;
    pragma user_version = 8;
"""
VERSION_6 = f"""{VERSION_8}
    drop table pause;
    alter table repos drop column resync_whole;
    drop table counters;
    create table counters (
        kind   text    not null check (kind in ('skipped', 'rejected', 'noted')),
        reason text    not null,
        count  integer not null,
        primary key (kind, reason)
    ) strict, without rowid;
    pragma user_version = 6;
"""


def version_of(path: Path) -> int:
    raw = sqlite3.connect(path)
    try:
        (version,) = raw.execute("pragma user_version").fetchone()
        return int(version)
    finally:
        raw.close()


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with await Database.open(tmp_path / "test.db") as db:
        yield db
