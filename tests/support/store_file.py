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
VERSION_8 = """
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
