"""At a terminal an operator sees and revokes what callers do, by the same rules."""

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from indexer.cli import main
from indexer.lock import daemon_lock
from indexer.store import invite_tokens, outbox
from tests.support.command import KEY, rescind
from tests.support.guests import HASH, LIST_INVITES, TOKEN, join, redeem, said, set_account
from tests.support.xrpc_world import ALICE, BOB, CAROL, OPERATOR, STRANGER, World, make_world

LIST_VERIFICATIONS = "tools.ozone.verification.listVerifications"
SERVICE = "did:web:rescind.test"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        await made.account(ALICE)
        await made.account(BOB, session=False)
        made.name(ALICE, made.pds.url, "alice.test")
        made.name(CAROL, made.pds.url, "carol.test")
        async with made.serving():
            yield made


async def run(world: World, *arguments: str, **settings: str) -> tuple[int, str, str]:
    return await rescind(world, *arguments, PUBLIC_URL="https://rescind.test", **settings)


async def lines(world: World, *arguments: str) -> list[Any]:
    """Run a command with --json that must succeed; return its objects."""
    status, out, err = await run(world, *arguments, "--json")
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]


async def shown(world: World, *arguments: str) -> dict[str, Any]:
    status, out, err = await run(world, *arguments, "--json")
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def by_handle(uri: str) -> str:
    return uri.replace(ALICE, "alice.test")


# --- spaces ---


async def test_spaces_are_listed_of_all_of_an_owner_of_a_member_and_of_a_type(
    world: World,
) -> None:
    one, two = await world.space(ALICE, "one"), await world.space(ALICE, "two")
    other = await world.space(BOB, "other")
    await join(world, other, ALICE)

    async def listed(*arguments: str) -> list[str]:
        return [space["uri"] for space in await lines(world, "spaces", "list", *arguments)]

    assert await listed() == [one, two, other]
    assert await listed("--owner", ALICE) == [one, two]
    assert await listed("--owner", "@alice.test") == [one, two]
    assert await listed("--member", "alice.test") == [one, two, other]
    assert await listed("--member", ALICE, "--owner", BOB) == [other]
    assert await listed("--member", CAROL) == []
    for whose in ([], ["--owner", ALICE]):
        assert await listed(*whose, "--type", "rsvp.atmo.space") == (await listed(*whose))
        assert await listed(*whose, "--type", "rsvp.atmo.spa") == []
    [view] = await lines(world, "spaces", "list", "--owner", BOB)
    assert view == {
        "uri": other, "ownerDid": BOB, "type": "rsvp.atmo.space", "key": "other",
        "serviceDid": SERVICE, "createdAt": 1_767_225_600_000, "name": "A party",
        "description": None,
    }  # fmt: skip


async def test_a_space_that_is_not_there_for_callers_is_not_listed(world: World) -> None:
    gone, hidden = await world.space(ALICE), await world.space(BOB)
    await world.erase(gone)
    await set_account(world, BOB, "suspended")
    assert await lines(world, "spaces", "list") == []
    for uri in (gone, hidden):
        status, out, err = await run(world, "spaces", "show", uri)
        assert (status, out) == (1, "")
        assert err.startswith("Error: this space is gone: ")
    unknown = f"at://{ALICE}/rsvp.atmo.space/unknown"
    status, _, err = await run(world, "spaces", "show", unknown)
    assert (status, err) == (1, "Error: there is no such space\n")


async def test_what_is_behind_the_limit_is_announced_and_nothing_else_is(world: World) -> None:
    for key in ("one", "two", "three"):
        uri = await world.space(ALICE, key)
        await world.invite(uri, hashlib.sha256(key.encode()).hexdigest(), key)
        await world.invite(uri, hashlib.sha256(key.encode()).hexdigest()[::-1], f"{key}-2")
        await world.invite(uri, HASH, f"{key}-3")
        await world.verification(BOB, key)
    for command in (
        ["spaces", "list"], ["spaces", "list", "--owner", ALICE], ["invites", "list", uri],
        ["verifications", "list"],
    ):  # fmt: skip
        status, out, err = await run(world, *command, "--limit", "2")
        assert (status, len(out.splitlines())) == (0, 2)
        assert err == "These are the first 2: --limit shows more.\n"
        status, out, err = await run(world, *command, "--limit", "3")
        assert (status, len(out.splitlines()), err) == (0, 3, "")


async def test_a_space_is_shown_with_who_belongs_to_it(world: World) -> None:
    uri = await world.space(ALICE)
    await join(world, uri, BOB)
    found = await shown(world, "spaces", "show", by_handle(uri))
    assert [member["did"] for member in found["members"]] == [ALICE, BOB]
    assert (found["uri"], found["name"], found["tombstones"]) == (uri, "A party", [])
    _, out, _ = await run(world, "spaces", "show", uri)
    assert re.search(rf"^members +{BOB}  write  20", out, re.MULTILINE)


async def test_a_strangers_text_does_not_steer_the_terminal(world: World) -> None:
    uri = await world.write(ALICE, "rsvp.atmo.space", "odd", {"name": "a\x1b]0;x\x07b\nc"})
    await world.invite(uri, HASH, note="\x1b]0;x\x07\r")
    for command in (["spaces", "list"], ["spaces", "show", uri], ["invites", "list", uri]):
        _, out, _ = await run(world, *command)
        assert not set(out) & {"\x1b", "\x07", "\r"}
    assert len((await run(world, "spaces", "list"))[1].splitlines()) == 1


def test_the_help_says_that_a_space_is_not_revoked() -> None:
    found = CliRunner().invoke(main, ["spaces", "--help"])
    assert "no revoking here" in found.output
    assert CliRunner().invoke(main, ["spaces", "revoke", "x"]).exit_code == 2


# --- invites ---


async def test_invites_are_listed_as_their_owner_sees_them(world: World) -> None:
    uri = await world.space(ALICE)
    await world.invite(uri, HASH, note="welcome", maxUses=3)
    await world.invite(uri, "ab" * 32, "two", expiresAt="2030-01-01T00:00:00Z")
    await redeem(world, BOB)
    _, answer = said(await world.ask(ALICE, LIST_INVITES, spaceUri=uri))
    assert await lines(world, "invites", "list", by_handle(uri)) == answer["invites"]

    _, out, _ = await run(world, "invites", "list", uri)
    assert sorted(line.split() for line in out.splitlines()) == [
        ["join", "0/-", "ab" * 32, "until", "2030-01-01T00:00:00Z"],
        ["join", "1/3", HASH, "welcome"],
    ]
    status, _, err = await run(world, "invites", "list", f"at://{BOB}/rsvp.atmo.space/none")
    assert (status, err) == (1, "Error: there is no such space\n")


async def test_an_invite_revoked_at_the_terminal_lets_nobody_in(world: World) -> None:
    uri = await world.space(BOB)
    record = await world.invite(uri, HASH)

    status, out, err = await run(world, "invites", "revoke", uri, HASH.upper())

    assert (status, err) == (0, "")
    assert out == f"Revoked {record}; its deletion waits for a log-in: `rescind login {BOB}`.\n"
    assert await redeem(world, CAROL) == (400, "InvalidInvite")
    [stone] = await world.stones(record)
    assert (stone.cause, stone.actor) == ("revoked", SERVICE)
    assert await world.audit() == [
        (SERVICE, "invite.revoke", record, None),
        ("operator", "invite.revoke", record, None),
    ]
    assert (await world.row(record)).uri == record


async def test_an_invite_is_revoked_once_and_the_first_time_stays(world: World) -> None:
    uri = await world.space(ALICE)
    record = await world.invite(uri, HASH)
    await run(world, "invites", "revoke", uri, HASH)
    [first] = await world.stones(record)
    status, out, err = await run(world, "invites", "revoke", uri, HASH)
    assert (status, err.startswith("It was revoked before, at 20")) == (0, True)
    assert record in out
    assert await world.stones(record) == [first]
    assert len(await world.audit()) == 2


async def test_a_revoked_invite_is_shown_with_who_revoked_it(world: World) -> None:
    uri = await world.space(ALICE)
    record = await world.invite(uri, HASH, note="welcome")
    assert (await shown(world, "invites", "show", uri, HASH))["tombstones"] == []
    await run(world, "invites", "revoke", uri, HASH)
    assert await lines(world, "invites", "list", uri) == []
    [listed] = await lines(world, "invites", "list", uri, "--revoked")
    found = await shown(world, "invites", "show", by_handle(uri), HASH)
    assert found.items() >= listed.items()
    assert [stone["actor"] for stone in found["tombstones"]] == [SERVICE]
    assert [entry["actor"] for entry in found["audit"]] == [SERVICE, "operator"]
    assert [deletion["uri"] for deletion in found["deletions"]] == [record]
    assert (await run(world, "invites", "show", uri, HASH))[0] == 0


async def test_the_invites_of_a_space_that_is_gone_are_still_revoked_and_shown(
    world: World,
) -> None:
    uri = await world.space(ALICE)
    await world.invite(uri, HASH)
    await world.erase(uri)
    assert (await run(world, "invites", "revoke", uri, HASH))[0] == 0
    found = await shown(world, "invites", "show", uri, HASH)
    assert (found["tokenHash"], found["spaceUri"]) == (HASH, uri)
    assert [stone["cause"] for stone in found["tombstones"]] == ["revoked"]


async def test_an_invite_whose_record_its_repo_deleted_is_revoked_without_a_deletion(
    world: World,
) -> None:
    uri = await world.space(ALICE)
    record = await world.invite(uri, HASH)
    await world.erase(record)
    status, out, _ = await run(world, "invites", "revoke", uri, HASH)
    assert (status, out) == (0, f"Revoked {record}; its repo had deleted it before.\n")
    assert await outbox.load(world.db, [record]) == {}


async def test_an_invite_that_was_created_here_and_not_seen_yet_is_revoked_and_shown(
    world: World,
) -> None:
    uri = await world.space(ALICE)
    record = f"at://{ALICE}/rsvp.atmo.space.invite/3l"
    async with world.db.transaction() as tx:
        await invite_tokens.note_created(tx, uri, HASH, record)

    status, out, _ = await run(world, "invites", "revoke", uri, HASH)

    assert status == 0
    assert out.startswith(f"Revoked {record}; its deletion is pending")
    found = await shown(world, "invites", "show", uri, HASH)
    assert [(stone["cause"], stone["uri"]) for stone in found["tombstones"]] == [
        ("revoked", record)
    ]
    assert found["records"] == []


async def test_what_can_not_be_revoked_is_one_line_and_nothing_is_written(world: World) -> None:
    uri = await world.space(ALICE)
    await world.invite(uri, HASH)
    for space, token_hash, message in (
        (f"at://{ALICE}/rsvp.atmo.space/none", HASH, "there is no such space"),
        (uri, "cd" * 32, "this space has no invite with this hash"),
        ("at://nobody.test/rsvp.atmo.space/x", HASH, "the account can't be resolved: unreachable"),
    ):
        status, out, err = await run(world, "invites", "revoke", space, token_hash)
        assert (status, out, err) == (1, "", f"Error: {message}\n")
    assert await world.audit() == []


async def test_a_token_in_place_of_its_hash_is_refused_and_not_repeated(world: World) -> None:
    uri = await world.space(ALICE)
    for command in ("revoke", "show"):
        status, out, err = await run(world, "invites", command, uri, TOKEN)
        assert status == 2
        assert "SHA-256" in err
        assert TOKEN not in out + err


# --- verifications ---


async def test_verifications_are_listed_as_operators_see_them(world: World) -> None:
    uris = [await world.verification(ALICE, key) for key in ("one", "two")]
    uris.append(await world.verification(BOB, subject=STRANGER))
    answer = (await world.ask(OPERATOR, LIST_VERIFICATIONS)).json()["verifications"]
    assert await lines(world, "verifications", "list") == answer
    assert {view["uri"] for view in answer} == set(uris)

    async def listed(*arguments: str) -> set[str]:
        return {view["uri"] for view in await lines(world, "verifications", "list", *arguments)}

    assert await listed("--issuer", "alice.test") == set(uris[:2])
    assert await listed("--issuer", ALICE, "--issuer", BOB) == set(uris)
    assert await listed("--subject", STRANGER) == set(uris[2:])
    assert await listed("--issuer", ALICE, "--subject", STRANGER) == set()
    await run(world, "verifications", "revoke", uris[0])
    assert await listed("--revoked") == set(uris[:1])
    assert await listed("--not-revoked") == set(uris[1:])
    _, out, _ = await run(world, "verifications", "list")
    assert {line.split()[2]: line.split()[0] for line in out.splitlines()} == {
        uris[0]: "revoked", uris[1]: "valid", uris[2]: "stale",
    }  # fmt: skip


async def test_more_than_a_page_of_verifications_is_listed_to_the_end(world: World) -> None:
    uris = {await world.verification(ALICE, f"v{number}") for number in range(130)}
    found = [view["uri"] for view in await lines(world, "verifications", "list")]
    assert len(found) == 130
    assert set(found) == uris


async def test_a_verification_revoked_at_the_terminal_is_told_so_and_published(
    world: World,
) -> None:
    await world.log_in(ALICE, world.pds)
    uris = [await world.verification(ALICE, key) for key in ("one", "two")]

    arguments = ("verifications", "revoke", by_handle(uris[0]), uris[1], "--reason", "left us")
    status, out, err = await run(world, *arguments)

    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"Revoked {uri}; its deletion is pending: no daemon runs, the next `rescind run` "
        "publishes it."
        for uri in uris
    ]
    assert await world.audit() == [
        (actor, "verification.revoke", uri, "left us")
        for actor in (SERVICE, "operator")
        for uri in uris
    ]
    # What callers are told of it fits the lexicon: `revokedBy` is a DID.
    answer = await world.ask(OPERATOR, LIST_VERIFICATIONS)
    assert answer.status_code == 200
    assert {
        (view["revokedBy"], view["revokeReason"], view["valid"])
        for view in answer.json()["verifications"]
    } == {(SERVICE, "left us", False)}


async def test_beside_a_daemon_the_deletion_is_left_to_it(world: World) -> None:
    await world.log_in(ALICE, world.pds)
    uri = await world.verification(ALICE)
    with daemon_lock(world.settings.db):
        _, out, _ = await run(world, "verifications", "revoke", uri)
        assert out == (
            f"Revoked {uri}; its deletion is pending: the running daemon publishes it.\n"
        )


async def test_only_of_accounts_with_a_session_or_of_the_verifier(world: World) -> None:
    good, foreign = await world.verification(ALICE), await world.verification(BOB)
    missing = f"at://{ALICE}/app.bsky.graph.verification/missing"
    space = await world.space(ALICE)

    found = await run(world, "verifications", "revoke", foreign, good, missing, space, "--json")

    assert (found[0], found[2]) == (1, "Error: 3 of 4 failed\n")
    answers = {answer["uri"]: answer for answer in map(json.loads, found[1].splitlines())}
    assert answers[good] == {"uri": good, "revoked": True, "deletion": "pending", "error": None}
    assert {uri: answers[uri]["error"].partition(":")[0] for uri in (foreign, missing, space)} == {
        foreign: "Forbidden", missing: "NotFound", space: "NotAVerification",
    }  # fmt: skip
    assert await world.stones(foreign, missing, space) == []
    assert {subject for _, _, subject, _ in await world.audit()} == {good}

    status, out, _ = await run(world, "verifications", "revoke", foreign, VERIFIER=BOB)
    assert (status, f"`rescind login {BOB}`" in out) == (0, True)


async def test_a_verification_is_shown_with_whether_it_holds(world: World) -> None:
    uri = await world.verification(ALICE, "one")
    found = await shown(world, "verifications", "show", by_handle(uri))
    assert (found["uri"], found["valid"], found["hosting"]) == (uri, True, "active")
    await run(world, "verifications", "revoke", uri, "--reason", "left us")
    found = await shown(world, "verifications", "show", uri)
    assert (found["valid"], found["revokedBy"], found["revokeReason"]) == (
        False, SERVICE, "left us",
    )  # fmt: skip
    _, out, _ = await run(world, "verifications", "show", uri)
    assert re.search(r"^valid +no$", out, re.MULTILINE)
    assert re.search(r"^tombstones +20.*  revoked .*  left us$", out, re.MULTILINE)
    missing = f"at://{ALICE}/app.bsky.graph.verification/missing"
    status, _, err = await run(world, "verifications", "show", missing)
    assert (status, err) == (1, "Error: the index has no such verification\n")


# --- the use ---


async def test_nothing_here_makes_a_key_file(world: World) -> None:
    uri = await world.verification(ALICE)
    for command in (["list"], ["show", uri], ["revoke", uri]):
        status, _, err = await run(world, "verifications", *command, SECRET_KEY="")
        assert (status, err) == (0, "")
    assert not world.settings.key_file.exists()


async def test_without_a_database_none_is_made(world: World, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    uri = f"at://{ALICE}/rsvp.atmo.space/party"
    for arguments in (
        ["spaces", "list"], ["spaces", "show", uri], ["invites", "list", uri],
        ["invites", "revoke", uri, HASH], ["verifications", "list"],
        ["verifications", "revoke", uri],
    ):  # fmt: skip
        status, out, err = await run(world, *arguments, "--db", str(missing))
        assert (status, out) == (1, "")
        assert err.startswith(f"Error: There is no database at {missing}")
    assert not missing.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["spaces", "list", "--owner", "not an account"], "neither a DID nor a handle"),
        (["spaces", "list", "--type", "nonsense"], "is not an NSID"),
        (["spaces", "list", "--limit", "0"], "--limit"),
        (["spaces", "show", "https://example.com"], "is not at://"),
        (["spaces", "show", f"at://{ALICE}"], "is not at://"),
        (["invites", "list"], "SPACE"),
        (["verifications", "revoke"], "URI"),
        (["verifications", "revoke", *["at://a.test/b.c.d/e"] * 101], "100 verifications at most"),
        (
            ["verifications", "revoke", "at://a.test/b.c.d/e", "--reason", "é" * 501],
            "1000 bytes",
        ),
        (["verifications", "list", *["--issuer", "a.test"] * 101], "100 issuers"),
    ],
)
async def test_a_mistake_in_the_use_is_named(world: World, arguments: list[str], text: str) -> None:
    status, out, err = await run(world, *arguments)
    assert (status, out) == (2, "")
    assert text in err
    assert KEY not in err
