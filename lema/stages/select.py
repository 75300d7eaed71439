"""select: which checkpoint is evaluated. The best on dev, the last, or (`paper`) the best on what is evaluated itself.

Best is the highest accuracy by the official rules; of equals the one with the fewest steps. Adapters answer unmerged.
"""

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from lema.artifacts import RESUME, Artifact, Recipe, Shown, keep, kept, write_jsonl
from lema.cell import Cell
from lema.config import Method, Selection, Split
from lema.types import Problem, Solution, UserError

SHOWN = Shown("selection", files=("accuracies.jsonl",))


def recipe(cell: Cell) -> Recipe:
    selection, split = _decided(cell)
    config: dict[str, Any] = {"selection": selection}
    inputs = {"train": cell.artifacts["train"].digest}
    if split:
        backbone, evaluation = cell.plain(cell.config.backbone), cell.plain(cell.config.evaluation)
        config |= {name: backbone[name] for name in ("prompt", "precision", "attention")}
        config |= evaluation | {"split": split, "grader": _grader(cell, split)}
        config["method"] = cell.config.train.method
        inputs |= {"data": _asked(cell, split).digest, "base": cell.base.digest}
    label = f"{cell.task_label if selection is Selection.paper else cell.train_label}-{cell.arm}"
    return Recipe("select", label, version=2, config=config, inputs=inputs, shown=SHOWN)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `accuracies.jsonl`, a row a checkpoint, and `step-N.jsonl`, what each answered.

    With one checkpoint, or `last`, none is asked: then the summary's `selection` is `last`, and its `split` null.
    """
    selection, split = _decided(cell)
    steps = cell.artifacts["train"].summary["checkpoints"]
    answers = {step: _predictions(cell, folder, step, split) for step in steps} if split else {}
    accuracies, symbolic = (
        {step: fmean(getattr(each, rule) for each in predictions) for step, predictions in answers.items()}
        for rule in ("correct", "symbolic")
    )
    rows = [{"step": step, "accuracy": accuracies[step], "accuracy_symbolic": symbolic[step]} for step in answers]
    write_jsonl(folder / "accuracies.jsonl", rows)
    step = max(accuracies, key=lambda each: (accuracies[each], -each)) if rows else steps[-1]
    table = {str(each): accuracy for each, accuracy in accuracies.items()}
    return {"step": step, "selection": selection, "split": split, "accuracies": table}


def _decided(cell: Cell) -> tuple[Selection, Split | None]:
    """How to choose among the checkpoints there are, and on which split; `UserError` when that split is empty."""
    selection, checkpoints = cell.config.selection, cell.artifacts["train"].summary["checkpoints"]
    if selection is Selection.last or len(checkpoints) == 1:
        return Selection.last, None
    if selection is Selection.paper:
        return selection, cell.config.evaluation.split
    if cell.config.task.num_dev == 0:
        raise UserError(
            f"selection=dev task.num_dev=0: no dev question to choose one of {len(checkpoints)} checkpoints by; "
            "take the last with selection=last, or hold some out with task.num_dev="
        )
    return selection, Split.dev


def _predictions(cell: Cell, folder: Path, step: int, split: Split) -> list[Solution]:
    """What a checkpoint answers; kept in the folder to resume from until all have answered."""
    from lema.models.huggingface import solve

    config, name = cell.config, f"step-{step}"
    done = folder / RESUME / f"{name}.json"
    rows = kept(done)
    if rows is None:
        checkpoint = cell.artifacts["train"].path / "checkpoints" / name
        method, base = config.train.method, cell.base
        whole = method is Method.full
        predictions = solve(
            _asked(cell, split).rows(f"{split}.jsonl", Problem),
            config.backbone,
            replace(base, location=str(checkpoint), revision=None) if whole else base,
            grader=_grader(cell, split),
            max_new_tokens=config.evaluation.max_new_tokens,
            batch_size=config.evaluation.batch_size,
            four_bit=method is Method.qlora,
            adapter=None if whole else checkpoint,
            resume=folder / RESUME / f"select {name}",
        )
        rows = [vars(each) for each in predictions]
        keep(done, rows)
    write_jsonl(folder / f"{name}.jsonl", rows)
    return [Solution(**row) for row in rows]


def _asked(cell: Cell, split: Split) -> Artifact:
    return cell.artifacts["data"] if split is Split.dev else cell.asked


def _grader(cell: Cell, split: Split) -> str:
    task = cell.config.task
    return task.grader if split is Split.test else task.trained.grader
