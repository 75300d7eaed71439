"""select: which checkpoint is evaluated. The best on dev, the last, or (`paper`) the best on what is evaluated itself.

Best is the highest accuracy by the official rules; of equals the one with the fewest steps. Adapters answer unmerged.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lema.artifacts import RESUME, Artifact, Recipe, Shown, keep, kept, write_jsonl
from lema.cell import Cell, Context
from lema.config import Method, Selection, Split
from lema.console.progress import Progress
from lema.engines import LocalModel
from lema.models.weights import Weights, checkpoint, tuned
from lema.solving import Wording, solve
from lema.types import Problem, Solution, Trained, UserError, rules_version

SHOWN = Shown("selection", files=("accuracies.jsonl",))


@dataclass(frozen=True)
class Asked:
    """What every checkpoint is asked."""

    split: Split
    grader: str
    prompt: str
    model: LocalModel
    method: Method  # a checkpoint is a whole model, or an adapter


@dataclass(frozen=True)
class Settings:
    """How a checkpoint is chosen. Without `asked` no checkpoint is asked, and the last one is taken."""

    selection: Selection
    asked: Asked | None


@dataclass(frozen=True)
class Inputs:
    """The checkpoints; their base and the problems, where checkpoints are asked."""

    train: Artifact
    data: Artifact | None = None
    base: Weights | None = None


def recipe(cell: Cell) -> Recipe:
    """With one checkpoint there is nothing to choose."""
    config, train = cell.config, cell.artifacts["train"]
    checkpoints = train.read(Trained).checkpoints
    selection = Selection.last if len(checkpoints) == 1 else config.selection
    label = f"{cell.task_label if selection is Selection.paper else cell.train_label}-{cell.arm}"
    settings, inputs = Settings(selection, None), Inputs(train)
    if selection is not Selection.last:
        split = config.evaluation.split if selection is Selection.paper else Split.dev
        if split is Split.dev and config.task.num_dev == 0:
            raise UserError(
                f"selection=dev task.num_dev=0: no dev question to choose one of {len(checkpoints)} checkpoints by; "
                "take the last with selection=last, or hold some out with task.num_dev="
            )
        model = cell.evaluated(four_bit=config.train.method is Method.qlora, tuned=True)
        asked = Asked(split, config.task.grader_of(split), config.backbone.prompt, model, config.train.method)
        data = cell.artifacts["data"] if split is Split.dev else cell.asked
        settings, inputs = Settings(selection, asked), Inputs(train, data, cell.base)
    version = 2 + rules_version(settings.asked and settings.asked.grader)
    return Recipe("select", label, version, settings=settings, inputs=inputs, shown=SHOWN)


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `accuracies.jsonl`, a row a checkpoint, and `step-N.jsonl`, what each answered.

    With one checkpoint, or `last`, none is asked: then the summary's `selection` is `last`, and its `split` null.
    """
    steps, asked = inputs.train.read(Trained).checkpoints, settings.asked
    answers: dict[int, list[Solution]] = {}
    answered: dict[str, dict[str, str]] = {}  # what answered, unless all of it was there before this attempt
    if asked:
        with Progress("checkpoint", len(steps)) as progress:
            for step in steps:
                before = (folder / RESUME / f"step-{step}.json").is_file()
                answers[step] = _predictions(asked, inputs, context, folder, step, answered)
                progress.advance(before=before)
    accuracies, symbolic = (
        {step: fmean(getattr(each, rule) for each in predictions) for step, predictions in answers.items()}
        for rule in ("correct", "symbolic")
    )
    rows = [{"step": step, "accuracy": accuracies[step], "accuracy_symbolic": symbolic[step]} for step in answers]
    write_jsonl(folder / "accuracies.jsonl", rows)
    step = max(accuracies, key=lambda each: (accuracies[each], -each)) if rows else steps[-1]
    table = {str(each): accuracy for each, accuracy in accuracies.items()}
    split = asked.split if asked else None
    return {"step": step, "selection": settings.selection, "split": split, "accuracies": table} | answered


def _predictions(
    asked: Asked, inputs: Inputs, context: Context, folder: Path, step: int, answered: dict[str, dict[str, str]]
) -> list[Solution]:
    """What a checkpoint answers; kept in the folder to resume from until all have answered."""
    name = f"step-{step}"
    done = folder / RESUME / f"{name}.json"
    rows = kept(done)
    if rows is None:
        assert inputs.data
        assert inputs.base
        held, adapter = tuned(inputs.base, checkpoint(inputs.train.path, step), asked.method)
        problems = [(each, 0) for each in inputs.data.rows(f"{asked.split}.jsonl", Problem)]
        engine, resume = context.engine(asked.model, held, adapter), folder / RESUME / f"select {name}"
        predictions = solve(problems, Wording(asked.prompt), engine, asked.grader, resume, whole=True)
        rows = [vars(each) for each in predictions]
        answered["answered"] = engine.about
        keep(done, rows)
    write_jsonl(folder / f"{name}.jsonl", rows)
    return [Solution(**row) for row in rows]
