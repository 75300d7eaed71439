"""Hydra's launcher of `hydra/launcher=slurm`. Hydra looks for plugins in packages of the name `hydra_plugins` alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class SlurmLauncher(Launcher):
    """Sends each cell that is not current as a job, and waits for all of them."""

    def __init__(self, **options: Any) -> None:
        self.options: Any = OmegaConf.to_object(OmegaConf.create(options))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the config of the sweep."""
        self.config = config

    @staticmethod
    def scripts(cells: dict[str, Any], options: dict[str, Any], root: Path) -> list[str]:
        """The batch scripts that would be sent for these cells."""
        from lema.cluster import slurm

        return slurm.scripts(cells, options, slurm.log_folder(root))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Have all cells made. `UserError` names those that failed, and what the cluster lacks."""
        from lema import pipeline  # these take a second
        from lema.cluster import slurm

        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        slurm.launch(self.config, [list(each) for each in job_overrides], self.options, pipeline)
        return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]
