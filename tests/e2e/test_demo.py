"""What `scripts/demo` promises a newcomer, seen as they see it: output, exit status, no remains."""

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.e2e.daemon import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT = Path(__file__).parents[2]
WITHIN = 90.0  # seconds for a whole run, on a busy machine
END_WITHIN = 20.0  # seconds
STEPS = (
    "record in the repo",
    "row in the index",
    "revoke",
    "tombstone",
    "deletion commit",
    "confirmed",
)
YOUR_TURN = "What you revoke is shown here."


async def test_the_demo_shows_every_step_of_both_revocations_and_ends(tmp_path: Path) -> None:
    async with demo("--once", "--dir", str(tmp_path / "demo")) as process:
        output = await read(process)
        assert await process.wait() == 0, output

    steps = re.findall(r"^  (\d)  (\S+(?: \S+)*)", output, re.MULTILINE)
    assert steps == [(str(n), step) for n, step in enumerate(STEPS, 1)] * 2
    assert "All 12 steps were seen." in output
    assert output.count("curl -w '\\n' -X POST") == 4
    assert "\x1b" not in output  # no terminal, no colour
    await all_have_ended(output)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_the_printed_curl_lines_revoke_the_others_and_ctrl_c_ends_all(
    tmp_path: Path,
) -> None:
    async with demo("--dir", str(tmp_path / "demo")) as process:
        output = await read(process, until=YOUR_TURN)

        pasted = output[output.index("  ALICE=") : output.index("To look around")]
        answers = await shell(pasted)
        assert answers.count('{"ok":true}') == 2
        assert answers.count('"failedRevocations":[]') == 2
        followed = ""
        while followed.count("  confirmed  ") < 4:
            followed += await read(process, until="  confirmed  ")
        assert followed.count("tombstone, for alice.test") == 2
        assert followed.count("tombstone, for otto.test") == 2

        process.send_signal(signal.SIGINT)
        await read(process)
        assert await process.wait() == 0
    await all_have_ended(output)


async def test_nothing_outlives_a_demo_that_is_killed(tmp_path: Path) -> None:
    async with demo("--dir", str(tmp_path / "demo")) as process:
        output = await read(process, until=YOUR_TURN)
        process.kill()
        await process.wait()
    await all_have_ended(output)


async def test_a_step_that_is_not_seen_is_named_and_fails_the_demo(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    async with demo("--once", "--dir", str(directory)) as process:
        output = await read(process, until="PDS  ")
        os.kill(daemon_pid(directory), signal.SIGKILL)
        output += await read(process)
        assert await process.wait() == 1, output

    assert "not seen: row in the index: the daemon has ended" in output
    assert "The daemon's log ends with:" in output
    assert "daemon.started" in output
    assert "steps were seen" not in output
    await all_have_ended(output)


@asynccontextmanager
async def demo(*arguments: str) -> AsyncIterator[Process]:
    """Run the program as `scripts/demo` does, after its set-up; it is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "scripts.demonstration", *arguments,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=PIPE, stderr=STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def read(process: Process, until: str | None = None) -> str:
    """Return what comes, up to the line with this text, or to the end."""
    assert process.stdout is not None
    output = ""
    try:
        async with asyncio.timeout(WITHIN):
            while line := (await process.stdout.readline()).decode():
                output += line
                if until is not None and until in line:
                    return output
    except TimeoutError:
        raise AssertionError(f"{until or 'the end'} did not come after:\n{output}") from None
    assert until is None, f"{until} did not come in:\n{output}"
    return output


async def shell(text: str) -> str:
    """Give the text to a shell, as if it were pasted, and return what is printed."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = await asyncio.create_subprocess_exec("bash", env=environment, stdin=PIPE, stdout=PIPE)
    async with asyncio.timeout(WITHIN):
        output, _ = await process.communicate(text.encode())
    return output.decode()


def daemon_pid(directory: Path) -> int:
    with closing(sqlite3.connect(f"file:{directory / 'rescind.db'}?mode=ro", uri=True)) as db:
        return int(db.execute("select pid from daemon").fetchone()[0])


async def all_have_ended(output: str) -> None:
    """The PLC directory, the PDS and the daemon, on the ports that the page names, are gone."""
    ports = re.findall(r"^  (?:PLC|PDS|Rescind) +http://localhost:(\d+)", output, re.MULTILINE)
    assert len(ports) == 3, output

    async def are_gone() -> bool:
        return not any([await listens(int(port)) for port in ports])

    await eventually(are_gone, END_WITHIN, f"the end of {ports}")


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        return False
    return True
