"""`rescind invites`: what lets people into a space."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import click

from indexer.cli import records
from indexer.cli.base import unix_ms
from indexer.cli.records import RecordType, call_as
from indexer.cli.resync import plain
from indexer.journal.lines import Entry
from indexer.lexicon.syntax import parse_at_uri
from indexer.store import audit, outbox, spaces, tombstones
from indexer.store import invites as table
from xrpc.errors import NotFoundError
from xrpc.methods import invites as methods
from xrpc.services import Services

_HASH = re.compile(r"[0-9a-fA-F]{64}")


class HashType(click.ParamType[str]):
    name = "HASH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _HASH.fullmatch(str(value)):
            # Not repeated: it may be a token itself.
            self.fail("not the SHA-256 of a token, in 64 hex digits", param, ctx)
        return str(value).lower()


@click.group("invites")
def invites() -> None:
    """See and revoke the invites to a space. Each is named by the SHA-256 of its token."""


@invites.command("list")
@click.argument("space", type=RecordType(), metavar="SPACE")
@click.option("--revoked", is_flag=True, help="also those that are revoked")
@records.limit_option
@records.as_json_lines_option
@records.settings_of_index
def invites_list(space: str, revoked: bool, limit: int, as_json: bool, **flags: Any) -> None:
    """List the invites to a space, the newest first: kind, uses, hash, and how long it lets in."""

    async def show(services: Services) -> AsyncIterator[str]:
        found = await _listed(services, await records.uri_of(services, space), revoked=revoked)
        for view in found[:limit]:
            yield json.dumps(view) if as_json else _line(view)
        if len(found) > limit:
            records.tell_more(limit)
        elif len(found) >= methods.MAX_LISTED:
            click.echo(f"No more than {len(found)} are looked at.", err=True)

    records.with_services(flags, show)


@invites.command("show")
@click.argument("space", type=RecordType(), metavar="SPACE")
@click.argument("token_hash", type=HashType(), metavar="HASH")
@records.as_json_option
@records.settings_of_index
def invites_show(space: str, token_hash: str, as_json: bool, **flags: Any) -> None:
    """Show an invite, the records that carry it, and what happened to them."""

    async def show(services: Services) -> AsyncIterator[str]:
        space_uri = await records.uri_of(services, space)
        carried = await table.with_token(services.db, space_uri, token_hash)
        buried = await tombstones.with_token(services.db, space_uri, token_hash)
        if not carried and not buried:
            raise NotFoundError("this space has no invite with this hash")
        is_live = await spaces.live(services.db, space_uri) is not None
        listed = await _listed(services, space_uri, revoked=True) if is_live else []
        named = {"tokenHash": token_hash, "spaceUri": space_uri}
        found = {
            **next((view for view in listed if view["tokenHash"] == token_hash), named),
            "records": [{"uri": row.uri, "cid": row.cid, "rev": row.rev} for row in carried],
            **await records.history(
                services, {row.uri for row in carried} | {stone.uri for stone in buried}
            ),
        }
        yield json.dumps(found, indent=2) if as_json else records.render(found)

    records.with_services(flags, show)


@invites.command("revoke")
@click.argument("space", type=RecordType(), metavar="SPACE")
@click.argument("token_hash", type=HashType(), metavar="HASH")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a record")
@records.settings_of_index
def invites_revoke(space: str, token_hash: str, as_json: bool, **flags: Any) -> None:
    """Revoke an invite: nobody can use it here from now on.

    The daemon deletes its record from the owner's repo, for which it needs a session.
    """

    async def revoke(services: Services) -> AsyncIterator[str]:
        space_uri = await records.uri_of(services, space)
        if not await spaces.is_known(services.db, space_uri):
            raise NotFoundError("there is no such space")
        actor, now = services.settings.service_did, unix_ms()
        async with services.database.transaction() as tx:
            is_first = await methods.lay_tombstones(tx, space_uri, token_hash, actor, now)
            stones = await tombstones.with_token(tx, space_uri, token_hash)
            uris = sorted({stone.uri for stone in stones})
            if is_first:
                await audit.write(tx, "operator", "invite.revoke", uris, None, now)
            revoked = await tombstones.revoked_tokens(tx, [(space_uri, token_hash)])
        await services.journal.keep(Entry.of(stone) for stone in revoked)
        if not is_first:
            first = min(stone.created_at for stone in stones if stone.cause == "revoked")
            click.echo(f"It was revoked before, at {records.moment(first)}.", err=True)
        deletions = await outbox.load(services.db, uris)
        for uri in uris:
            if uri in deletions:
                yield await records.tell_revoked(services, deletions[uri], as_json=as_json)
            elif as_json:
                yield json.dumps({"uri": uri, "revoked": True, "deletion": None, "error": None})
            else:
                yield f"Revoked {uri}; its repo had deleted it before."

    records.with_services(flags, revoke)


async def _listed(services: Services, space_uri: str, *, revoked: bool) -> list[dict[str, Any]]:
    """Return the invites to a space as its owner sees them."""
    owner = parse_at_uri(space_uri).authority
    call = call_as(owner, spaceUri=space_uri, includeRevoked=revoked)
    found: list[dict[str, Any]] = (await methods.list_(services, call))["invites"]
    return found


def _line(view: dict[str, Any]) -> str:
    used = f"{view['usedCount']}/{view.get('maxUses', '-')}"
    if "revokedAt" in view:
        ends = f"revoked {records.moment(view['revokedAt'])}"
    elif "expiresAt" in view:
        ends = f"until {records.moment(view['expiresAt'])}"
    else:
        ends = ""
    note = plain(view.get("note", ""))
    return f"{view['kind']:<10}{used:>9}  {view['tokenHash']}  {ends:<28}  {note}".rstrip()
