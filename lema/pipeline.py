"""The experiment as a list of steps: run those a cell needs, in order, each only when its artifact is not current.

data ─► base ─► sample ─► correct ─► mix ─► train ─► evaluate ─► report
"""

import atexit
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from lema import preflight
from lema.artifacts import Artifact, Recipe, Store, write_json, write_text
from lema.cell import Cell
from lema.config import Config, Stage
from lema.stages import base, correct, data, evaluate, mix, report, sample, train
from lema.types import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One artifact of a cell. `name` is its key in `Cell.artifacts`, and its link in the run's directory."""

    name: str
    stage: Stage
    recipe: Callable[[Cell], Recipe]
    build: Callable[[Cell, Path], dict[str, Any]]


class SweepCallback(Callback):
    """Checks the runs folder before Hydra writes to it, and prints the report once, when the last cell is through.

    At exit, because Hydra calls no callback at the end of a sweep in which a cell failed.
    """

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        root = Path(config.runs_dir)
        try:
            preflight.check_runs_dir(root)
        except UserError as error:
            sys.exit(str(error))  # Hydra goes on after any other exception of a callback
        atexit.register(report.publish, root)


def steps(cell: Cell) -> list[Step]:
    """The steps of a cell, in order; an arm without corrections needs no samples of its own."""
    needed = [Step("data", Stage.data, data.recipe, data.build)]
    if cell.builds_base:
        needed.append(Step("base", Stage.base, base.recipe, base.build))
    if mix.needs_corrections(cell):
        needed.append(Step("sample", Stage.sample, sample.recipe, sample.build))
        needed.append(Step("correct", Stage.correct, correct.recipe, correct.build))
    return [
        *needed,
        Step("mix", Stage.mix, mix.recipe, mix.build),
        Step("train", Stage.train, train.recipe, train.build),
        *[
            Step(name, Stage.evaluate, partial(evaluate.recipe, tuned=tuned), partial(evaluate.build, tuned=tuned))
            for name, tuned in (("evaluate_untuned", False), ("evaluate", True))
        ],
    ]


def run(config: Config, overrides: list[str], in_sweep: bool = False) -> None:
    """Run one cell and print the report; in a sweep the report comes once, after its last cell."""
    root = Path(config.runs_dir)
    preflight.check_runs_dir(root)
    if config.backbone.tiny is not None:  # read by torch when it is imported, which nothing has done yet
        os.environ.setdefault("OMP_NUM_THREADS", str(config.backbone.tiny.num_threads))
    last = config.only or config.until or Stage.report
    if config.only is not Stage.report:
        _run_cell(config, last, overrides, Store(root))
    if last is Stage.report and not in_sweep:
        report.publish(root)


def _run_cell(config: Config, last: Stage, overrides: list[str], store: Store) -> None:
    cell = Cell(config, store)
    wanted = [step for step in steps(cell) if _order(step.stage) <= _order(last)]
    todo = wanted[_find_current(cell, wanted) :]
    if config.only and (missing := [step.name for step in todo if step.stage is not config.only]):
        raise UserError(f"only={config.only}: {', '.join(missing)} must be made first; run it without only=")
    preflight.check(cell, {step.stage for step in todo})
    try:
        for step in todo:
            artifact, made = store.make(step.recipe(cell), lambda folder, step=step: step.build(cell, folder))
            cell.artifacts[step.name] = artifact
            _log(step, artifact, "made" if made else "current")
    except BaseException:
        cell.tracker.finish(failed=True)
        raise
    cell.tracker.finish()
    _record(cell, overrides)


def _find_current(cell: Cell, wanted: list[Step]) -> int:
    """Fill in the artifacts that are current, up to the first that is not; their number."""
    for number, step in enumerate(wanted):
        artifact = cell.store.find(step.recipe(cell))
        if artifact is None:
            return number
        cell.artifacts[step.name] = artifact
        _log(step, artifact, "current")
    return len(wanted)


def _record(cell: Cell, overrides: list[str]) -> None:
    """The run's directory: links to its artifacts, its config, and its metrics in one file for the report."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    for name, artifact in cell.artifacts.items():
        link, target = cell.folder / name, os.path.relpath(artifact.path, cell.folder)
        if not (link.is_symlink() and os.readlink(link) == target):
            temporary = cell.folder / f".{name}.{os.getpid()}"
            temporary.symlink_to(target)
            os.replace(temporary, link)
    metrics: list[dict[str, Any]] = []
    for name, artifact in cell.artifacts.items():
        if name == "train":
            curve = (artifact.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            metrics += [{"stage": name, **json.loads(line)} for line in curve]
        metrics.append({"stage": name, "summary": artifact.summary})
    write_text(cell.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in metrics))
    run = {"name": cell.name, "key": cell.key, "setting": cell.setting, "overrides": overrides, "config": cell.identity}
    write_json(cell.folder / "run.json", run)


def _order(stage: Stage) -> int:
    return list(Stage).index(stage)


def _log(step: Step, artifact: Artifact, state: str) -> None:
    log.info("%-16s %-8s %s  %s", step.name.replace("_", " "), state, artifact.path, _facts(artifact.summary))


def _facts(summary: dict[str, Any]) -> str:
    """The numbers of a summary in words: `train 600, dev 100` and, of a nested one, `kinds (wrong result 270)`."""
    numbers = [f"{name} {value:,}" for name, value in summary.items() if isinstance(value, int | float)]
    return ", ".join(
        numbers + [f"{name} ({_facts(part)})" for name, part in summary.items() if part and isinstance(part, dict)]
    )
