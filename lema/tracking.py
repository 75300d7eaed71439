"""Where a run is logged beside its own files: W&B, or nowhere. The only importer of wandb.

WANDB_MODE and the other WANDB_* variables are honoured; without WANDB_MODE a run is online when logged in, offline
otherwise (`wandb sync runs/wandb/offline-run-*` uploads it later).
"""

import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lema.config import Config
from lema.identity import identity

log = logging.getLogger(__name__)


@dataclass
class Tracker:
    """One cell's run, started when there is something to log; `key` keeps its id when the cell is resumed."""

    config: Config
    name: str
    key: str

    def log(self, values: dict[str, float], step: int) -> None:
        """Values at a training step."""
        if self.config.tracker.name == "wandb":
            self._run.log({**values, "train/step": step})

    def summary(self, values: dict[str, Any]) -> None:
        """Final results of the run."""
        if self.config.tracker.name == "wandb":
            self._run.summary.update(values)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if "_run" in vars(self):
            self._run.finish(exit_code=int(error is not None))

    @cached_property
    def _run(self) -> Any:
        import wandb

        config, tracker, folder = self.config, self.config.tracker, str(Path(self.config.runs_dir).absolute())
        # Artifacts and caches go below the runs folder too, so that an offline run can be synced from another machine.
        defaults = {"DATA_DIR": f"{folder}/wandb", "CACHE_DIR": f"{folder}/wandb", "SILENT": "true"}
        for variable, value in (defaults | {"INIT_TIMEOUT": "30"}).items():  # seconds to find that W&B is out of reach
            os.environ.setdefault(f"WANDB_{variable}", value)
        group = os.environ.get("WANDB_RUN_GROUP") or tracker.group
        tags = [config.backbone.name, config.task.name, config.mix.name]
        place: dict[str, Any] = {"project": tracker.project, "group": group, "job_type": "cell", "tags": tags}
        place |= {"name": self.name, "id": self.key, "resume": "allow", "config": identity(config), "dir": folder}
        chosen = "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False)
        try:
            run = wandb.init(**place, mode=None if chosen else "offline")
        except wandb.Error as error:
            log.warning("W&B cannot be reached (%s): logged offline, upload with wandb sync", str(error).split("\n")[0])
            wandb.teardown()  # or the run id counts as in use
            run = wandb.init(**place, mode="offline")
        run.define_metric("train/*", step_metric="train/step")
        log.info("%-16s %s", "W&B run", run.url or run.dir)
        return run
