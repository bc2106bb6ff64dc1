"""What the demo shows: who is there, what is written, and two revocations step by step."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from scripts.demonstration.page import Page, json_text, path_text
from scripts.demonstration.stage import DeletionCommit, NotSeenError, Record, Sight, Stage
from tests.localnet import Account

REVOKE_INVITE = "rsvp.atmo.space.invite.revoke"
REVOKE_VERIFICATIONS = "tools.ozone.verification.revokeVerifications"

STEPS = 6  # of a revocation

# Of the index, as far as it is shown.
COLUMNS = {
    "invites": "rev, space_uri, token_hash, revoked",
    "verifications": "rev, subject, handle, revoked",
}


@dataclass(frozen=True, slots=True)
class Revocation:
    """A call that revokes one record, through the caller's own PDS, as any app would make it."""

    record: Record
    caller: Account
    nsid: str
    input: Mapping[str, object]
    good_answer: Mapping[str, object]

    @property
    def url(self) -> str:
        return f"{self.caller.pds.url}/xrpc/{self.nsid}"


def of_invite(stage: Stage, record: Record) -> Revocation:
    """The owner of the space revokes an invite: anybody may call that for a space of theirs."""
    call = {"spaceUri": record.value["space"], "tokenHash": record.value["tokenHash"]}
    return Revocation(record, stage.alice, REVOKE_INVITE, call, {"ok": True})


def of_verification(stage: Stage, record: Record) -> Revocation:
    """An operator revokes what another account, the verifier, has issued."""
    call = {"uris": [record.ref.uri], "revokeReason": "shown in the demo"}
    good = {"revokedVerifications": [record.ref.uri], "failedRevocations": []}
    return Revocation(record, stage.otto, REVOKE_VERIFICATIONS, call, good)


async def play(stage: Stage, page: Page) -> list[Revocation]:
    """Show everybody, revoke one of each kind, and return what is left for the reader to revoke.

    Raises NotSeenError at the first step that does not come.
    """
    _introduce(stage, page)
    page.heading(
        "Rescind gets a session for each repo that it shall delete from",
        "An app password each, on standard input.",
    )
    for account in (stage.alice, stage.vera):
        page.line(f"  $ rescind login {account.handle}")
        page.line(f"  {await stage.log_in(account)}")
    page.heading(
        "Records are written to the repos, and come to the index by the firehose",
        "Times count from the PDS's answer to the row in the index.",
    )
    space = await stage.create_space()
    _show_record(page, "space", space)
    invites = []
    for kind in ("join", "read", "read-join"):
        invites.append(await stage.create_invite(space, kind))
        _show_record(page, "invite", invites[-1])
    verifications = []
    for friend in stage.friends:
        verifications.append(await stage.create_verification(friend))
        _show_record(page, "verification", verifications[-1])
    page.heading(
        "alice.test revokes an invite to her space",
        "Times count from the call. The answer comes once the tombstone is durable;\n"
        "the deletion follows.",
    )
    await _revoke(stage, page, of_invite(stage, invites[0]))
    page.heading(
        "otto.test, an operator, revokes a verification that vera.test issued",
        "Times count from the call. The answer comes once the PDS says that the record\nis gone.",
    )
    await _revoke(stage, page, of_verification(stage, verifications[0]))
    return [
        *(of_invite(stage, record) for record in invites[1:]),
        *(of_verification(stage, record) for record in verifications[1:]),
    ]


def _introduce(stage: Stage, page: Page) -> None:
    page.heading("A network of its own, on loopback")
    page.pair("PLC", stage.network.plc_url, "the directory of the DIDs")
    page.pair("PDS", stage.network.pds.url, "holds the repos; stands in for a relay")
    page.pair("Rescind", f"http://localhost:{stage.daemon.port}", stage.daemon.service)
    page.pair("data, logs", path_text(stage.directory))
    page.heading("Who is who")
    page.pair(stage.alice.handle, stage.alice.did, "owns a space and invites people to it")
    page.pair(stage.vera.handle, stage.vera.did, "verifies accounts")
    page.pair(stage.otto.handle, stage.otto.did, "an operator: may revoke for vera.test")
    for friend in stage.friends:
        page.pair(friend.handle, friend.did, "is verified by vera.test")


def _show_record(page: Page, kind: str, record: Record) -> None:
    page.pair(kind, f"{record.owner.handle:<12}{record.path:<44}{record.indexed:>8}")


async def _revoke(stage: Stage, page: Page, revocation: Revocation) -> None:
    """Revoke a record and show each step."""
    record = revocation.record
    value = await record.owner.get_record(*record.path.split("/"))
    if value is None:
        raise NotSeenError("record in the repo", "the PDS has no such record")
    content = {"uri": record.ref.uri, "value": json_text(value)}
    page.step(1, "record in the repo", "PDS, com.atproto.repo.getRecord", "", content)

    row = await stage.see_row(
        "row in the index",
        f"select {COLUMNS[record.table]} from {record.table} where uri = ? and revoked = 0",
        record.ref.uri,
    )
    page.step(2, "row in the index", f"SQLite, table {record.table}", "", _texts(row.what))
    try:
        await _watch(stage, page, revocation)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _watch(stage: Stage, page: Page, revocation: Revocation) -> None:
    uri = revocation.record.ref.uri
    start = time.monotonic()
    # All eyes are open from the start: the tombstone and the commit may come before the answer.
    async with asyncio.TaskGroup() as tasks:
        calling = tasks.create_task(_call(stage, revocation))
        burying = tasks.create_task(
            stage.see_row(
                "tombstone",
                "select cause, actor, reason from tombstones where uri = ? and cause = 'revoked'",
                uri,
            )
        )
        deleting = tasks.create_task(
            stage.see("deletion commit", lambda: stage.witness.deletions.get(uri))
        )
        confirming = tasks.create_task(
            stage.see_row(
                "confirmed",
                "select state, commit_rev from outbox where uri = ? and state = 'confirmed'",
                uri,
            )
        )
        _show_call(stage, page, revocation, await calling, start)
        stone = await burying
        actor = stone.what["actor"]
        known = stone.what | {"actor": f"{actor} ({stage.name(actor)})"}
        page.step(4, "tombstone", "SQLite, table tombstones", stone.after(start), _texts(known))
        await _show_deletion(page, revocation.record, await deleting, start)
        done = await confirming
        if done.what["commit_rev"] != deleting.result().what.rev:
            raise NotSeenError("confirmed", f"with another commit, {done.what['commit_rev']}")
        page.step(6, "confirmed", "SQLite, table outbox", done.after(start), _texts(done.what))


async def _call(stage: Stage, revocation: Revocation) -> Sight[str]:
    caller = revocation.caller
    response = await caller.call(revocation.nsid, revocation.input, proxy=stage.daemon.service)
    answered = time.monotonic()
    if not response.is_success or response.json() != revocation.good_answer:
        raise NotSeenError("revoke", f"the answer was {response.status_code} {response.text}")
    return Sight(f"{response.status_code} {json_text(response.json())}", answered)


def _show_call(
    stage: Stage, page: Page, revocation: Revocation, answer: Sight[str], start: float
) -> None:
    details = {
        "POST": revocation.url,
        "proxied to": stage.daemon.service,
        "input": json_text(revocation.input),
        "answer": answer.what,
    }
    place = f"HTTP, {revocation.caller.handle} through the PDS"
    page.step(3, "revoke", place, answer.after(start), details)


async def _show_deletion(
    page: Page, record: Record, commit: Sight[DeletionCommit], start: float
) -> None:
    if await record.owner.get_record(*record.path.split("/")) is not None:
        raise NotSeenError("deletion commit", "the PDS still has the record")
    details = {
        "#commit": f"seq {commit.what.seq}, rev {commit.what.rev}",
        "op": f"delete {commit.what.path}",
        "getRecord": "RecordNotFound",
    }
    page.step(5, "deletion commit", "firehose, by another subscriber", commit.after(start), details)


def _texts(row: Mapping[str, object]) -> dict[str, str]:
    """Return the columns as text, without those that are null."""
    return {name: str(value) for name, value in row.items() if value is not None}
