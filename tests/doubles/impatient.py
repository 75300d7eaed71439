"""`python tests/doubles/impatient.py SECONDS …`: `run.py …` with locks that last so long, in all its processes."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from lema.artifacts import locks

    locks.STALE_SECONDS = float(sys.argv[1])
    locks.HEARTBEAT_SECONDS = locks.STALE_SECONDS / 8
    sys.argv[:2] = [str(ROOT / "run.py")]
    runpy.run_path(sys.argv[0], run_name="__main__")
