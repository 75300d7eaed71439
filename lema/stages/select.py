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
    rows, answered = list[dict[str, Any]](), None
    if asked:
        with Progress("checkpoint", len(steps)) as progress:
            for step in steps:
                answers, about = _predictions(asked, inputs, context, folder, step)
                official, symbolic = fmean(each.correct for each in answers), fmean(each.symbolic for each in answers)
                rows.append({"step": step, "accuracy": official, "accuracy_symbolic": symbolic})
                answered = about or answered
                progress.advance(before=about is None)
    write_jsonl(folder / "accuracies.jsonl", rows)
    best = max(rows, key=lambda row: (row["accuracy"], -row["step"]), default={"step": steps[-1]})
    return {
        "step": best["step"],
        "selection": settings.selection,
        "split": asked.split if asked else None,
        "accuracies": {str(row["step"]): row["accuracy"] for row in rows},
    } | ({"answered": answered} if answered else {})


def _predictions(
    asked: Asked, inputs: Inputs, context: Context, folder: Path, step: int
) -> tuple[list[Solution], dict[str, str] | None]:
    """What a checkpoint answers, kept in the folder to resume from until all have answered; and what answered.

    The latter is None when an attempt before this one has asked.
    """
    done, about = folder / RESUME / f"step-{step}.json", None
    if (rows := kept(done)) is None:
        assert inputs.data
        assert inputs.base
        held, adapter = tuned(inputs.base, checkpoint(inputs.train.path, step), asked.method)
        problems = [(each, 0) for each in inputs.data.rows(f"{asked.split}.jsonl", Problem)]
        engine, resume = context.engine(asked.model, held, adapter), folder / RESUME / f"select step-{step}"
        predictions = solve(problems, Wording(asked.prompt), engine, asked.grader, resume, whole=True)
        rows, about = [vars(each) for each in predictions], engine.about
        keep(done, rows)
    write_jsonl(folder / f"step-{step}.jsonl", rows)
    return [Solution(**row) for row in rows], about
