"""How much room there is on the disk."""

import os
from pathlib import Path


def free_bytes(path: Path) -> int | None:
    """Return what a process like this one may still write beside a file; None if nobody knows."""
    try:
        found = os.statvfs(path.resolve().parent)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
