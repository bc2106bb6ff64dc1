"""`rescind replay` says what it did not take, and what mends that."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.stream.recording import Writer
from tests.support.command import rescind
from tests.support.frames import VERIFICATION, Author, identity_frame, verification
from tests.support.xrpc_world import World, make_world

RELAY = "relay.test"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


def record(world: World, frames: list[bytes]) -> Path:
    file = world.settings.db.parent / "stream.rec"
    writer = Writer(file, RELAY)
    for data in frames:
        writer.add(data)
    writer.close()
    return file


def commits_of_accounts_that_are_gone() -> list[bytes]:
    return [
        Author(f"did:plc:{'g' * 23}{letter}").commit(seq, {f"{VERIFICATION}/3k": verification()})
        for seq, letter in enumerate("abc", 1)
    ]


async def test_a_replay_that_rejected_something_says_what_and_which_command_repairs_it(
    world: World,
) -> None:
    file = record(world, commits_of_accounts_that_are_gone())
    status, out, err = await rescind(world, "replay", "--file", str(file))
    assert status == 0
    assert "Replayed 3 events" in out
    [said, remedy] = err.splitlines()[-2:]
    assert said == "Rejected: 3 no_key."
    assert "Not whole now: 3 repos." in remedy
    assert "`rescind backfill`" in remedy
    assert "`rescind resync DID`" in remedy


async def test_so_does_one_that_ends_before_its_end(world: World) -> None:
    file = record(world, commits_of_accounts_that_are_gone())
    file.write_bytes(file.read_bytes() + b"not what a recorder writes")
    status, _, err = await rescind(world, "replay", "--file", str(file))
    assert status == 1
    assert "Rejected: 3 no_key." in err
    assert "is damaged" in err.splitlines()[-1]


async def test_a_replay_that_took_everything_says_no_more_than_that(world: World) -> None:
    file = record(world, [identity_frame(1)])
    status, out, err = await rescind(world, "replay", "--file", str(file))
    assert (status, "Replayed 1 events" in out) == (0, True)
    assert "ejected" not in err
    assert "whole" not in err
