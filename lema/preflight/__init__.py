"""What the steps to be made need before anything is downloaded, sent or paid: all that is missing, in one message."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from statistics import fmean

from lema import engines
from lema.cell import Cell
from lema.config import Config, CotPart, Extra, ModelConfig, Selection, SourceConfig, Split
from lema.models.weights import weights
from lema.preflight import consent, fitness, hardware, hub, serving
from lema.types import UserError

log = logging.getLogger(__name__)
_COMPUTING = {"sample", "train", "select", "merge", "evaluate"}  # in which the backbone does


def check_runs_dir(folder: Path, make: bool = True) -> None:
    """The runs folder exists and can be written; with `make=False`, that it exists."""
    if not make:
        if not folder.is_dir():
            raise UserError(f"runs_dir={folder}: no such folder; name the folder of your runs with runs_dir=")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"runs_dir={folder}: cannot be written ({reason}); choose a folder with runs_dir=") from None


def check_runs(folder: Path, delete: bool) -> None:
    """`UserError` when `do=clean` would delete, and no run says what is needed."""
    made, runs = (any(folder.glob(pattern)) for pattern in ("*/*/record.json", "cells/*/"))
    if delete and made and not runs:
        lost = "no run is there, so nothing says what is needed"
        raise UserError(f"{folder / 'cells'}: {lost}; put the folder back, or delete {folder} yourself")


def check(cell: Cell, stages: set[str], asked: list[engines.Requests], overrides: list[str], paid: float) -> None:
    """Raise one `UserError` naming everything that these stages lack, each with its remedy.

    `paid` are the dollars that artifacts which are there have taken of the budget.
    """
    if missing := lacking(cell, stages, asked, overrides, paid):
        command = f"backbone={cell.config.backbone.name} task={cell.config.task.name}"
        raise UserError("\n  - ".join([f"{command} cannot start; missing:", *missing]))


def lacking(
    cell: Cell,
    stages: set[str],
    asked: list[engines.Requests],
    overrides: Iterable[str] = (),
    paid: float = 0.0,
    ask: bool = True,
) -> list[str]:
    """Everything that these stages lack, a line each; without `ask`, what is known with no model and no request."""
    tracker = cell.tracker.missing() if stages else ()
    others = sorted(loaded(cell, stages).keys() - {"backbone"})
    served = serving.missing(cell.config, stages, others) if ask and cell.config.engine.name == "server" else ()
    paying = consent.missing(cell.config, asked, [*overrides], paid, ask)
    return [*_missing(cell, stages, ask), *tracker, *served, *paying]


def _missing(cell: Cell, stages: set[str], ask: bool) -> Iterator[str]:
    config, task = cell.config, cell.config.task
    for key, dataset in (("dataset", task.dataset), ("train_dataset", task.train_dataset)):
        if "data" in stages and dataset and dataset.path is None:
            yield from hub.unreachable("dataset", dataset.hub_id, dataset.revision, f"task.{key}.path", ask)
    for test in cell.tests.values() if "data" in stages else ():
        yield from _further_rows(test, ask)
    yield from without_dev(config, stages)
    explained = task.trained_dataset is None or task.trained_dataset.solution
    if "mix" in stages and config.mix.cot is not CotPart.none and not explained and not config.rationales.requests:
        without = f"{task.name} has no reference solutions, so mix={config.mix.name} would have no CoT examples"
        field = "add some to the training rows and name their field, task.dataset.solution=FIELD"
        yield f"rationales: {without}; have a model write some, rationales=gpt4, or {field}"
    others = config.mix.extra is Extra.other_corrections
    own = [source for source in config.sampler.models.values() if source.is_own]
    if others and not own:
        instead = f"run mix=lema, which trains on them; sampler=self mix=lema takes {config.backbone.name}'s own"
        yield f"mix: sampler={config.sampler.name} makes mistakes that are another model's already: {instead}"
    for key, source in _sources(cell, stages).items():
        if source.recorded and not (file := Path(source.recorded)).is_file():
            why = "a folder" if file.is_dir() else "not a regular file" if file.exists() else "no such file"
            yield f"recorded: {key}.recorded={source.recorded}: {why}; name a file of JSON lines, plain or .gz"
    models = loaded(cell, stages)
    # What the backbone does on this machine.
    stages = stages - {"sample", "select", "evaluate"} if config.engine.name == "server" else stages
    for name, model in models.items():
        source, of_backbone = weights(model), name == "backbone"
        whole = [hardware.MemoryNeed("of weights", hardware.BYTES[model.precision] / hardware.shares(config))]
        held = hardware.held(config, stages, hardware.gpus() > 1) if of_backbone else whole
        parameters = hardware.parameters(model)
        lines = [*hardware.unsupported(name, model)] if stages & _COMPUTING or not of_backbone else []
        lines += hub.unloadable(name, model.path, model.hub_id, model.revision, ask)
        lines += hardware.misnamed(name, model, source)
        if parameters and held:
            lines += hardware.too_large(name, source.location, parameters, held, *hardware.memory())
        if of_backbone and "merge" in stages:
            lines += hardware.too_little_disk(cell.store.root, parameters * hardware.BYTES[model.precision])
        yield from lines if lines or not ask else fitness.unfit(name, model, source, config, stages)
    if models.keys() - {"backbone"} or stages & {"select", "evaluate"} or ("sample" in stages and own):
        yield from engines.missing(config)
    if cell.builds_base and stages & _COMPUTING:
        yield from hardware.unsupported("backbone", config.backbone)
    if "train" in stages and config.train.processes:
        yield from hardware.too_few_gpus(config.train.processes)
    if stages & {"train", "evaluate"}:
        yield from hardware.without_bitsandbytes(config.train)


def _sources(cell: Cell, stages: set[str]) -> dict[str, SourceConfig]:
    """Whose mistakes these stages collect, by their keys in the config."""
    if "sample" not in stages:
        return {}
    sampler = cell.config.sampler
    found = {f"sampler.models.{name}": source for name, source in sampler.models.items()}
    if cell.config.mix.extra is Extra.other_corrections and sampler.other and not cell.builds_base:
        found["sampler.other"] = sampler.other
    return found


def loaded(cell: Cell, stages: set[str]) -> dict[str, ModelConfig]:
    """The published models that these stages load, by their keys in the config."""
    config = cell.config
    models = {f"{key}.weights": each.weights for key, each in _sources(cell, stages).items()}
    for asked in (asked for stage, asked in config.writers.items() if stage in stages):
        models |= {f"{key}.weights": each.weights for key, each in asked.items()}
    served = {"sample", "select", "evaluate"} if config.engine.name == "server" else set[str]()
    if not cell.builds_base and stages - served - {"data", "labelled", "correct", "rationales"}:
        models["backbone"] = config.backbone
    return {name: model for name, model in models.items() if model}


def _further_rows(test: Cell, ask: bool) -> Iterator[str]:
    """Where the rows of a further test are not."""
    rows, key = test.test_rows, f"task.{'train_dataset' if test.config.task.train_dataset is None else 'dataset'}.path"
    if rows.dataset and rows.path is None:
        yield from hub.unreachable("dataset", rows.dataset.hub_id, rows.dataset.revision, key, ask)
        return
    try:
        assert rows.digest
    except UserError as error:
        lacking = str(error).partition("; ")[0]
        yield f"dataset: evaluation.tasks: {rows.name} is looked for beside the training rows, {lacking}; put it there"


def without_dev(config: Config, stages: set[str]) -> Iterator[str]:
    """What asks dev questions, when none are held out."""
    train, more = config.train, "or hold questions out with task.num_dev="
    if config.task.num_dev:
        return
    # With epochs alone the number of steps is known only once the mix is made.
    several = train.max_steps is None or train.max_steps > train.save_steps
    if "train" in stages and config.selection is Selection.dev and several:
        yield f"dev: selection=dev task.num_dev=0 leaves nothing to choose a checkpoint by: selection=last, {more}"
    if "evaluate" in stages and config.evaluation.split is Split.dev:
        yield f"dev: evaluation.split=dev task.num_dev=0 leaves nothing to evaluate on: evaluation.split=test, {more}"


def tell_of_older(cell: Cell, todo: list[str]) -> None:
    """Say what it costs to make an older version's artifacts again: the mean of each step's stage."""
    older = {stage: cell.store.seconds_of_older(stage) for stage in set(todo)}
    hours = sum(fmean(older[stage]) for stage in todo if older[stage]) / 3600
    if any(older.values()):
        told = "%-16s %s holds artifacts of an older lema; what this command needs of them took about %.2g hours and is"
        log.info(
            f"{told} made again; the journal is read, and nothing in it is paid again", "older", cell.store.root, hours
        )


@cache
def tell_of_cleaned(folder: Path) -> None:
    """Once a process."""
    told = "%-16s %s: do=clean deleted checkpoints that this selection asks, so the training is made again"
    log.info(told, "train", folder)
