"""`rescind` as a person runs it on a world's database: in this process, or in one of its own."""

import asyncio
import logging
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from indexer.cli import main
from tests.support.xrpc_world import ALICE, OPERATOR, World, make_world

PASSWORD = "abcd-efgh-ijkl-mnop"
KEY = "6b" * 32  # that of the world's vault
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        await made.account(ALICE, session=False)
        made.name(ALICE, made.pds.url, "alice.test")
        yield made


def environment(world: World, **settings: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    made = {
        "DB": str(world.settings.db),
        "PLC": world.plc_host.url,
        "HANDLE_RESOLVER": world.plc_host.url,
        "RELAY": "ws://127.0.0.1:1",
        "ALLOW_PRIVATE_HOSTS": "on",
        "SECRET_KEY": KEY,
        "OPERATORS": OPERATOR,
        **settings,
    }
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        **{f"RESCIND_{name}": value for name, value in made.items()},
    }


async def spawn(world: World, *arguments: str, **settings: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "indexer", *arguments, env=environment(world, **settings),
        cwd=world.settings.db.parent, stdin=PIPE, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip


async def rescind(
    world: World, *arguments: str, stdin: str = "", **settings: str
) -> tuple[int, str, str]:
    """Run a command to its end; return its status and what it printed."""

    def run() -> Result:
        with logging_kept():
            return CliRunner().invoke(
                main, arguments, input=stdin, env=environment(world, **settings)
            )

    found = await asyncio.to_thread(run)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.stdout, found.stderr


async def rescind_run(world: World, *arguments: str, **settings: str) -> tuple[int, str, str]:
    """Run a daemon, which handles signals and so needs a process, to its end."""
    process = await spawn(world, "run", *arguments, **settings)
    try:
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert "Traceback" not in err.decode()
    return process.returncode or 0, out.decode(), err.decode()


@contextmanager
def logging_kept() -> Iterator[None]:
    """A command sets logging up for its process, which is ours here."""
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        structlog.reset_defaults()


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"
