"""An invite counts from when its PDS has proven that it stands, whatever the firehose is doing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from indexer.stream.events import Write
from tests.support.account_keys import Key
from tests.support.fake_pds import Call, FakePds, Fault, drip, flood, raw, says
from tests.support.frames import Author, block, car, cid_of, cid_text, tid, tree
from tests.support.guests import LIST_INVITES, members, redeem, said
from tests.support.xrpc_world import (
    ALICE,
    BOB,
    INVITE,
    KEY,
    NOW,
    REVOKE_INVITE,
    SPACE,
    World,
    make_world,
)
from xrpc.methods import creating
from xrpc.publishing import publisher

CREATE_SPACE, CREATE_INVITE = "rsvp.atmo.space.createSpace", "rsvp.atmo.space.invite.create"
PROOF = "com.atproto.sync.getRecord"
REV = tid(7, int(NOW * 1000))
Blocks = tuple[bytes, list[bytes], bytes]  # the commit, the nodes, the record


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(publisher, "POLL", 0.02)
    async with make_world(tmp_path) as made, made.serving():
        await made.account(ALICE)
        await made.account(BOB, session=False)
        yield made


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The firehose is given up sooner."""
    monkeypatch.setattr(creating, "SEEN_WITHIN", 0.3)


def parts(
    pds: FakePds, call: Call, key: Key = KEY, rev: str = REV, did: str | None = None
) -> Blocks:
    """Return what proves the record that is asked for, as it was created last."""
    path = f"{call.input['collection']}/{call.input['rkey']}"
    records = {path: block(record) for commit in pds.commits for path, _, record in commit.created}
    nodes = tree({path: cid_of(data) for path, data in records.items()})
    author = Author(did or call.input["did"])
    author.key = key
    return block(author.commit_object(rev, cid_of(nodes[0]))), nodes, records[path]


def proving(change: Callable[[Blocks], Blocks] = lambda blocks: blocks, **given: Any) -> Fault:
    """Prove what is asked for, with one thing wrong if that is wanted."""

    async def fault(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
        commit, nodes, record = change(parts(pds, call, **given))
        pds.send(writer, 200, car(cid_of(commit), [commit, *nodes, record]))
        await writer.drain()

    return fault


async def create(world: World, space: str, **given: Any) -> str:
    answer = await world.call(ALICE, CREATE_INVITE, {"spaceUri": space, **given})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


async def listed(world: World, space: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await world.ask(ALICE, LIST_INVITES, spaceUri=space)).json()[
        "invites"
    ]
    return found


async def test_a_guest_comes_in_before_the_firehose_has_shown_the_invite(world: World) -> None:
    space = await world.space(ALICE)
    world.pds.always[PROOF] = proving()

    token = await create(world, space)

    assert await redeem(world, BOB, token) == (200, space)
    [asked] = world.pds.of(PROOF)
    assert asked.input["did"] == ALICE
    assert asked.token is None  # it is for anybody to ask
    [row] = await world.db.all("select rev, cid from invites")
    assert row["rev"] == REV
    [commit] = world.pds.commits
    assert row["cid"] == cid_text(block(commit.created[0][2]))


async def test_a_new_space_is_there_at_once_too_and_so_is_an_invite_to_it(world: World) -> None:
    world.pds.always[PROOF] = proving()
    made = await world.call(ALICE, CREATE_SPACE, {"key": "party"})
    space = made.json()["space"]["uri"]
    assert await redeem(world, BOB, await create(world, space)) == (200, space)


async def test_what_the_firehose_shows_afterwards_changes_nothing(world: World) -> None:
    space = await world.space(ALICE)
    world.pds.always[PROOF] = proving()
    token = await create(world, space)
    assert await redeem(world, BOB, token) == (200, space)
    before = [tuple(row) for row in await world.db.all("select * from invites")]
    [commit] = world.pds.commits
    [(path, _, record)] = commit.created
    write = Write(
        "create", INVITE, path.split("/")[1], cid_text(block(record)), None, block(record)
    )

    await world.show(ALICE, commit.rev, commit.since, write)

    assert [tuple(row) for row in await world.db.all("select * from invites")] == before
    assert [view["usedCount"] for view in await listed(world, space)] == [1]
    [repo] = await world.db.all("select rev from repos where did = :did", {"did": ALICE})
    assert repo["rev"] == commit.rev  # the proof has not moved it
    await world.show(ALICE, tid(9, int(NOW * 1000)), commit.rev, Write(
        "delete", INVITE, path.split("/")[1], None, None, None,
    ))  # fmt: skip
    assert await listed(world, space) == []


WRONG: dict[str, Fault] = {
    "another's key": proving(key=Key.k256()),
    "another's repo": proving(did=BOB),
    "another record": proving(lambda b: (b[0], b[1], block({"$type": INVITE}))),
    "no path": proving(lambda b: (b[0], [], b[2])),
    "from the future": proving(rev=tid(0, int(NOW * 1000) + 600_000)),
    "not served": says(404, "MethodNotImplemented"),
    "nothing": raw(200, b""),
    "no end of it": flood,
    "drop by drop": drip,
    "elsewhere": raw(302, b"", "Location: http://127.0.0.1:1/"),
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("wrong", WRONG)
async def test_what_the_pds_does_not_prove_counts_when_the_firehose_shows_it(
    world: World, wrong: str
) -> None:
    space = await world.space(ALICE)
    world.pds.always[PROOF] = WRONG[wrong]
    with capture_logs() as entries:
        token = await create(world, space)
    assert await redeem(world, BOB, token) == (400, "InvalidInvite")
    assert await listed(world, space) == []
    assert token not in repr(entries)

    await world.show_commits(world.pds.commits)

    assert await redeem(world, BOB, token) == (200, space)


async def test_a_key_that_changed_is_learned(world: World) -> None:
    space = await world.space(ALICE)
    new = Key.k256()
    await world.resolver.resolve(ALICE)
    method = world.plc.documents[ALICE]["verificationMethod"][0]
    method["publicKeyMultibase"] = new.did_key.removeprefix("did:key:")
    world.pds.always[PROOF] = proving(key=new)
    token = await create(world, space)
    assert await redeem(world, BOB, token) == (200, space)


async def test_an_invite_that_is_revoked_before_it_is_proven_is_born_dead(world: World) -> None:
    space = await world.space(ALICE)
    asked, gate = asyncio.Event(), asyncio.Event()
    prove = proving()

    async def late(pds: FakePds, call: Call, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await gate.wait()
        await prove(pds, call, writer)

    world.pds.always[PROOF] = late
    creation = asyncio.create_task(create(world, space))
    await asyncio.wait_for(asked.wait(), 5)
    [row] = await world.db.all("select token_hash from invite_tokens")
    body = {"spaceUri": space, "tokenHash": row["token_hash"]}
    assert said(await world.call(ALICE, REVOKE_INVITE, body))[0] == 200
    gate.set()

    token = await creation

    assert await redeem(world, BOB, token) == (400, "InvalidInvite")
    assert await members(world, space) == []


async def test_an_account_that_was_deleted_meanwhile_gets_nothing_back(world: World) -> None:
    record = {"$type": SPACE, "createdAt": "2026-01-01T00:00:00.000Z"}
    space = await world.space(ALICE)
    async with world.db.transaction() as tx:
        await tx.execute("update repos set hosting = 'deleted' where did = :did", {"did": ALICE})
        write = Write("create", SPACE, "two", cid_text(block(record)), None, block(record))
        await world.projection.show(tx, ALICE, REV, write, world.now)
    assert [row["uri"] for row in await world.db.all("select uri from spaces")] == [space]
