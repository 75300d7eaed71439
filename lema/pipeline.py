"""The experiment as a list of steps: run those a cell needs, in order, each only when its artifact is not current.

data ─► base ─► sample ─► correct ─► rationales ─► mix ─► train ─► select ─► merge ─► evaluate ─► report
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lema import card, engines, preflight, run_folder, stopping, sweeps
from lema.api import journal
from lema.artifacts import Artifact, Store, cleaning, own_folder, refuse_links, write_text
from lema.artifacts.faults import explaining
from lema.cell import OTHER, TUNED, Cell, Step
from lema.config import Config, CotPart, Do, Extra, Method, SourceKind, renamed
from lema.config.environment import variables
from lema.preflight import imported, planning
from lema.reporting import standing
from lema.reporting.commands import command
from lema.tracking.runs import Tracker
from lema.types import UserError

log = logging.getLogger(__name__)

_REPORT = "report"  # what a run ends with: the last choice of `until=`


class SweepCallback(Callback):
    """Before a sweep's first cell, composes and checks all its cells; after the last, writes the report on them."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        try:
            root = Path(config.runs_dir).expanduser()
            with explaining(root):
                self._start(config, root)
        except UserError as error:
            sys.exit(str(error))
        except Exception:  # a mistake of ours, of which Hydra would only warn and then run all cells
            traceback.print_exc()
            sys.exit(1)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        stopping.begin(_REPORT)  # a launcher ends well after a signal, once its cells have ended

    def _start(self, config: DictConfig, root: Path) -> None:
        if config.do is Do.status:
            preflight.check_runs_dir(root, make=False)
            standing.tell(root, sweeps.known(config, root) or _scope(config, root).named)
            sys.exit(0)
        if config.do in (Do.compare, Do.export, Do.clean, Do.audit):
            raise UserError(f"do={config.do}: takes no sweep; leave out -m, or sweeps=")
        hydras = Path(config.hydra.sweep.dir)
        preflight.check_runs_dir(root)
        try:
            hydras.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"hydra.sweep.dir={hydras}: cannot be written ({error.strerror})") from None
        refuse_links(hydras, hydras / "multirun.yaml")
        sweeps.begin()
        scope = _scope(config, root)
        first, label, _ = report = scope.report
        match first.do:
            case Do.run:
                planning.refuse(scope.cells, _ways(is_imported, sweeps.are_jobs(config)))
                if first.only is None and first.until in (None, _REPORT):
                    sweeps.at_end.callback(_last_report, *report)
                # Hydra writes this file next, and shows a traceback where it cannot.
                write_text(own_folder(hydras) / "multirun.yaml", OmegaConf.to_yaml(config))
                return
            case Do.plan:
                planning.tell(scope.cells, _ways(is_imported, sweeps.are_jobs(config)), label, root)
                cells = {name: cell for name, cell in scope.cells.items() if not is_imported(cell)}
                left = {name: cell for name, cell in cells.items() if without_current(cell, wanted(cell), False)}
                options: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
                launcher = Plugins.instance().class_name_to_class[options["_target_"]]
                for script in getattr(launcher, "scripts", lambda *_: ())(left, options, root):
                    print(f"\n{script}")
            case Do.report | Do.power:
                _report(*report)
            case Do.export_results | Do.import_results:
                imported.move(first.do is Do.export_results, root, first.results.file, *report[1:], scope.cells)
            case Do.wandb_report:
                _report_at_wandb(*report)
            case Do.wandb_sweep:
                print(f"written to {sweeps.write_for_wandb(config, root)}")
            case Do.compare | Do.export | Do.clean | Do.audit | Do.status:  # ended above
                pass
        sys.exit(0)


@dataclass(frozen=True)
class _Scope:
    """A sweep's cells, by what tells each from the others."""

    cells: dict[str, Cell]
    named: dict[str, str] | None  # the names of their folders; None if only the first cell is known yet
    report: tuple[Config, str, list[Path] | None]  # what that is about: these cells, or all runs


def _scope(config: DictConfig, root: Path) -> _Scope:
    """All cells of a sweep are composed and checked for this."""
    if not sweeps.are_cells_known(config):
        first = _cell(sweeps.composed(config, [], []), root)
        return _Scope({"the first cell": first}, None, (first.config, "all", None))
    cells = {label: _cell(each, root) for label, each in sweeps.cells(config).items()}
    folders = {label: cell.folder for label, cell in cells.items()}
    sweeps.keep(config, root, named := {label: folder.name for label, folder in folders.items()})
    report = next(iter(cells.values())).config, sweeps.name(config, [*named.values()]), [*folders.values()]
    return _Scope(cells, named, report)


def _cell(config: Config, root: Path) -> Cell:
    """The cell of a config; `UserError` when `until=` or `only=` names no stage."""
    cell = Cell(config, Store(root))
    stages = list(plan(cell))
    for key, value, choices in (("until", config.until, [*stages, _REPORT]), ("only", config.only, stages)):
        if value not in (None, *choices):
            raise UserError(f"{key}={value}: no such stage; choose from {', '.join(choices)}")
    return cell


def plan(cell: Cell) -> dict[str, list[Step]]:
    """The stages in order, each with the steps that this cell has of it.

    An arm without corrections needs no mistakes, unless it is asked about them. One with another model's needs the
    cell's own too, for their number. A model that makes mistakes once it is tuned is trained first.
    """
    config, extra = cell.config, cell.config.mix.extra
    if config.do is Do.audit:  # a corrector alone, on solutions with human labels
        return {"labelled": [Step("labelled", "labelled")], "correct": [Step("correct", "correct", {"audited": True})]}
    learnt = config.evaluation.learnt
    whose = {(): cell} if extra is not Extra.none or learnt else {}
    whose |= {(OTHER,): cell.other} if extra is Extra.other_corrections else {}
    bases = {(), *whose} if cell.builds_base else ()
    sources = {of: each.config.sampler.models for of, each in whose.items()}
    training = [of for of, own in sources.items() if any(each.kind is SourceKind.tuned for each in own.values())]
    trained = ["mix", "train", "select"]
    trained += ["merge"] if config.train.merge and config.train.method is not Method.full else []
    explained = config.rationales.requests and (training or config.mix.cot is not CotPart.none)
    rationales = [Step("rationales", "rationales")] if explained else []
    tests = {(): cell} | {(of,): test for of, test in cell.tests.items()}
    own_test = [of for of, each in tests.items() if each.config.task.train_dataset]
    return {
        "data": [Step("data", "data"), *(Step("test_data", "data", {"own_test": True}, of) for of in own_test)],
        "base": [Step("base", "base", {}, of) for of in sorted(bases)],
        "sample": [
            *(rationales if training else []),
            *(Step(stage, stage, {}, (*of, TUNED)) for of in training for stage in trained),
            *(Step(f"sample_{name}", "sample", {"name": name}, of) for of, own in sources.items() for name in own),
        ],
        "correct": [Step("correct", "correct", {}, of) for of in whose],
        "rationales": [] if training else rationales,
        **{stage: [Step(stage, stage)] if stage in trained else [] for stage in ("mix", "train", "select", "merge")},
        "evaluate": [  # each model is asked all in turn, so that it is loaded once
            step
            for which, tuned in (("_untuned", False), ("", True))
            for step in (
                *(Step(f"evaluate{which}", "evaluate", {"tuned": tuned}, of) for of in tests),
                *([Step(f"learnt{which}", "evaluate", {"tuned": tuned, "learnt": True})] if learnt else []),
            )
        ],
    }


def _ways(imported: Callable[[Cell], bool] = lambda _: False, jobs: bool = False) -> planning.Ways:
    return planning.Ways(wanted, again, imported, preflight.lacking, preflight.loaded, jobs)


def run(config: Config, overrides: list[str], in_sweep: bool = False) -> None:
    """Do what `do=` names; in a sweep this is called once a cell, and the report comes after the last one."""
    try:
        with explaining(Path(config.runs_dir), in_sweep), engines.running:
            _do(config, overrides, in_sweep)
    except stopping.Stopped as stop:
        if stop.__cause__:  # its disk refuses all: no report can be written either
            sweeps.at_end.pop_all()
        raise


def _do(config: Config, overrides: list[str], in_sweep: bool) -> None:
    root = Path(config.runs_dir)
    stopping.begin(config.only or ("preflight" if config.do is Do.run else config.do))
    preflight.check_runs_dir(root, make=config.do not in (Do.clean, Do.status, Do.export_results))  # which make nothing
    os.environ.update(variables(config))
    match config.do:
        case Do.run:
            last, cell = config.only or config.until or _REPORT, _cell(config, root)
            recorded = run_folder.recorded(cell, overrides, last, in_sweep)
            with recorded as begin, renamed.presented(config.sampler.name):
                _run_cell(cell, wanted(cell), overrides, begin)
            if "select" in cell.artifacts:
                card.write_card(cell)
            if last == _REPORT and not in_sweep:
                _report(config)
        case Do.report | Do.power:
            _report(config)
        case Do.export_results | Do.import_results:
            imported.move(config.do is Do.export_results, root, config.results.file)
        case Do.compare:
            from lema.reporting import compare  # the statistics take half a second to load

            compare.write_comparison(root, config.compare)
        case Do.audit:
            from lema.reporting import audit  # as above

            cell = _cell(config, root)
            labelled, *_ = audited = wanted(cell)  # what is asked, and paid, depends on what is labelled
            for each in ([labelled], audited):
                _run_cell(cell, each, overrides, lambda *_: None)
            audit.write_audit(root, cell.artifacts["labelled"])
        case Do.clean:
            preflight.check_runs(root, config.clean.delete)
            deleting = command(*(each for each in overrides if "clean.delete" not in each), "clean.delete=true")
            cleaning.clean(root, [*plan(_cell(config, root))], config.clean.delete, deleting)
        case Do.export:
            refuse_links(root / "export")
            journal.export(root / "journal.sqlite", root / "export")
            log.info("export           %s", root / "export")
        case Do.plan:
            cell = _cell(config, root)
            planning.tell({cell.name: cell}, _ways(), cell.folder.name, root)
        case Do.status:
            standing.tell(root)
        case Do.wandb_report:
            _report_at_wandb(config)
        case Do.wandb_sweep:
            raise UserError("do=wandb_sweep: needs a sweep; name one, sweeps=NAME, or values, -m seed=1,2,3")


def _report(config: Config, label: str = "all", folders: list[Path] | None = None) -> tuple[Path, Any] | None:
    """Write the report on all runs, or on a sweep's, and log it when it says anything new; its folder and numbers.

    None when the run was stopped: the report is then left to the run that goes on. `do=power` writes its table alone.
    """
    if stopping.received():
        return None
    stopping.begin(_REPORT)
    from lema.reporting import power, report  # as above

    root, stated = Path(config.runs_dir), (config.report.share, config.report.pairs)
    if config.do is Do.power:
        power.write_power(root / "reports" / label, report.compared(root, folders, *stated), **vars(config.power))
        return None
    folder, comparison, new = report.write_report(root, label, folders, *stated)
    if new and comparison.arms:
        Tracker(config, root).report(folder, report.evaluations(comparison))
    return folder, comparison


def _report_at_wandb(config: Config, label: str = "all", folders: list[Path] | None = None) -> None:
    """Write the report, and make the same one at W&B."""
    if not (project := config.tracker.project):
        raise UserError("do=wandb_report: tracker.project is not set; tracker=wandb sets it")
    if not (written := _report(config, label, folders)):
        return
    from lema.reporting import report  # as above

    if not written[1].arms:
        raise UserError("do=wandb_report: no run has been evaluated yet")
    print(f"W&B report: {report.publish(Path(config.runs_dir), label, project, *written)}")


def _last_report(*scope: Any) -> None:
    """Write a sweep's report. Hydra is done then, so we print its errors ourselves."""
    try:
        with explaining(Path(scope[0].runs_dir)):
            _report(*scope)
    except UserError as error:
        sys.exit(str(error))


def _run_cell(cell: Cell, wanted: list[Step], overrides: list[str], begin: Callable[..., None]) -> None:
    """Make what is not current of these steps; `begin` is called once nothing is missing for that.

    It is called again as each step begins: then the cell's folder points to what it needs, which nobody cleans.
    """
    todo = without_current(cell, wanted)
    only = cell.config.only
    if only and (missing := [step.name for step in todo if step.stage != only]):
        raise UserError(f"only={only}: {', '.join(missing)} must be made first; run it without only=")
    lacking, paid = planning.to_make(cell, todo, again)
    asked = [requests for step in lacking for requests in step.requests(cell)]
    preflight.check(cell, {step.stage for step in lacking}, asked, overrides, paid)
    preflight.tell_of_older(cell, [step.stage for step in todo])
    begin("")
    if not all(artifact.is_there for artifact in cell.artifacts.values()):  # cleaned before the folder pointed to it
        cell.artifacts.clear()
        _run_cell(cell, wanted, overrides, begin)
        return
    for step in todo:
        stopping.begin(step.name)
        recipe = step.recipe(cell)
        begin(cell.store.place(recipe), step.name, wanted.index(step) + 1, len(wanted))
        with cell.tracker.step(step.name, recipe, cell.artifacts) as tracked:
            build = tracked.starting(partial(step.build, recipe, cell))
            artifact, made = cell.store.make(recipe, build, partial(again, cell))
            if made:
                tracked.complete(artifact)
        cell.artifacts[step.name] = artifact
        _log(step, artifact, "made" if made else "current")
    cell.tracker.show_current(cell.artifacts.get("evaluate"))


def is_imported(cell: Cell) -> bool:
    """Whether a sweep leaves it out, as its results were brought here."""
    return imported.is_done(cell, wanted(cell))


def wanted(cell: Cell) -> list[Step]:
    """The steps that are asked for, in order."""
    planned, last = plan(cell), cell.config.only or cell.config.until or _REPORT
    stages = [*planned, _REPORT]
    return [step for stage in stages[: stages.index(last) + 1] for step in planned.get(stage, ())]


def without_current(cell: Cell, wanted: list[Step], tell: bool = True) -> list[Step]:
    """The steps from the first on that is not current; the artifacts before it go to the cell."""
    for number, step in enumerate(wanted):
        artifact = cell.store.find(step.recipe(cell))
        if artifact is None or again(cell, artifact):
            return wanted[number:]
        cell.artifacts[step.name] = artifact
        if tell:
            _log(step, artifact, "current")
    return []


def again(cell: Cell, artifact: Artifact) -> bool:
    """Whether it is made again: a selection needs what was cleaned, or failed requests are asked, once a sweep."""
    if artifact.cleaned:
        trained = replace(cell, artifacts=cell.artifacts | {"train": artifact})
        if any(cell.store.find(step.recipe(trained)) is None for step in plan(cell)["select"]):
            preflight.tell_of_cleaned(artifact.path)
            return True
    retried = cell.config.retry_failed and artifact.summary.get("failed", 0) > 0
    return retried and not sweeps.has_made(artifact)


def _log(step: Step, artifact: Artifact, state: str) -> None:
    log.info("%-16s %-8s %s  %s", step.name.replace("_", " "), state, artifact.path, artifact.facts)
