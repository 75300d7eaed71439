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
import time
import traceback
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lema import sweeps
from lema.artifacts.faults import explaining
from lema.compose import register, to_config
from lema.config import Config
from lema.config.command_line import arranged, refusing
from lema.config.environment import check_arguments, provide_home, raise_file_limit, variables
from lema.console import libraries, progress
from lema.launchers import refuse_several
from lema.privacy import check_shown, guard
from lema.tracking import service
from lema.types import UserError

log = logging.getLogger("lema")  # whose level conf/config.yaml sets
_HERE = Path(__file__).resolve().parent  # also where this file is reached through a symbolic link
sys.path.append(str(_HERE / "lema/cluster/plugins"))  # in which Hydra finds the launcher of Slurm
_process = os.getpid()  # a launcher's worker gets `main` with this number, and has another
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
    worker = os.getpid() != _process
    os.chdir(context.runtime.cwd)  # hydra.job.chdir=true leaves it, and paths are told from where the user stands
    try:
        config = to_config(composed)
        # A sweep's own file may name a launcher: `hydra.mode=RUN` says that this is one of its cells.
        alone = not in_sweep and "hydra.mode=RUN" not in sys.argv
        if alone and (launcher := context.runtime.choices["hydra/launcher"]) != "basic":
            raise UserError(f"hydra/launcher={launcher}: is for the cells of a sweep; add -m, also for one cell")
        # Imported here, so that --help, --cfg and a mistyped override answer at once.
        from lema import pipeline

        overrides = [*sweeps.kept(context), *context.overrides.task]
        if in_sweep and "submitit" not in context.launcher._target_:  # whose jobs are processes of their own
            with explaining(Path(config.runs_dir), in_sweep):
                _run_apart(config, overrides, context, worker)
        else:
            pipeline.run(config, overrides, in_sweep)
    except UserError as error:
        if not in_sweep:
            sys.exit(str(error))
        log.error("%-16s failed   %s", sweeps.number(context.job.num), error)
        if worker:
            raise  # which Hydra brings to the launcher
        _failed.append(error)
    except stopping.Stopped:
        if not worker:
            raise  # a launcher lets the cells of its other workers end, too
    except Exception as error:  # a mistake of ours
        traceback.print_exc()
        if not in_sweep:
            sys.exit(1)
        _failed.append(error)


def _run_apart(config: Config, overrides: list[str], context: HydraConf, worker: bool) -> None:
    """Run a cell of a sweep in a process of its own, unless it makes nothing; one line says how it ended."""
    from lema import apart, pipeline, run_folder
    from lema.artifacts import Store
    from lema.cell import Cell

    if worker:
        apart.enter_worker()
    stopping.begin(number := sweeps.number(context.job.num))
    since, state, cell = time.monotonic(), "made", Cell(config, Store(Path(config.runs_dir)))
    output = run_folder.output(cell)
    log.setLevel(logging.WARNING)  # they are told where they are made
    with suppress(UserError):  # the cell's own process says and records what is wrong
        if pipeline.is_imported(cell):
            state = "imported"
        elif not pipeline.without_current(cell, pipeline.wanted(cell)):
            pipeline.run(config, overrides, in_sweep=True)
            state = "current"
    log.setLevel(logging.INFO)
    if state == "made":
        logs = (OmegaConf.to_container(context.job_logging, resolve=True), context.verbose)
        make = partial(pipeline.run, config, overrides, in_sweep=True)
        try:
            with apart.card() as card:
                how = apart.run(make, output, logs, variables(config) | card)
            if how:
                run_folder.died(cell, overrides, how)
        except UserError as error:
            raise UserError(f"{output}: {error}") from None
    log.info("%-16s %-8s %s  %s", number, state, output.parent, progress.duration(time.monotonic() - since))


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
            raise_file_limit()
            sys.argv[1:] = arranged(sys.argv[1:])
            check_arguments(sys.argv[1:])
            register(_HERE / "sweeps", sys.argv[1:])
            if "hydra/launcher=joblib" in sys.argv:
                from lema import apart

                at_end.enter_context(apart.workers(sys.argv))
            main()
        if _failed:
            sys.exit(f"{len(_failed)} {'cell' if len(_failed) == 1 else 'cells'} failed; the same command tries again")
