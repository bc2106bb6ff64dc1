"""Rescind at work on a network of its own: two revocations, step by step, as they happen."""

import argparse
import asyncio
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from scripts.demonstration.page import BOLD, GREEN, Page
from scripts.demonstration.play import STEPS, play
from scripts.demonstration.reader import follow, hand_over
from scripts.demonstration.stage import NotSeenError, set_up
from tests.localnet import PdsError, ServerStartError

SHOWN = 2  # revocations
LOG_LINES = 20  # of the daemon's log, when a step was not seen
INTERRUPTED = 130  # the exit status that shells give to Ctrl-C


async def demo(directory: Path, page: Page, *, once: bool) -> int:
    """Run the demo to its end and return its exit status; nothing is left running."""
    start = time.monotonic()
    _cancel_on_signals()
    page.line("Rescind: the life of a revocation", BOLD)
    page.line("A PLC directory, a PDS and the daemon start now; that takes some seconds.")
    is_all_seen = False
    try:
        async with set_up(directory) as stage:
            left = await play(stage, page)
            is_all_seen = True
            took = time.monotonic() - start
            page.line()
            page.line(f"All {SHOWN * STEPS} steps were seen. {took:.1f} s since the start.", GREEN)
            hand_over(stage, page, left)
            if not once:
                await follow(stage, page)
    except asyncio.CancelledError:
        page.line("\nThe network has ended." if is_all_seen else "\nInterrupted.")
        return 0 if is_all_seen else INTERRUPTED
    except NotSeenError as missing:
        return _fail(f"not seen: {missing}", directory)
    except (ServerStartError, PdsError, AssertionError, httpx.HTTPError) as error:
        return _fail(f"{type(error).__name__}: {error}", directory)
    page.line("\nWithout --once, the network stays for you to paste these lines.")
    return 0


def _cancel_on_signals() -> None:
    me = asyncio.current_task()
    assert me is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, me.cancel)


def _fail(message: str, directory: Path) -> int:
    print(f"\nrescind demo: {message}", file=sys.stderr)
    log = directory / "rescind.log"
    if log.exists():
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        print("The daemon's log ends with:", *lines, sep="\n  ", file=sys.stderr)
    return 1


def _new_directory(name: str) -> Path:
    """Return the directory of this name, made if it is missing. Raises ArgumentTypeError."""
    path = Path(name).resolve()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise argparse.ArgumentTypeError(f"{name} is not empty")
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "--once", action="store_true", help="end by itself; the status is 0 if every step was seen"
    )
    parser.add_argument(
        "--dir", type=_new_directory, help="keep data and logs in this new or empty directory"
    )
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = arguments.dir or Path(
            stack.enter_context(
                TemporaryDirectory(prefix="rescind-demo-", ignore_cleanup_errors=True)
            )
        )
        try:
            return asyncio.run(demo(directory, Page.on_stdout(), once=arguments.once))
        except BrokenPipeError:
            # Whoever read us has gone: what is still to be flushed at the exit goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


if __name__ == "__main__":
    sys.exit(main())
