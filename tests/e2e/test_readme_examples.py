"""The client examples of `xrpc/README.md` do what it says, copied from there word for word."""

import asyncio
import json
import os
import re
import secrets
import shlex
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.records import (
    INVITE,
    VERIFICATION,
    create_invite,
    create_space,
    create_verifications,
    log_in,
)
from tests.localnet import LocalNetwork
from tests.localnet.process import NODE

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT = Path(__file__).parents[2]
README = ROOT / "xrpc" / "README.md"
SECTIONS = ("Revoke an invite", "Revoke verifications")
LANGUAGES = ("sh", "ts", "py")
LONGEST = 5  # lines, but for an import and blank ones
WITHIN = 60.0  # seconds for one example, on a busy machine

EXAMPLE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(section: str) -> dict[str, str]:
    """Return the examples under a heading, by language."""
    text = README.read_text()
    _, _, rest = text.partition(f"\n### {section}\n")
    return dict(EXAMPLE.findall(re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]))


def program(language: str, values: Mapping[str, str], code: str) -> tuple[list[str], Path | None]:
    """Return the command that runs an example behind a line for each of its values."""
    match language:
        case "sh":
            given = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
            return ["bash", "-euo", "pipefail", "-c", given + code], None
        case "ts":
            given = "".join(f"const {n}: string = {json.dumps(v)}\n" for n, v in values.items())
            # Node finds packages from where it is started, if the code comes from no file.
            flags = ["--no-warnings", "--input-type=module-typescript", "--eval"]
            return [str(NODE), *flags, given + code], ROOT / "tests" / "localnet"
        case _:
            given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
            return [sys.executable, "-c", given + code], None


async def run(language: str, values: Mapping[str, str], code: str) -> str:
    """Run an example to its end; return what it printed. Fails unless its status is 0."""
    command, directory = program(language, values, code)
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=directory, stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(WITHIN):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize("section", SECTIONS)
async def test_there_is_a_short_example_in_each_language(section: str) -> None:
    found = examples(section)
    assert sorted(found) == sorted(LANGUAGES)
    for code in found.values():
        lines = [line for line in code.splitlines() if line.strip()]
        imports = [line for line in lines if line.startswith(("from ", "import "))]
        assert len(lines) - len(imports) <= LONGEST


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_example_revokes_an_invite(
    network: LocalNetwork, daemon: Daemon, language: str
) -> None:
    owner = await network.pds.create_account(network.handle("owner"))
    invite = await create_invite(owner, await create_space(owner))
    await daemon.sees("select 1 from invites where uri = ?", invite.uri)
    await log_in(daemon, owner)
    values = {
        "PDS": network.pds.url,
        "SERVICE": daemon.service,
        "RESCIND": daemon.url,
        "HANDLE": owner.handle,
        "APP_PASSWORD": await owner.create_app_password(secrets.token_hex(4)),
        "SPACE": invite.space_uri,
        "TOKEN_HASH": invite.token_hash,
    }

    printed = await run(language, values, examples("Revoke an invite")[language])

    assert re.search(r"\bok\b.*\btrue\b", printed, re.IGNORECASE), printed
    assert daemon.rows("select revoked from invites where uri = ?", invite.uri) == [{"revoked": 1}]
    await daemon.sees("select 1 from outbox where uri = ? and state = 'confirmed'", invite.uri)
    assert await owner.get_record(INVITE, invite.rkey) is None


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_example_revokes_verifications(
    network: LocalNetwork, daemon: Daemon, language: str
) -> None:
    issuer = await network.pds.create_account(network.handle("issuer"))
    [uri] = await create_verifications(issuer, issuer, 1)
    await daemon.sees("select 1 from verifications where uri = ?", uri)
    await log_in(daemon, issuer)
    values = {
        "PDS": network.pds.url,
        "SERVICE": daemon.service,
        "HANDLE": issuer.handle,
        "APP_PASSWORD": await issuer.create_app_password(secrets.token_hex(4)),
        "VERIFICATION": uri,
    }

    printed = await run(language, values, examples("Revoke verifications")[language])

    assert uri in printed, printed
    [stone] = daemon.rows("select * from tombstones where uri = ?", uri)
    assert (stone["cause"], stone["reason"]) == ("revoked", "left the company")
    assert await issuer.list_records(VERIFICATION) == []
