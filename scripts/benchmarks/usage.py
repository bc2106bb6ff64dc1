"""What a process took of the machine."""

import os
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


_STATUS = Path("/proc/self/status")
_NO_PROC = "what a process takes is read from /proc, which this system lacks"


def memory() -> int:
    """Return the most bytes of memory that this process has had at once, mapped files included."""
    if not _STATUS.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # Not `ru_maxrss`, which on Linux begins at what the parent had.
    return _of_status("VmHWM")


def resident() -> int:
    """Return the bytes of memory that this process has now, mapped files included."""
    if not _STATUS.exists():
        raise OSError(_NO_PROC)
    return _of_status("VmRSS")


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that another process has had, all of its threads."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        raise OSError(_NO_PROC)
    # Behind the name, which may be anything, in its last parenthesis: man 5 proc, fields 3 ff.
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _of_status(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024
