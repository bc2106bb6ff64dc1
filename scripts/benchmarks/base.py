"""What all benchmarks share: where things are, and how a measurement fails."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".bench"
NODE = shutil.which("node", path=str(Path(sys.executable).parent)) or "node"
SYNC = ROOT / "tests" / "localnet" / "node_modules" / "@atproto" / "sync"
MB = 1_000_000


class BenchError(Exception):
    """A contestant failed; what it said is on stderr."""
