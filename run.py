"""The only entry point: compose the configuration, check it, and do what it says.

python run.py                                   a whole cell on a laptop, in minutes
python run.py backbone=mistral task=math        the paper's recipe
python run.py sweeps=demo                       every cell of sweeps/demo.yaml
python run.py do=report                         the report on all runs
"""

from lema import stopping

if __name__ == "__main__":
    stopping.listen()  # before the imports below, which take a second

import logging
import sys
from contextlib import ExitStack
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lema import sweeps
from lema.compose import register, to_config
from lema.config.environment import check_arguments
from lema.console import libraries, progress
from lema.launchers import refuse_several
from lema.privacy import check_shown, guard
from lema.tracking import service
from lema.types import UserError

register(Path(__file__).parent / "sweeps")
if not any(argument.startswith("hydra.verbose=") for argument in sys.argv):
    libraries.quiet()


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Do what the command says; in a sweep Hydra calls this for each cell, and goes on when a cell has failed."""
    config = to_config(composed)
    # Imported here, so that --help, --cfg and a mistyped override answer at once.
    from lema import pipeline

    context = HydraConfig.get()
    in_sweep = context.mode is RunMode.MULTIRUN
    try:
        pipeline.run(config, list(context.overrides.task), in_sweep)
    except UserError as error:
        if in_sweep:  # Hydra shows only the first failure, and only at the end
            logging.getLogger(__name__).error("failed           %s", error)
        raise


if __name__ == "__main__":
    guard()
    progress.watch()
    refuse_several()
    check_arguments(sys.argv[1:])
    with ExitStack() as at_end:  # which calls the last entry first
        at_end.push(check_shown)
        at_end.callback(stopping.end)
        at_end.callback(service.end)
        at_end.enter_context(sweeps.at_end)
        main()
