"""`rescind spaces`: the spaces of everybody, and who belongs to them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import click

from indexer.cli import records
from indexer.cli.records import AccountType, RecordType, call_as
from indexer.cli.resync import plain
from indexer.lexicon.syntax import is_nsid
from indexer.records import Row, Space
from indexer.store import all_spaces
from indexer.store import spaces as table
from xrpc.methods import members as member_methods
from xrpc.methods import spaces as methods
from xrpc.services import Services


class NsidType(click.ParamType[str]):
    name = "NSID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_nsid(str(value)):
            self.fail(f"{value!r} is not an NSID", param, ctx)
        return str(value)


@click.group("spaces")
def spaces() -> None:
    """See the spaces, and who belongs to them.

    There is no revoking here: a space is its owner's, and ends when its record is deleted. What
    lets people into one is revoked by `rescind invites revoke`.
    """


@spaces.command("list")
@click.option("--owner", type=AccountType(), help="only the spaces of this account")
@click.option("--member", type=AccountType(), help="only those that this account belongs to")
@click.option("--type", "type_", type=NsidType(), help="only those of this type")
@records.limit_option
@records.as_json_lines_option
@records.settings_of_index
def spaces_list(
    owner: str | None,
    member: str | None,
    type_: str | None,
    limit: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """List the spaces that are there, by their URIs."""

    async def show(services: Services) -> AsyncIterator[str]:
        found = await _find(services, owner, member, type_, limit + 1)
        for space in found[:limit]:
            view = _view(services, space)
            if as_json:
                yield json.dumps(view)
            else:
                name = plain(view["name"] or "")
                yield f"{records.moment(view['createdAt'])}  {view['uri']}  {name}".rstrip()
        if len(found) > limit:
            records.tell_more(limit)

    records.with_services(flags, show)


@spaces.command("show")
@click.argument("uri", type=RecordType())
@records.as_json_option
@records.settings_of_index
def spaces_show(uri: str, as_json: bool, **flags: Any) -> None:
    """Show a space, who belongs to it, and what happened to it."""

    async def show(services: Services) -> AsyncIterator[str]:
        space_uri = await records.uri_of(services, uri)
        space = await table.live(services.db, space_uri)
        if space is None:
            raise click.ClickException(
                "this space is gone: its record was deleted, or its owner's account is not active"
                if await table.is_known(services.db, space_uri)
                else "there is no such space"
            )
        members = await member_methods.list_(services, call_as(space.did, spaceUri=space_uri))
        found = {
            **_view(services, space),
            **members,
            **await records.history(services, [space_uri]),
        }
        yield json.dumps(found, indent=2) if as_json else records.render(found)

    records.with_services(flags, show)


async def _find(
    services: Services, owner: str | None, member: str | None, type_: str | None, limit: int
) -> list[Row]:
    """Return the first spaces: what `listSpaces` tells an owner or a member, or those of all."""
    if owner is None and member is None:
        return await all_spaces.page(services.db, type_, limit)
    given: dict[str, Any] = {"scope": "owner" if member is None else "member", "limit": limit}
    if owner is not None:
        given["owner"] = owner = await records.did_of(services, owner)
    if type_ is not None:
        given["type"] = type_
    did = await records.did_of(services, member) if member is not None else str(owner)
    views = (await methods.list_(services, call_as(did, **given)))["spaces"]
    found = await table.load(services.db, [view["uri"] for view in views])
    return sorted(found, key=lambda space: space.uri)


def _view(services: Services, space: Row) -> dict[str, Any]:
    """Return a space as callers see it, with what its record says besides."""
    assert isinstance(space.fields, Space)  # noqa: S101 (a row of `spaces`)
    return {
        **methods.space_view(services.settings, space.uri, space.fields.created_at),
        "name": space.fields.name,
        "description": space.fields.description,
    }
