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
import os
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lema import sweeps
from lema.compose import register, to_config
from lema.config.command_line import arranged, refusing
from lema.config.environment import check_arguments, provide_home
from lema.console import libraries, progress
from lema.launchers import refuse_several
from lema.privacy import check_shown, guard
from lema.tracking import service
from lema.types import UserError

_HERE = Path(__file__).resolve().parent  # also where this file is reached through a symbolic link
_failed: list[BaseException] = []  # the error of each cell of a sweep that failed
if not any(argument.startswith("hydra.verbose=") for argument in sys.argv):
    libraries.quiet()


@hydra.main(config_path=str(_HERE / "conf"), config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Do what the command says; in a sweep Hydra calls this for each cell, and goes on when a cell has failed.

    Hydra gets no error from here: it would write lines of its own around each.
    """
    context = HydraConfig.get()
    in_sweep = context.mode is RunMode.MULTIRUN
    os.chdir(context.runtime.cwd)  # hydra.job.chdir=true leaves it, and paths are told from where the user stands
    try:
        config = to_config(composed)
        # Imported here, so that --help, --cfg and a mistyped override answer at once.
        from lema import pipeline

        pipeline.run(config, [*sweeps.kept(context), *context.overrides.task], in_sweep)
    except UserError as error:
        if not in_sweep:
            sys.exit(str(error))
        logging.getLogger(__name__).error("failed           %s", error)
        _failed.append(error)
    except Exception as error:  # a mistake of ours
        traceback.print_exc()
        if not in_sweep:
            sys.exit(1)
        _failed.append(error)


if __name__ == "__main__":
    guard()
    progress.watch()
    refuse_several()
    with ExitStack() as at_end:  # which calls the last entry first
        at_end.push(check_shown)
        at_end.callback(stopping.end)
        at_end.callback(service.end)
        at_end.enter_context(sweeps.at_end)
        # Hydra raises its errors with this variable; without it, it prints them in its own many lines.
        full = os.environ.get("HYDRA_FULL_ERROR") == "1"
        os.environ["HYDRA_FULL_ERROR"] = "1"
        with refusing(full):
            provide_home()
            sys.argv[1:] = arranged(sys.argv[1:])
            check_arguments(sys.argv[1:])
            register(_HERE / "sweeps", sys.argv[1:])
            main()
        if _failed:
            sys.exit(1)
