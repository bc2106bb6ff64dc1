"""`tools.ozone.verification.revokeVerifications` on the real PDS."""

from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    INVITE,
    REVOKE_VERIFICATIONS,
    VERIFICATION,
    create_verifications,
    log_in,
    revoke_verifications,
    verification_of,
)
from tests.localnet import Frame, LocalNetwork, collect

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_operator_revokes_a_hundred_in_one_commit(
    network: LocalNetwork, tmp_path: Path
) -> None:
    issuer = await network.pds.create_account(network.handle("issuer"))
    subject = await network.pds.create_account(network.handle("subject"))
    operator = await network.pds.create_account(network.handle("operator"))
    daemon = Daemon.on(network, tmp_path / "rescind", OPERATORS=operator.did)
    await daemon.start("--cursor", "oldest")
    uris = await create_verifications(issuer, subject, 100)
    await daemon.sees("select 1 from verifications where uri = ?", uris[-1])
    await log_in(daemon, issuer)

    body = {"uris": uris, "revokeReason": "no longer with us"}
    answer = await operator.call(REVOKE_VERIFICATIONS, body, daemon.service)

    assert answer.status_code == 200
    assert answer.json() == {"revokedVerifications": uris, "failedRevocations": []}
    stones = daemon.rows(
        "select uri, actor, reason, cause from tombstones where did = ?", issuer.did
    )
    assert {stone["uri"] for stone in stones} == set(uris)
    assert {(s["actor"], s["reason"], s["cause"]) for s in stones} == {
        (operator.did, "no longer with us", "revoked")
    }
    assert await issuer.list_records(VERIFICATION) == []
    frames = await collect(network.pds.ws_url, lambda frame: _deletions(frame, issuer.did) > 0)
    assert _deletions(frames[-1], issuer.did) == 100
    row = await daemon.sees(
        "select count(*) as count from outbox where state = 'confirmed' having count(*) = 100"
    )
    assert row == {"count": 100}
    await daemon.stop()


async def test_each_uri_of_a_mixed_batch_is_answered_truthfully(
    network: LocalNetwork, daemon: Daemon
) -> None:
    issuer = await network.pds.create_account(network.handle("issuer"))
    subject = await network.pds.create_account(network.handle("subject"))
    good = await create_verifications(issuer, subject, 2)
    [foreign] = await create_verifications(subject, issuer, 1)
    missing = f"at://{issuer.did}/{VERIFICATION}/3kznmn7xqxl22"
    other = f"at://{issuer.did}/{INVITE}/3kznmn7xqxl22"
    by_handle = good[0].replace(issuer.did, issuer.handle)
    await daemon.sees("select 1 from verifications where uri = ?", foreign)
    await log_in(daemon, issuer)

    uris = [good[0], missing, foreign, other, good[1], good[0], by_handle, f"at://{issuer.did}"]
    answer = (await revoke_verifications(daemon, issuer, uris)).json()

    assert answer["revokedVerifications"] == good
    failed = {item["uri"]: item["error"].partition(":")[0] for item in answer["failedRevocations"]}
    assert failed == {
        missing: "NotFound",
        foreign: "Forbidden",
        other: "NotAVerification",
        f"at://{issuer.did}": "NotAVerification",
    }
    assert await issuer.list_records(VERIFICATION) == []
    assert len(await subject.list_records(VERIFICATION)) == 1


async def test_a_malformed_uri_or_too_long_a_list_revokes_nothing(
    network: LocalNetwork, daemon: Daemon
) -> None:
    issuer = await network.pds.create_account(network.handle("issuer"))
    subject = await network.pds.create_account(network.handle("subject"))
    uris = await create_verifications(issuer, subject, 101)
    await daemon.sees("select 1 from verifications where uri = ?", uris[-1])

    for wrong in (uris, [uris[0], "at://not a uri"], [uris[0], "https://example.com"]):
        answer = await revoke_verifications(daemon, issuer, wrong)
        assert (answer.status_code, answer.json()["error"]) == (400, "InvalidRequest")
    assert daemon.rows("select 1 from tombstones where did = ?", issuer.did) == []


async def test_without_a_session_it_is_dead_here_and_published_after_the_log_in(
    network: LocalNetwork, daemon: Daemon
) -> None:
    issuer = await network.pds.create_account(network.handle("issuer"))
    subject = await network.pds.create_account(network.handle("subject"))
    [uri] = await create_verifications(issuer, subject, 1)
    await daemon.sees("select 1 from verifications where uri = ?", uri)

    answer = (await revoke_verifications(daemon, issuer, [uri])).json()

    assert answer["revokedVerifications"] == []
    [failure] = answer["failedRevocations"]
    assert failure["error"].startswith("PublishBlocked: ")
    assert daemon.rows("select revoked from verifications where uri = ?", uri) == [{"revoked": 1}]
    assert (await daemon.status())["outbox"]["blocked"] == 1

    await log_in(daemon, issuer)
    await daemon.sees("select 1 from outbox where uri = ? and state = 'confirmed'", uri)
    assert await issuer.list_records(VERIFICATION) == []
    again = (await revoke_verifications(daemon, issuer, [uri])).json()
    assert again == {"revokedVerifications": [uri], "failedRevocations": []}


async def test_the_same_record_put_back_stays_revoked_but_a_new_version_is_a_new_grant(
    network: LocalNetwork, daemon: Daemon
) -> None:
    issuer = await network.pds.create_account(network.handle("issuer"))
    subject = await network.pds.create_account(network.handle("subject"))
    record = verification_of(subject)
    uri, cid = await issuer.create_record(VERIFICATION, record)
    rkey = uri.rpartition("/")[2]
    await daemon.sees("select 1 from verifications where uri = ?", uri)
    await log_in(daemon, issuer)
    await revoke_verifications(daemon, issuer, [uri], "first")
    first = await daemon.sees("select * from outbox where uri = ? and state = 'confirmed'", uri)

    restored = await issuer.create_record(VERIFICATION, record, rkey)

    assert restored.cid == cid
    await daemon.sees(
        "select 1 from outbox where uri = ? and state = 'confirmed' and commit_rev > ?",
        uri,
        first["commit_rev"],
    )
    assert await issuer.get_record(VERIFICATION, rkey) is None
    assert daemon.rows("select revoked from verifications where uri = ?", uri) == [{"revoked": 1}]

    granted = await issuer.create_record(VERIFICATION, verification_of(subject, "Anew"), rkey)

    await daemon.sees(
        "select 1 from verifications where uri = ? and cid = ? and revoked = 0", uri, granted.cid
    )
    assert await issuer.get_record(VERIFICATION, rkey) is not None
    [stone] = daemon.rows("select cid, reason from tombstones where uri = ?", uri)
    assert stone == {"cid": cid, "reason": "first"}


def _deletions(frame: Frame, did: str) -> int:
    if frame.body.get("repo") != did:
        return 0
    return sum(op["action"] == "delete" for op in frame.body["ops"])
