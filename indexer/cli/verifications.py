"""`rescind verifications`: who verified whom."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import click

from indexer.cli import records
from indexer.cli.base import setting_options, unix_ms
from indexer.cli.records import AccountType, RecordType, call_as
from indexer.cli.resync import plain
from indexer.lexicon.syntax import parse_at_uri
from indexer.store import audit, outbox, tombstones
from indexer.store import verifications as table
from xrpc.errors import NotFoundError
from xrpc.methods import listing
from xrpc.methods import verifications as methods
from xrpc.methods.views import ASK_WITHIN, verification_views
from xrpc.services import Services

# As the lexicon documents of the methods have them.
MAX_PAGE = 100
MAX_ACCOUNTS = 100
MAX_URIS = 100
MAX_REASON = 1_000  # bytes

# What `revokeVerifications` says of a record that is revoked here, and not gone from its repo yet.
_REVOKED_HERE = ("PublishPending: ", "PublishBlocked: ")


@click.group("verifications")
def verifications() -> None:
    """See and revoke verifications."""


@verifications.command("list")
@click.option(
    "--issuer",
    "issuers",
    type=AccountType(),
    multiple=True,
    help="only those that this account granted; may be repeated",
)
@click.option(
    "--subject",
    "subjects",
    type=AccountType(),
    multiple=True,
    help="only those of this account; may be repeated",
)
@click.option("--revoked/--not-revoked", default=None, help="only these  [default: both]")
@records.limit_option
@records.as_json_lines_option
@records.settings_of_index
def verifications_list(
    issuers: tuple[str, ...],
    subjects: tuple[str, ...],
    revoked: bool | None,
    limit: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """List verifications, the newest first: whether it holds, issuer, subject, handle.

    One that is not revoked is `valid` while the handle is still the subject's, `stale` when it is
    not, and `unknown` where that can't be found out.
    """
    if max(len(issuers), len(subjects)) > MAX_ACCOUNTS:
        raise click.UsageError(f"name {MAX_ACCOUNTS} issuers or subjects at most")

    async def show(services: Services) -> AsyncIterator[str]:
        given: dict[str, Any] = {
            "issuers": [await records.did_of(services, issuer) for issuer in issuers],
            "subjects": [await records.did_of(services, subject) for subject in subjects],
            "sortDirection": "desc",
        }
        if revoked is not None:
            given["isRevoked"] = revoked
        left = limit
        while left:
            call = call_as(services.settings.service_did, **given, limit=min(left, MAX_PAGE))
            page = await listing.list_verifications(services, call)
            for view in page["verifications"]:
                left -= 1
                yield json.dumps(view) if as_json else _line(view)
            if "cursor" not in page:
                return
            given["cursor"] = page["cursor"]
        records.tell_more(limit)

    records.with_services(flags, show)


@verifications.command("show")
@click.argument("uri", type=RecordType())
@records.as_json_option
@records.settings_of_index
def verifications_show(uri: str, as_json: bool, **flags: Any) -> None:
    """Show a verification, whether it holds, and what happened to it."""

    async def show(services: Services) -> AsyncIterator[str]:
        canonical = await records.uri_of(services, uri)
        rows = await table.load(services.db, [canonical])
        stones = await tombstones.load(services.db, [canonical])
        if not rows and not any(stone.kind == "verification" for stone in stones):
            raise NotFoundError("the index has no such verification")
        deadline = asyncio.get_running_loop().time() + ASK_WITHIN
        views = await verification_views(services, rows, deadline)
        did = parse_at_uri(canonical).authority
        found = {
            **(views[0] if views else {"uri": canonical}),
            "hosting": await records.hosting_of(services, did),
            **await records.history(services, [canonical]),
        }
        yield json.dumps(found, indent=2) if as_json else records.render(found)

    records.with_services(flags, show)


@verifications.command("revoke")
@click.argument("uris", type=RecordType(), metavar="URI...", nargs=-1, required=True)
@click.option("--reason", help="kept with the tombstone and in the audit, and told to who asks")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a record")
@records.settings_of_index
@setting_options("verifier", "verification_collection")
def verifications_revoke(
    uris: tuple[str, ...], reason: str | None, as_json: bool, **flags: Any
) -> None:
    """Revoke verifications of an account that Rescind holds a session for, or of the verifier.

    They do not count here from now on; the daemon deletes them from the repo.
    """
    if len(uris) > MAX_URIS:
        raise click.UsageError(f"name {MAX_URIS} verifications at most")
    if reason is not None and len(reason.encode()) > MAX_REASON:
        raise click.UsageError(f"--reason may have {MAX_REASON} bytes")

    async def revoke(services: Services) -> AsyncIterator[str]:
        given: dict[str, Any] = {"uris": list(uris)}
        if reason is not None:
            given["revokeReason"] = reason
        answer = await methods.revoke(services, call_as(services.settings.service_did, **given))
        failed: dict[str, str] = {}
        revoked = [await records.uri_of(services, uri) for uri in answer["revokedVerifications"]]
        for failure in answer["failedRevocations"]:
            if failure["error"].startswith(_REVOKED_HERE):
                revoked.append(await records.uri_of(services, failure["uri"]))
            else:
                failed[failure["uri"]] = failure["error"]
        async with services.database.transaction() as tx:
            await audit.write(tx, "operator", "verification.revoke", revoked, reason, unix_ms())
        deletions = await outbox.load(services.db, revoked)
        for uri in revoked:
            yield await records.tell_revoked(services, deletions[uri], as_json=as_json)
        for uri, error in failed.items():
            if as_json:
                yield json.dumps({"uri": uri, "revoked": False, "deletion": None, "error": error})
            else:
                click.echo(f"{uri} is not revoked: {plain(error)}", err=True)
        if failed:
            raise click.ClickException(f"{len(failed)} of {len(failed) + len(revoked)} failed")

    records.with_services(flags, revoke)


def _line(view: dict[str, Any]) -> str:
    if "revokedAt" in view:
        state = "revoked"
    else:
        state = {True: "valid", False: "stale", None: "unknown"}[view.get("valid")]
    return (
        f"{state:<9}{view['createdAt'][:19]}Z  {view['uri']}  {view['subject']}  {view['handle']}"
    )
