"""What a cell or a sweep would make, need and cost: found without loading a model, sending a request or downloading.

The steps of a cell are gone through in order. One that is not made yet is stood for by the digest of its recipe, so
that cells which will share it are known to. What is shared is counted once, with the cell that comes first.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from lema.api.estimate import Costs, Requests, between, price
from lema.artifacts import Artifact, Recipe, Shown, foreseen, own_folder, write_json
from lema.cell import Cell
from lema.config import Config, ModelConfig, Selection, Split
from lema.preflight import hardware, hub, sizing
from lema.types import UserError

CURRENT, SHARED, MAKE, IMPORTED = "current", "shared", "make", "imported"
_OF_A_MACHINE = ("GPU: ", "engine: ", "package: ", "precision: ")  # how lines of preflight begin
_RANGES = "requests", "prompt_tokens", "completion_tokens", "usd", "minutes"


Cells = Mapping[str, Cell]  # by their labels


@dataclass(frozen=True)
class Ways:
    """How the pipeline goes through a cell."""

    wanted: Callable[[Cell], Sequence[Any]]  # the steps that a cell's command names
    again: Callable[[Cell, Artifact], bool]  # whether an artifact that is there is made again
    imported: Callable[[Cell], bool]  # whether a cell is left out, as its results were brought here
    lacking: Callable[..., list[str]]  # what preflight misses
    loaded: Callable[[Cell, set[str]], dict[str, Any]]  # the published models that stages load
    jobs: bool  # whether cells run on other machines, whose GPUs and packages they check for themselves


@dataclass
class Planned:
    """One cell: each step's state, and what it adds to what the cells before it take."""

    label: str
    run: str  # its folder's name
    steps: dict[str, str] = field(default_factory=dict)  # step -> `CURRENT`, `SHARED`, `MAKE` or `IMPORTED`
    # Step that it makes, or `correct.verifier` -> its `Costs`, and the model.
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    budget_usd: float = 0.0  # at most, shared ones too: a budget is each run's own
    hours: float | None = 0.0  # of the steps that it makes; None where some are not known
    hours_of: dict[str, float] = field(default_factory=dict)  # of each step of which they are known, for the report
    hours_from: list[str] = field(default_factory=list)
    gpus: int = 0
    gpu_memory_gb: float | None = None  # a card, at the peak; None where no step of it needs one
    disk_bytes: float = 0.0
    missing: list[str] = field(default_factory=list)
    downloads: dict[str, float] = field(default_factory=dict)  # name -> bytes


class _Walk:
    """The cells of one plan, one after another."""

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.found: dict[str, Artifact | None] = {}  # by their places
        self.first: set[str] = set()  # the places of what a cell before makes

    def cell(self, cell: Cell, label: str, sized: bool = True) -> Planned:
        """What one cell adds, of the machine only when `sized`; `cell` gets the artifacts that are there."""
        planned, stand = Planned(label, cell.folder.name), replace(cell, artifacts={})
        if self.ways.imported(cell):
            planned.steps = dict.fromkeys((step.name for step in self.ways.wanted(cell)), IMPORTED)
            return planned
        makes: list[tuple[Any, dict[str, Any] | None, bool]] = []
        for step, recipe, found, missing in _walked(stand, self.ways.wanted(cell), self._find(cell)):
            if found:
                cell.artifacts[step.name] = found
                planned.steps[step.name] = CURRENT
                continue
            place = cell.store.place(recipe) if recipe else None
            shared = place in self.first
            planned.steps[step.name] = SHARED if shared else MAKE
            planned.missing += [missing] if missing else []
            self.first |= {place} if place else set()
            makes.append((step, recipe and recipe.identity(), shared))
        asked = self._asked(cell, makes, planned)
        stages = {step.stage for step, _, _ in makes}
        planned.missing += [
            each
            for each in self.ways.lacking(cell, stages, asked, ask=False)
            if each not in planned.missing and not (self.ways.jobs and each.startswith(_OF_A_MACHINE))
        ]
        task = cell.config.task
        datasets = (task.dataset, task.train_dataset) if "data" in stages else ()
        planned.downloads = dict(hub.downloads(self.ways.loaded(cell, stages).values(), datasets))
        if sized:
            self._take(cell, makes, planned)
        return planned

    def _find(self, cell: Cell) -> Callable[[Recipe], Artifact | None]:
        """Looks for an artifact once in all cells."""

        def find(recipe: Recipe) -> Artifact | None:
            place = cell.store.place(recipe)
            if place not in self.found:
                found = cell.store.find(recipe)
                self.found[place] = None if found and self.ways.again(cell, found) else found
            return self.found[place]

        return find

    def _asked(self, cell: Cell, makes: list[Any], planned: Planned) -> list[Requests]:
        asked = []
        for step, _, shared in makes:
            with suppress(UserError):  # `lacking` names it
                for requests in step.requests(cell):
                    asked.append(requests)
                    found = requests.costs(price(requests.api, cell.config.prices, requests.section))
                    planned.budget_usd += found.usd[1]
                    if not shared:
                        named = step.name + (".verifier" if requests.section.endswith(".verifier") else "")
                        planned.asked[named] = {"model": requests.api.model} | asdict(found)
        planned.budget_usd += cell.paid if planned.budget_usd else 0.0  # a budget is of a run from its beginning
        return asked

    def _take(self, cell: Cell, makes: list[Any], planned: Planned) -> None:
        """Hours, GPUs, memory and disk of what the cell makes itself."""
        own = [(step, identity) for step, identity, shared in makes if not shared]
        config, models = cell.config, {step.name: _loaded(cell.config, step) for step, _ in own}
        stages = {step.stage for step, _ in own if models[step.name]}
        parameters = 0 if cell.builds_base else hardware.parameters(config.backbone)
        trained = None
        try:
            trained = sizing.training(config, parameters, _mean_tokens(cell)) if "train" in stages else None
        except UserError as error:
            planned.missing.append(f"GPU: {error}")
        planned.gpus = sizing.gpus(config, stages, parameters, trained)
        planned.gpu_memory_gb = sizing.memory_gb(config, stages, parameters, trained)
        sources = Counter[str]()
        for step, identity in own:
            model, hours = models[step.name], identity and sizing.measured(cell.store.root, step.stage, identity)
            if not hours:
                of_model = parameters if model is config.backbone else model and hardware.parameters(model)
                hours = sizing.estimated(config, step.stage, of_model, _answers(cell, step), trained)
            planned.hours = None if hours is None or planned.hours is None else planned.hours + hours.hours
            planned.hours_of |= {step.name: hours.hours} if hours else {}
            sources[hours.source if hours else f"{step.name} is not known before one was made"] += 1
            planned.disk_bytes += sizing.disk(config, step.stage, parameters, trained)
        planned.hours_from = [source for source in sources if source != sizing.NONE.source]


def to_make(cell: Cell, steps: Sequence[Any], again: Callable[[Cell, Artifact], bool]) -> tuple[list[Any], float]:
    """Those of the steps behind a cell's artifacts that are not there, and the dollars that all that is there has cost.

    Behind a step that is missing, others may be there.
    """
    stand, makes, paid = replace(cell, artifacts=dict(cell.artifacts)), [], cell.paid

    def find(recipe: Recipe) -> Artifact | None:
        found = cell.store.find(recipe)
        return None if found and again(stand, found) else found

    for step, _, found, _ in _walked(stand, steps, find):
        makes += [] if found else [step]
        paid += found.summary.get("usd", 0.0) if found else 0.0
    return makes, paid


def _walked(
    stand: Cell, steps: Sequence[Any], find: Callable[[Recipe], Artifact | None]
) -> Iterator[tuple[Any, Recipe | None, Artifact | None, str]]:
    """Each step with its recipe and its artifact, if that is there; without a recipe, what is missing for that.

    `stand` gets the artifacts, and for those that are not there what stands for them.
    """
    for step in steps:
        try:
            recipe = step.recipe(stand)
            found = find(recipe)
        except UserError as error:  # what it is made from is not here, or it is damaged
            stand.artifacts[step.name] = _stand_in(stand, f"{step.stage}/{step.name} of {stand.key}", None)
            yield step, None, None, str(error)
            continue
        stand.artifacts[step.name] = found or _stand_in(stand, stand.store.place(recipe), recipe.shown)
        yield step, recipe, found, ""


def _stand_in(cell: Cell, place: str, shown: Shown | None) -> Artifact:
    """What stands for an artifact that is not made yet: later recipes ask for its digest, and some for these facts."""
    count = sizing.checkpoints(cell.config)
    summary = {"checkpoints": [*range(1, count + 1)], "step": 1, "selection": None, "split": None, "accuracies": {}}
    summary |= {"correctors": [], "models": [], "wrong_paths": 0}
    return Artifact(cell.store.root / place, f"planned {place}", summary, shown or Shown("model"))


def _mean_tokens(cell: Cell) -> float | None:
    """Of a training example, once they are there: four bytes are about a token."""
    if not (mix := cell.artifacts.get("mix")):
        return None
    with (mix.path / "examples.jsonl").open("rb") as file:
        sizes = [len(each["prompt"]) + len(each["completion"]) for each in map(json.loads, file)]
    return sum(sizes) / len(sizes) / 4 if sizes else None


def _loaded(config: Config, step: Any) -> ModelConfig | None:
    """The model that a step loads here; None where it reads files, or asks a server that somebody runs."""
    if step.stage in ("data", "labelled", "mix") or (step.stage == "select" and config.selection is Selection.last):
        return None
    if writers := config.writers.get(step.stage):
        return next((each.weights for each in writers.values() if each.weights), None)
    source = config.sampler.models.get(step.options.get("name", ""), config.sampler.other)
    if step.stage == "sample" and source and not source.is_own:
        return source.weights
    served = step.stage in ("sample", "select", "evaluate") and config.engine.name == "server"
    return None if served else config.backbone


def _answers(cell: Cell, step: Any) -> int:
    """How many answers a step asks for."""
    for prefix in step.within:
        cell = cell.within(prefix)
    evaluation = cell.config.evaluation
    if step.stage == "sample" or step.options.get("learnt"):
        with suppress(UserError):  # of data that are not here, which is said elsewhere
            if step.stage == "sample":
                return cell.num_questions * cell.config.sampler.samples
            return cell.num_asked(Split.dev) + min(cell.config.task.max_extra or 10**9, cell.num_questions)
        return 0
    if step.stage == "select":
        return cell.num_asked(evaluation.split if cell.config.selection is Selection.paper else Split.dev)
    return cell.num_asked(evaluation.split) * evaluation.answers


def tell(cells: Cells, ways: Ways, name: str, root: Path) -> None:
    """Print what these cells would take, and write it to `reports/NAME/plan.json`."""
    walk = _Walk(ways)
    found = [walk.cell(cell, label) for label, cell in cells.items()]
    total = _total(found, cells)
    for line in [*_table(found), *_words(total)]:
        print(line.rstrip())
    file = own_folder(own_folder(root / "reports") / name) / "plan.json"
    before = foreseen([file])
    for each in found:  # what was made since then is still compared with what an earlier plan said of it
        each.hours_of = before.get(each.run, {}) | each.hours_of
    write_json(file, {"total": total, "cells": [asdict(each) for each in found]})
    print(f"{'plan':<16} {file}")


def refuse(cells: Cells, ways: Ways) -> None:
    """`UserError` when no cell can start, with all that is missing: each thing once."""
    walk = _Walk(ways)
    found = [walk.cell(cell, label, sized=False) for label, cell in cells.items()]
    if all(each.missing for each in found) and len(found) > 1:
        missing = _total(found, cells)["missing"]
        lines = [_lacked(line, labels, len(found)) for line, labels in missing.items()]
        raise UserError("\n  - ".join([f"none of the {len(found)} cells can start; missing:", *lines]))


def _lacked(line: str, labels: list[str], cells: int) -> str:
    """What is missing, and which cells it concerns, unless it concerns all."""
    more = f", and {len(labels) - 1} more" if len(labels) > 1 else ""
    return line if len(labels) == cells else f"{line} ({labels[0]}{more})"


def _total(found: list[Planned], cells: Cells) -> dict[str, Any]:
    """All cells together: what several of them share, need or lack counts once."""
    asked = [costs for each in found for costs in each.asked.values()]
    total: dict[str, Any] = {name: [sum(each[name][end] for each in asked) for end in (0, 1)] for name in _RANGES}
    missing: dict[str, list[str]] = {}
    for each in found:
        for line in each.missing:
            missing.setdefault(line, []).append(each.label)
    most = max(each.budget_usd for each in found)
    if unpaid := [each.label for each in found if each.budget_usd and cells[each.label].config.budget_usd is None]:
        needs = "nothing is paid without consent, budget_usd= or LEMA_BUDGET_USD"
        told = f"budget: {needs}; it is each run's own, and a run here takes at most budget_usd={ceil(most)}"
        missing[told] = unpaid
    known = [each.hours for each in found if each.hours is not None]
    return total | {
        "cells": len(found),
        "budget_usd": most,
        "gpu_hours": sum(each.hours * each.gpus for each in found if each.hours),
        "hours": sum(known),
        "hours_unknown_of": [each.label for each in found if each.hours is None],
        "hours_from": sorted({source for each in found for source in each.hours_from}),
        "disk_bytes": sum(each.disk_bytes for each in found),
        "downloads": {name: size for each in found for name, size in each.downloads.items()},
        "missing": missing,
    }


def _table(found: list[Planned]) -> list[str]:
    """A row a cell: the state of each stage, then what it adds."""
    names = list(dict.fromkeys(name for each in found for name in each.steps))
    rows = [["cell", *names, "dollars", "hours", "GPUs", "GB a card", "disk"]]
    for each in found:
        usd = [sum(costs["usd"][end] for costs in each.asked.values()) for end in (0, 1)]
        hours = "?" if each.hours is None else f"{each.hours:.1f}" if each.hours else "–"
        memory = f"{each.gpu_memory_gb:.0f}" if each.gpu_memory_gb else "–"
        size = f"{each.disk_bytes / 1e9:.1f} GB" if each.disk_bytes else "–"
        numbers = [between(*usd) if usd[1] else "–", hours, str(each.gpus or "–"), memory, size]
        rows.append([each.label, *(each.steps.get(name, "–") for name in names), *numbers])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]


def _words(total: dict[str, Any]) -> list[str]:
    """The lines below the table."""
    asked = "none"
    if total["requests"][1]:
        asked = f"{between(*total['requests'])}, {Costs(*(total[name] for name in _RANGES)).words}"
    unknown = f", and {len(total['hours_unknown_of'])} cells unknown" if total["hours_unknown_of"] else ""
    hours = f"{total['hours']:.1f} ({total['gpu_hours']:.1f} GPU hours){unknown}"
    lines = [f"{'requests':<16} {asked}", f"{'hours':<16} {hours}"]
    lines += [f"{'hours from':<16} {source}" for source in total["hours_from"]]
    lines.append(f"{'disk':<16} {total['disk_bytes'] / 1e9:.1f} GB below the runs folder")
    for name, size in total["downloads"].items():
        lines.append(f"{'download':<16} {name}" + (f", about {size / 1e9:.0f} GB in 16 bits" if size else ""))
    missing = total["missing"].items()
    return lines + [f"{'missing':<16} {_lacked(line, labels, total['cells'])}" for line, labels in missing]
