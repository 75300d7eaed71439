"""One rank of a training, a process of its own: `python -m lema.models.rank FOLDER RANK COUNT PARENT`.

`FOLDER` has the job, from `lema.models.processes`, and gets this rank's result.
"""

import json
import logging
import os
import pickle
import sys
import time
import traceback
from pathlib import Path

from lema import stopping
from lema.artifacts.faults import explained
from lema.console import libraries, progress
from lema.privacy import LogFormatter, guard
from lema.types import UserError


def _rank(folder: Path, number: int, count: int) -> None:
    """Do the job, and leave the result."""
    from lema.models.fitting import fit  # torch, which takes seconds
    from lema.models.ranks import join

    curve = (folder / "curve").open("a", encoding="utf-8", buffering=1) if number == 0 else None

    def track(row: dict[str, float], step: int) -> None:
        if curve:
            curve.write(json.dumps([row, step]) + "\n")

    job = pickle.loads((folder / "job").read_bytes())
    try:
        rows = fit(job, track, join(folder / "meeting", number, count))
        result = {"curve": rows if number == 0 else []}
    except stopping.Stopped as stopped:
        result = {"stopped": str(stopped.code).removesuffix(stopping.GOES_ON)}
    except UserError as error:
        result = {"refused": str(error)}
    except Exception as error:  # a full disk, a mistake of ours, or another rank that is gone
        if found := explained(error, job.folder):
            result = {"refused": str(found)}
        else:
            result = {"failed": time.monotonic()}
            with (folder / f"rank-{number}.log").open("a") as log:
                traceback.print_exc(file=log)
    failed = True
    try:
        partial = folder / f"rank-{number}.partial"
        partial.write_text(json.dumps(result), encoding="utf-8")
        partial.rename(folder / f"rank-{number}.json")
        failed = "refused" in result or "failed" in result
        sys.stdout.flush()
    finally:
        os._exit(failed)  # at once: the library's own end waits for ranks that are gone


def main() -> None:
    """Become a rank: end with the parent, obey its signals, speak as it does."""
    folder, number, count, parent = sys.argv[1:]
    stopping.die_with(int(parent))
    stopping.listen(twice=False)  # a batch system signals every process, and the parent passes its signal on
    guard()
    libraries.quiet()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LogFormatter("%(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    logging.getLogger("lema").setLevel(logging.INFO if number == "0" else logging.WARNING)
    stopping.begin("train")
    if number == "0":
        progress.watch()
    _rank(Path(folder), int(number), int(count))


if __name__ == "__main__":
    main()
