"""A sweep on Slurm: an array of jobs for the cells that are not current, then their states until all have ended.

Each array is noted in a file beside its logs. The same command does not send a cell again whose job waits or runs.
"""

import contextlib
import io
import json
import logging
import math
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lema import stopping, sweeps
from lema.artifacts import DAMAGED, Store, lock, own_folder, read, write_json
from lema.cell import Cell
from lema.cluster import queue
from lema.cluster.job import Job
from lema.cluster.resources import CARD, resources
from lema.types import UserError

log = logging.getLogger(__name__)

_OURS = ("card", "cards", "hours", "most_hours")  # options that are not submitit's
_SCRIPT = Path(__file__).resolve().parents[2] / "run.py"
_LEFT = {"gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min"}  # null: worked out
_WHOLE = _LEFT - {"mem_gb"} | {"array_parallelism", "max_num_timeout", "signal_delay_s"}
_NUMBERS = _LEFT | _WHOLE | {"hours", "most_hours"}
_SBATCH = {"timeout_min": "time", "mem_gb": "mem", "name": "job_name"}
_SPARE_SECONDS = 60  # by which Slurm may send a signal too early (sbatch's manual)
_SHOWN = 5  # jobs that a line names
_LOG = "{}_0_log.out"  # submitit's, of a job
# Variables `SBATCH_NAME` of what stands in each script, over which they would win. With WAIT sbatch waits for the jobs.
_IN_SCRIPTS = {
    *("TIMELIMIT", "MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU", "SIGNAL", "REQUEUE", "NO_REQUEUE"),
    *("OPEN_MODE", "ARRAY_INX", "JOB_NAME", "WAIT"),
}


def launch(config: DictConfig, commands: list[list[str]], options: dict[str, Any], pipeline: Any) -> None:
    """Send the cells of these commands and wait for them. `UserError` for those that failed, with their last words.

    `pipeline` is the module of that name, which no other one imports.
    """
    try:
        left = _unmade(config, commands, options, pipeline)
        logs = log_folder(Path(config.runs_dir).expanduser())
        with lock(logs):  # the same command may be given twice at the same time
            jobs = {name: job for name, job in _noted(logs).items() if name in left}
            for name, job in jobs.items():
                log.info("%-16s %s is in the queue already: job %s", "slurm", name, job)
            jobs |= _send({name: each for name, each in left.items() if name not in jobs}, options, logs)
    except UserError:
        sweeps.at_end.pop_all()  # the report, which has nothing new to say
        raise
    _wait({job: left[name][0] for name, job in jobs.items()}, logs, pipeline)


def _unmade(
    config: DictConfig, commands: list[list[str]], options: dict[str, Any], pipeline: Any
) -> dict[str, tuple[Cell, list[str]]]:
    """The cells that are neither current nor imported, each with what its job says to `run.py`."""
    _need_submitit()
    queue.check(options["partition"])
    store = Store(Path(config.runs_dir).expanduser())
    left: dict[str, tuple[Cell, list[str]]] = {}
    for command in commands:
        cell = Cell(sweeps.composed(config, command, []), store)
        if pipeline.is_imported(cell):
            log.info("%-16s %s is imported", "slurm", cell.folder.name)
        elif _is_current(cell, pipeline):
            pipeline.run(cell.config, [*sweeps.kept(config.hydra), *command], in_sweep=True)
        else:
            left[cell.folder.name] = (cell, _arguments(config, cell, command))
    return left


def log_folder(root: Path) -> Path:
    """Where logs and notes are."""
    return own_folder(own_folder(root / "hydra") / "slurm").resolve()


def _need_submitit() -> None:
    if not find_spec("submitit"):
        raise UserError("hydra/launcher=slurm: submitit is not installed; pip install -e '.[slurm]'")


def scripts(cells: dict[str, Cell], options: dict[str, Any], folder: Path) -> list[str]:
    """The batch scripts that would be sent for these cells, with their logs in `folder`, as text; nothing is sent.

    `options` are `hydra.launcher` as plain values.
    """
    _need_submitit()
    from submitit.slurm.slurm import _make_sbatch_string

    texts = []
    for asked, names in _alike(cells, options):
        del asked["max_num_timeout"]
        flags: Any = {_SBATCH.get(name, name): value for name, value in asked.items()} | {"mem": f"{asked['mem_gb']}GB"}
        several: Any = {"map_count": len(names)} if len(names) > 1 else {}
        command = f"{sys.executable} -u -m submitit.core._submit {folder}"
        texts.append(_make_sbatch_string(command, folder, **several, **flags))
    return texts


def _is_current(cell: Cell, pipeline: Any) -> bool:
    """Whether nothing is left to be made of it. `UserError` when what is left sends requests."""
    left = pipeline.without_current(cell, pipeline.wanted(cell), tell=False)
    lacking, _ = pipeline.planning.to_make(cell, left, pipeline.again)
    asked = {each.name: [one.section for one in each.requests(cell)] for each in lacking}
    # What stands for the backbone (`engine`) has a journal in its artifact.
    if asking := next((name for name, sections in asked.items() if {*sections} - {"engine"}), None):
        where = "on one machine: run the same command with until=mix hydra/launcher=basic there"
        why = f"{asking} of {cell.name} sends requests, whose journal can be written {where}"
        raise UserError(f"hydra/launcher=slurm: {why}")
    return not left


def _arguments(config: DictConfig, cell: Cell, command: list[str]) -> list[str]:
    """What its job says to `run.py`. The report is the launcher's."""
    last = [] if cell.config.until or cell.config.only else ["until=evaluate"]
    # All of `hydra`: the sweep's own file may have values of the launcher, which are known only where that is chosen.
    typed = [each for each in config.hydra.overrides.hydra if not each.startswith("hydra.mode=")]
    flags = [each for each in sweeps.kept(config.hydra) if each not in typed]
    return [*flags, *typed, *command, *last, "hydra.mode=RUN"]


def _alike(cells: dict[str, Cell], options: Any) -> list[tuple[dict[str, Any], list[str]]]:
    """What jobs ask of the cluster, and the cells that ask the same."""
    found: list[tuple[dict[str, Any], list[str]]] = []
    card, given = _given(options)
    for name, cell in cells.items():
        asked = resources(cell.config, card, options["hours"], options["most_hours"]) | given
        if (minutes := asked["timeout_min"]) * 60 <= (delay := asked["signal_delay_s"]) + _SPARE_SECONDS:
            why = f"a job is told to stop signal_delay_s={delay} before, or a minute earlier, and would make nothing"
            remedy = "raise timeout_min= or most_hours=, or lower signal_delay_s="
            raise UserError(f"hydra.launcher.timeout_min={minutes}: {why}; {remedy}")
        for other, names in found:
            if other == asked:
                names.append(name)
                break
        else:
            found.append((asked, [name]))
    return found


def _given(options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The card, and what all jobs ask, by submitit's names; `UserError` names a wrong value."""
    from submitit.slurm.slurm import _get_default_parameters

    if (card := options["cards"].get(chosen := str(options["card"]))) is None:
        raise UserError(f"hydra.launcher.card={chosen}: choose from {', '.join(options['cards'])}")
    numbers = {key: options[key] for key in _NUMBERS if options[key] is not None or key not in _LEFT}
    numbers |= {f"cards.{chosen}.{key}": card.get(key) for key in CARD}
    for key, value in numbers.items():
        whole = key in _WHOLE
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 < value < math.inf:
            must = f"must be a {'whole ' if whole else ''}number above 0"
            raise UserError(f"hydra.launcher.{key}={'null' if value is None else value}: {must}")
    given = {
        name: value for name, value in options.items() if value is not None and name not in _OURS and name[0] != "_"
    }
    known = {*_get_default_parameters(), *_SBATCH, "max_num_timeout"}
    if unknown := sorted(given.keys() - known):
        remedy = "further options of sbatch are hydra.launcher.additional_parameters={NAME: VALUE}"
        raise UserError(f"hydra.launcher.{unknown[0]}={given[unknown[0]]}: there is no such option; {remedy}")
    setup, flags = given.get("setup", []), given.get("additional_parameters", {})
    if not isinstance(setup, list):  # of a text each letter would be a line
        raise UserError(f"hydra.launcher.setup={setup}: must be a list, [LINE, LINE]")
    if not isinstance(flags, dict):
        raise UserError(f"hydra.launcher.additional_parameters={flags}: must be names with values, {{NAME: VALUE}}")
    path = f"export PYTHONPATH={shlex.quote(str(_SCRIPT.parent))}:$PYTHONPATH"
    given |= {"name": "lema", "stderr_to_stdout": True, "setup": [path, *map(str, setup)]}
    given["additional_parameters"] = {"requeue": True} | flags  # whatever the cluster does with other jobs
    return card, given


def _send(left: dict[str, tuple[Cell, list[str]]], options: dict[str, Any], folder: Path) -> dict[str, str]:
    """The job of each cell. A stop signal waits until it is noted which jobs were sent."""
    import submitit
    from submitit.core.utils import FailedJobError

    sent: dict[str, str] = {}
    common = {"name", "cpus_per_task", "gpus_per_node", "mem_gb", "timeout_min", "stderr_to_stdout"}
    for asked, names in _alike({name: cell for name, (cell, _) in left.items()}, options):
        times = asked.pop("max_num_timeout")
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=times)
        executor.update_parameters(**{key if key in common else f"slurm_{key}": value for key, value in asked.items()})
        stopping.begin(_going_on(sent.values()))
        with stopping.landing(lambda _: None):
            try:
                with _outside(asked), contextlib.redirect_stderr(io.StringIO()):  # it prints what its error says too
                    jobs = executor.map_array(Job(str(_SCRIPT)), [left[name][1] for name in names])
            except FailedJobError as error:
                why = [" ".join(str(error).split()), *([_going_on(sent.values())] if sent else [])]
                raise UserError(f"hydra/launcher=slurm: {'; '.join(why)}") from None
            made = {name: job.job_id for name, job in zip(names, jobs, strict=True)}
            write_json(folder / f"{jobs[0].job_id.partition('_')[0]}.json", made)
        sent |= made
    return sent


def _going_on(jobs: Iterable[str]) -> str:
    """What becomes of jobs that were sent, once nobody waits for them."""
    arrays = sorted({job.partition("_")[0] for job in jobs})
    return f"jobs {', '.join(arrays)} of Slurm go on (scancel {' '.join(arrays)} ends them)" if arrays else "slurm"


@contextlib.contextmanager
def _outside(asked: dict[str, Any]) -> Iterator[None]:
    """Hides the allocation in which a launcher may run (`srun --pty`, `salloc`), whose limits are not the jobs'.

    Hides what the user's shell says of what is asked, and, as sbatch is to end its work, stop signals.
    """
    given = (*_IN_SCRIPTS, *asked, *asked["additional_parameters"])
    ours = {f"SBATCH_{key.upper().replace('-', '_')}" for key in given} | {"HYDRA_FULL_ERROR"}  # which run.py sets
    allocation = ("SLURM_", "SLURMD_", "SRUN_")
    names = [name for name in os.environ if (name.startswith(allocation) and name != "SLURM_CONF") or name in ours]
    hidden = {name: os.environ.pop(name) for name in names}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ.update(hidden)


def _noted(folder: Path) -> dict[str, str]:
    """The jobs of earlier commands that wait or run, by their cells; notes of arrays that have ended are removed."""
    found: dict[str, str] = {}
    for file in folder.glob("*.json"):
        try:
            noted: dict[str, str] = dict(json.loads(read(file)))
        except DAMAGED:
            remedy = f"once squeue shows no job {file.stem}, delete it"
            raise UserError(f"{file}: damaged, so the cells of job {file.stem} are not known; {remedy}") from None
        living = queue.alive(noted.values())
        found |= {name: job for name, job in noted.items() if job in living}
        if not living:
            file.unlink(missing_ok=True)
    return found


def _wait(cells: dict[str, Cell], folder: Path, pipeline: Any) -> None:
    """Until all jobs have ended. What a cell left says how it ended, for Slurm may have lost a job, or its end."""
    failed: list[str] = []

    def tell(job: str, state: str, over: bool) -> None:
        name, told = cells[job].folder.name, f"job {job} {state.lower()}"
        if over:
            why = _failure(cells[job], job, state, folder, pipeline)
            failed.extend([f"{name}: {told}{why}"] if why else ())
            told = f"{'failed' if why else 'done'} ({told})"
        log.info("%-16s %s: %s", "slurm", name, told)

    def waiting(jobs: list[str], why: str) -> None:
        some = ", ".join(jobs[:_SHOWN]) + (f" and {len(jobs) - _SHOWN} more" if len(jobs) > _SHOWN else "")
        log.info("%-16s jobs %s %s", "slurm", some, why)

    if cells:
        stopping.begin(_going_on(cells))
        queue.wait(cells, tell, waiting)
    if failed:
        many = f"{len(failed)} of {len(cells)} jobs failed; the same command tries their cells again:"
        raise UserError("\n  - ".join([many, *failed]))


def _failure(cell: Cell, job: str, state: str, folder: Path, pipeline: Any) -> str:
    """Why a cell whose job has ended lacks something; "" where it has all."""
    wanted = pipeline.wanted(cell)
    for stage in {step.stage for step in wanted}:  # a network drive looks anew for what other machines wrote there
        with contextlib.suppress(OSError):
            os.listdir(cell.store.root / stage)
    try:
        if not (left := pipeline.without_current(cell, wanted, tell=False)):
            return ""
    except UserError as error:
        return f", but {error}"
    file = folder / _LOG.format(job)
    if state == "COMPLETED":
        return f", but {', '.join(step.name for step in left)} of it cannot be found in {cell.store.root} ({file})"
    if file.exists():
        return f": {queue.last_words(file) or 'without a word'} ({file})"
    if state == "CANCELLED":
        return " before it began"
    return f" without a log: does its node see {folder}? If not, set runs_dir="
