"""The experiment as a list of steps: run those a cell needs, in order, each only when its artifact is not current.

data ─► base ─► sample ─► correct ─► rationales ─► mix ─► train ─► select ─► merge ─► evaluate ─► report
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lema import preflight, run_folder, stopping, sweeps
from lema.api import journal
from lema.artifacts import Artifact, Recipe, Store, write_text
from lema.artifacts.faults import explaining
from lema.artifacts.links import own_folder, refuse_links
from lema.cell import Cell
from lema.config import Config, CotPart, Extra, Method, Only, Stage
from lema.config.compose import at_end
from lema.stages import base, correct, data, evaluate, merge, mix, rationales, sample, select, train
from lema.tracking import Tracker, reports, service
from lema.types import UserError

log = logging.getLogger(__name__)

at_end.callback(service.end)  # after what is registered later

REPORTS = (Only("report"), Only("wandb_report"))


@dataclass(frozen=True)
class Step:
    """One artifact of a cell. `name` is its key in `Cell.artifacts`, and its link in the run's directory."""

    name: str
    stage: Stage
    recipe: Callable[[Cell], Recipe]
    build: Callable[[Cell, Path], dict[str, Any]]


class SweepCallback(Callback):
    """Composes and checks all cells of a sweep before its first one, and reports on just them after its last."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        try:
            with explaining(Path(config.runs_dir)):
                self._start(config)
        except UserError as error:
            sys.exit(str(error))
        except Exception:  # a mistake of ours: Hydra would warn of it and run all cells
            traceback.print_exc()
            sys.exit(1)

    def _start(self, config: DictConfig) -> None:
        root, only, hydras = Path(config.runs_dir), config.only, Path(config.hydra.sweep.dir)
        preflight.check_runs_dir(root)
        refuse_links(hydras, hydras / "multirun.yaml")
        if only == Only("wandb_sweep"):
            sweeps.cells(config)  # a cell that cannot be composed is said here, not by the agent that starts it
            print(f"written to {sweeps.write_for_wandb(config, root)}")
            sys.exit(0)
        if only in (Only("export"), Only("compare")):
            raise UserError(f"only={only}: takes no sweep")
        if only in REPORTS or (only is None and config.until in (None, Stage.report)):
            scope = _scope(config, root)
            if only:
                _report(*scope)
                sys.exit(0)
            at_end.callback(_last_report, *scope)
        # Hydra writes it next, and shows a traceback where it cannot.
        write_text(own_folder(hydras) / "multirun.yaml", OmegaConf.to_yaml(config))


def _scope(config: DictConfig, root: Path) -> tuple[Config, str, list[Path] | None]:
    """What a sweep's report is about: its own cells, or all runs where its sweeper does not tell them."""
    if not sweeps.told(config):
        return sweeps.composed(config, []), "all", None
    cells = [Cell(each, Store(root)) for each in sweeps.cells(config)]
    folders = [cell.folder for cell in cells]
    return cells[0].config, sweeps.name(config, [folder.name for folder in folders]), folders


def steps(cell: Cell) -> list[Step]:
    """The steps of a cell, in order; an arm without corrections needs no samples of its own."""

    def step(module: Any, named: str = "", **options: Any) -> Step:
        stage = Stage(module.__name__.rpartition(".")[2])
        return Step(named or stage, stage, partial(module.recipe, **options), partial(module.build, **options))

    def mistakes(cell: Cell) -> list[Step]:
        """What makes the corrections of the mistakes that a cell samples: each model's by itself."""
        samples = [step(sample, f"sample_{name}", name=name) for name in cell.config.sampler.models]
        return [*([step(base)] if cell.builds_base else []), *samples, step(correct)]

    def other(own: Step) -> Step:
        """A step of another model's mistakes: an arm with them needs the cell's own too, for their number."""
        recipe, build = own.recipe, own.build
        return Step(
            f"other_{own.name}", own.stage, lambda cell: recipe(cell.other), lambda cell, to: build(cell.other, to)
        )

    config, needed = cell.config, mix.needs_corrections(cell)
    asked = [step(data, "test_data", own_test=True)] if config.task.train_dataset else []
    own = mistakes(cell) if needed else [step(base)] if cell.builds_base else []
    others = map(other, mistakes(cell.other)) if config.mix.extra is Extra.other_corrections else ()
    further = [step(rationales)] if config.rationales.requests and config.mix.cot is not CotPart.none else []
    merged = [step(merge)] if config.train.merge and config.train.method is not Method.full else []
    scores = [step(evaluate, "evaluate_untuned", tuned=False), step(evaluate, tuned=True)]
    return [step(data), *asked, *own, *others, *further, step(mix), step(train), step(select), *merged, *scores]


def run(config: Config, overrides: list[str], in_sweep: bool = False) -> None:
    """Run one cell and print the report; in a sweep the report comes once, after its last cell."""
    try:
        with explaining(Path(config.runs_dir), in_sweep):
            _run(config, overrides, in_sweep)
    except stopping.Stopped as stop:
        if stop.__cause__:  # its disk refuses all: no report can be written either
            at_end.pop_all()
            at_end.callback(stopping.end)
            at_end.callback(service.end)
        raise


def _run(config: Config, overrides: list[str], in_sweep: bool) -> None:
    root = Path(config.runs_dir)
    stopping.begin(config.only or "preflight")
    preflight.check_runs_dir(root)
    if config.backbone.tiny is not None:  # read by torch when it is imported, which nothing has done yet
        os.environ.setdefault("OMP_NUM_THREADS", str(config.backbone.tiny.num_threads))
    if config.only == Only("export"):
        refuse_links(root / "export")
        journal.export(root / "journal.sqlite", root / "export")
        log.info("export           %s", root / "export")
        return
    if config.only == Only("wandb_sweep"):
        raise UserError("only=wandb_sweep: needs a sweep; name one, sweeps=NAME, or values, -m seed=1,2,3")
    if config.only == Only("compare"):
        from lema.reporting import compare  # the statistics take half a second to load

        compare.write_comparison(root, config.compare)
        return
    if config.only in REPORTS:
        _report(config)
        return
    last = Stage(config.only or config.until or Stage.report)
    cell = Cell(config, Store(root))
    with run_folder.recorded(cell, overrides, last, in_sweep) as begin:
        _run_cell(cell, last, overrides, begin)
    if last is Stage.report and not in_sweep:
        _report(config)


def _report(config: Config, label: str = "all", folders: list[Path] | None = None) -> None:
    """Of all runs, or of those of a sweep; logged when it says anything new, and made at W&B when that was asked."""
    if stopping.received():  # the report on a sweep is left to the run that goes on
        return
    stopping.begin("report")
    from lema.reporting import report  # as above

    root, project = Path(config.runs_dir), config.tracker.project
    if config.only == Only("wandb_report") and not project:
        raise UserError("only=wandb_report: tracker.project is not set; tracker=wandb sets it")
    folder, comparison, new = report.write_report(root, label, folders)
    if config.only == Only("wandb_report") and not comparison.arms:
        raise UserError("only=wandb_report: no run has been evaluated yet")
    if new and comparison.arms:
        Tracker(config, root).report(folder, report.evaluations(comparison))
    if config.only == Only("wandb_report") and project:
        content = report.at_wandb(comparison, root, f"lema: {label}")
        print(f"W&B report: {reports.publish_report(content, project, folder / 'wandb_report.json')}")


def _last_report(*scope: Any) -> None:
    """The report of a sweep: after Hydra is done, so that nobody else shows its errors."""
    try:
        with explaining(Path(scope[0].runs_dir)):
            _report(*scope)
    except UserError as error:
        sys.exit(str(error))


def _run_cell(cell: Cell, last: Stage, overrides: list[str], begin: Callable[[], None]) -> None:
    """Make what is not current of the steps up to `last`; `begin` is called once nothing is missing for that."""
    reached = list(Stage)[: list(Stage).index(last) + 1]
    todo = _without_current(cell, [step for step in steps(cell) if step.stage in reached])
    only = cell.config.only
    if only and (missing := [step.name for step in todo if step.stage != only]):
        raise UserError(f"only={only}: {', '.join(missing)} must be made first; run it without only=")
    preflight.check(cell, {step.stage for step in todo}, overrides)
    begin()
    for step in todo:
        stopping.begin(step.name)
        recipe = step.recipe(cell)
        with cell.tracker.step(step.name, recipe, cell.artifacts) as tracked:
            build = tracked.starting(partial(step.build, cell))
            artifact, made = cell.store.make(recipe, build, partial(_failed, cell))
            if made:
                tracked.complete(artifact)
        cell.artifacts[step.name] = artifact
        _log(step, artifact, "made" if made else "current")
    cell.tracker.show_current("evaluate", cell.artifacts.get("evaluate"))


def _without_current(cell: Cell, wanted: list[Step]) -> list[Step]:
    """The steps from the first on that is not current; the artifacts before it go to the cell."""
    for number, step in enumerate(wanted):
        artifact = cell.store.find(step.recipe(cell))
        if artifact is None or _failed(cell, artifact):
            return wanted[number:]
        cell.artifacts[step.name] = artifact
        _log(step, artifact, "current")
    return []


def _failed(cell: Cell, artifact: Artifact) -> bool:
    """Whether requests failed for this artifact that are to be asked again."""
    return cell.config.retry_failed and artifact.summary.get("failed", 0) > 0


def _log(step: Step, artifact: Artifact, state: str) -> None:
    log.info("%-16s %-8s %s  %s", step.name.replace("_", " "), state, artifact.path, _facts(artifact.summary))


def _facts(summary: dict[str, Any]) -> str:
    """The numbers of a summary in words: `train 600, dev 100` and, of a nested one, `kinds (wrong result 270)`."""
    numbers = [
        f"{name} {value:,.6g}" if isinstance(value, float) else f"{name} {value:,}"
        for name, value in summary.items()
        if isinstance(value, int | float)
    ]
    nested = [f"{name} ({_facts(part)})" for name, part in summary.items() if part and isinstance(part, dict)]
    return ", ".join(numbers + nested)
