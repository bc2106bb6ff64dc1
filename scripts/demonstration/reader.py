"""The reader's turn: what there is to paste, and what comes of it."""

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.demonstration.page import Page, path_text
from scripts.demonstration.play import Revocation
from scripts.demonstration.stage import NotSeenError, Stage
from tests.localnet import Account

LOOK_EVERY = 0.02  # seconds

REVOKED = """
    select t.uri, t.kind, t.actor, t.created_at, o.state, o.commit_rev, o.error
    from tombstones t left join outbox o on o.uri = t.uri
    where t.cause = 'revoked' order by t.created_at, t.uri limit 1000
"""


def hand_over(stage: Stage, page: Page, left: Iterable[Revocation]) -> None:
    """Print the lines that revoke the others, ready to be pasted into another terminal."""
    page.heading("Your turn: the others are for you to revoke, from another terminal")
    page.line("  First the tokens of the callers; they are good for two hours.")
    page.line()
    for caller in (stage.alice, stage.otto):
        page.line(f"  {_name(caller).upper()}=$(cat {_save_token(stage, caller)})")
    for revocation in left:
        page.line()
        page.line(_curl(revocation, stage.daemon.service))
    page.heading("To look around")
    rescind = shlex.quote(path_text(Path(sys.executable).with_name("rescind")))
    db = shlex.quote(path_text(stage.daemon.db))
    page.line(f"  {rescind} status --db {db}")
    page.line(f"  {rescind} outbox list --all --db {db}")
    page.line(f"  {_list_records(stage)}")
    page.line(f"  tail {shlex.quote(path_text(stage.daemon.log))}")


async def follow(stage: Stage, page: Page) -> None:
    """Show each further revocation as it happens, until cancelled.

    Raises NotSeenError when the daemon ends.
    """
    page.heading("What you revoke is shown here. Ctrl-C ends the network and everything on it.")
    shown_of = {row["uri"]: {"tombstone", "deletion", row["state"]} for row in _revoked(stage)}
    while not stage.daemon.has_ended:
        for row in _revoked(stage):
            told = shown_of.setdefault(row["uri"], set())
            for key, text in _news(stage, row):
                if key not in told:
                    told.add(key)
                    _show(page, row, text)
        await asyncio.sleep(LOOK_EVERY)
    raise NotSeenError("what you revoke", "the daemon has ended")


def _revoked(stage: Stage) -> list[dict[str, Any]]:
    return stage.daemon.rows(REVOKED)


def _news(stage: Stage, row: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield what there is to tell of a revocation by now, each with a key of its own."""
    yield "tombstone", f"tombstone, for {stage.name(row['actor'])}"
    deletion = stage.witness.deletions.get(row["uri"])
    if deletion is not None:
        commit = deletion.what
        yield "deletion", f"deletion commit, seq {commit.seq}, rev {commit.rev}"
    match row["state"]:
        case "confirmed":
            # The outbox may know a moment before our own subscriber: in order, then.
            if deletion is not None:
                yield "confirmed", "confirmed"
        case "blocked" | "dropped":
            yield row["state"], f"{row['state']}: {row['error']}"
        case _ if row["error"]:
            yield row["error"], f"waits: {row['error']}"


def _show(page: Page, row: dict[str, Any], text: str) -> None:
    rkey = row["uri"].rpartition("/")[2]
    since = time.time() * 1000 - row["created_at"]
    page.pair(row["kind"], f"{rkey:<15}{text:<52}{f'+{since:.0f} ms':>12}")


def _curl(revocation: Revocation, service: str) -> str:
    fields = (
        f"{json.dumps(name)}: {json.dumps(value)}" for name, value in revocation.input.items()
    )
    body = "{" + ",\n         ".join(fields) + "}"
    # `-w`: the answer ends without a newline, and the prompt would stand behind it.
    return (
        f"  curl -w '\\n' -X POST {revocation.url} \\\n"
        f"    -H 'atproto-proxy: {service}' \\\n"
        f'    -H "authorization: Bearer ${_name(revocation.caller).upper()}" \\\n'
        "    -H 'content-type: application/json' \\\n"
        f"    -d {shlex.quote(body)}"
    )


def _list_records(stage: Stage) -> str:
    url = f"{stage.alice.pds.url}/xrpc/com.atproto.repo.listRecords"
    return f"curl -w '\\n' '{url}?repo={stage.alice.handle}&collection=rsvp.atmo.space.invite'"


def _name(account: Account) -> str:
    return account.handle.partition(".")[0]


def _save_token(stage: Stage, account: Account) -> str:
    """Put the access token in a file and return its path, as a word for a shell."""
    path = stage.directory / f"{_name(account)}.token"
    path.touch(mode=0o600)
    path.write_text(account.token)
    return shlex.quote(path_text(path))
