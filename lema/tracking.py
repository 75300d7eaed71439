"""Where a run is logged beside its own files: W&B, or nowhere. The only importer of wandb.

W&B runs as `wandb` itself would: WANDB_MODE and the other WANDB_* variables are honoured; without WANDB_MODE it
is online when logged in, offline otherwise (`wandb sync runs/wandb/offline-run-*` uploads such a run later). A
cell that makes nothing new starts no run.
"""

import logging
import os
from pathlib import Path
from typing import Any

from lema.config import Config, TrackerConfig, identity

log = logging.getLogger(__name__)


class Tracker:
    """One cell's run, started when there is something to log; `key` keeps its id when the cell is resumed."""

    def __init__(self, config: Config, name: str, key: str) -> None:
        self._config, self._name, self._key = config, name, key
        self._run: Any = None

    def log(self, values: dict[str, float], step: int) -> None:
        """Values at a training step."""
        if run := self._start():
            run.log({**values, "train/step": step})

    def summary(self, values: dict[str, Any]) -> None:
        """Final results of the run."""
        if run := self._start():
            run.summary.update(values)

    def finish(self, failed: bool = False) -> None:
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None

    def _start(self) -> Any:
        if self._run is None and self._config.tracker.name == "wandb":
            self._run = _wandb_run(self._config, self._config.tracker, self._name, self._key)
        return self._run


def _wandb_run(config: Config, tracker: TrackerConfig, name: str, key: str) -> Any:
    import wandb

    folder = Path(config.runs_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # Artifacts and caches go below the runs folder too, so that an offline run can be synced from another machine.
    defaults = {"DATA_DIR": str(folder / "wandb"), "CACHE_DIR": str(folder / "wandb"), "SILENT": "true"}
    for variable, value in (defaults | {"INIT_TIMEOUT": "30"}).items():  # seconds to find that W&B cannot be reached
        os.environ.setdefault(f"WANDB_{variable}", value)
    options: dict[str, Any] = {
        "project": tracker.project,
        "group": os.environ.get("WANDB_RUN_GROUP") or tracker.group,
        "job_type": "cell",
        "name": name,
        "id": key,
        "resume": "allow",
        "tags": [config.backbone.name, config.task.name, config.mix.name],
        "config": identity(config),
        "dir": str(folder),
    }
    chosen = "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False)
    try:
        run = wandb.init(**options, mode=None if chosen else "offline")
    except wandb.Error as error:
        log.warning("W&B cannot be reached (%s): logged offline, upload with wandb sync", str(error).splitlines()[0])
        wandb.teardown()  # or the run id counts as in use
        run = wandb.init(**options, mode="offline")
    run.define_metric("train/*", step_metric="train/step")
    log.info("%-16s %s", "W&B run", run.url or run.dir)
    return run
