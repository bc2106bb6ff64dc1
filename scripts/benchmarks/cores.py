"""What runs on which core, so that what is measured has one to itself."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
MEASURED, BESIDE = CORES[:1], CORES[1:] or CORES  # none where the system can't


@contextmanager
def on(cores: Sequence[int]) -> Iterator[None]:
    """Run on these cores alone, if any; what is started meanwhile does so for good."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
