"""What a process took of the machine."""

import re
import resource
import sys
import time
from pathlib import Path


class Clock:
    """Wall time and CPU time of this process, with all of its threads, since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def took(self) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        return {"seconds": wall - self._wall, "cpu": cpu - self._cpu}


def memory() -> int:
    """Return the most bytes of memory that this process has had at once, mapped files included."""
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # Not `ru_maxrss`, which on Linux begins at what the parent had.
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024
