"""How far each run is: waiting, running, ended and how, or dead. Read from the runs' folders alone, in no time."""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lema.artifacts.status import IMPORTED, STOPPED, State, clock, read
from lema.console.progress import duration

# In the order of a table's last line. `waiting` has not begun; `dead` ended without a word; `imported` ran elsewhere.
STATES = "waiting", "running", "done", "current", "imported", "stopped", "failed", "dead"


def tell(root: Path, cells: Mapping[str, str] | None = None) -> None:
    """Print the state of each run below a runs folder, or of a sweep's cells: the names of their folders, by label."""
    if cells is None:
        cells = {folder.name: folder.name for folder in sorted(root.glob("cells/*")) if folder.is_dir()}
    now = clock(root / "cells")
    found = {label: standing(root / "cells" / name, now) for label, name in cells.items()}
    width = max(map(len, found), default=0)
    for label, (state, told) in found.items():
        print(f"{state:<16} {label:<{width}}  {told}".rstrip())
    counts = Counter(state for state, _ in found.values())
    in_all = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    print(f"{'status':<16} {in_all or f'no run is below {root}'}")


def standing(folder: Path, now: float) -> tuple[str, str]:
    """The state of a run, one of `STATES`, and in words how far it is, or why it ended; `now` as `clock` tells it."""
    state, told = _here(folder, now)
    imported = state not in ("running", "done", "current") and (folder / IMPORTED).is_file()
    return ("imported", "") if imported else (state, told)


def _here(folder: Path, now: float) -> tuple[str, str]:
    status = read(folder)
    if status is None:
        return _by_run(folder)
    at = f"{status.step.replace('_', ' ')}, {status.number} of {status.steps}" if status.step else ""
    if status.dead(now):
        where = f"process {status.pid} on {status.host}" + (f", Slurm job {status.job}" if status.job else "")
        silent = f"silent for {duration(now - status.beat)} ({where}); the same command goes on"
        return "dead", f"{at}: {silent}" if at else silent
    if status.state in (State.done, State.current):
        return status.state, f"{duration(now - status.beat)} ago"
    return status.state, f"{at}: {status.told}" if status.state is State.running and at else status.told


def _by_run(folder: Path) -> tuple[str, str]:
    """By `run.json` alone, which is all that a run of an earlier lema left."""
    state = None
    with suppress(OSError, ValueError, LookupError, TypeError):
        state = str(json.loads((folder / "run.json").read_text(encoding="utf-8"))["state"])
    if state is None:
        return "waiting", ""
    if state == "running":
        return "dead", "it ended without a word; the same command goes on"
    ended = state == "finished" or state.startswith(STOPPED)
    return ("done", "") if ended else ("failed", state)
