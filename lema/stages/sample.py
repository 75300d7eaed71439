"""sample: solutions of the training problems, graded; the wrong ones are what a corrector works on."""

from pathlib import Path
from typing import Any

from lema.artifacts import RESUME, Recipe, write_jsonl
from lema.cell import Cell
from lema.types import Solution


def recipe(cell: Cell) -> Recipe:
    config = cell.plain(cell.config.sampler)
    model, _ = config.pop("model") or cell.plain(cell.config.backbone), config.pop("other")
    config |= {name: model[name] for name in ("prompt", "precision", "attention")} | {
        "grader": cell.config.task.trained.grader
    }
    inputs = {"data": cell.artifacts["data"].digest, "model": cell.sampled_weights.digest}
    label = f"{cell.train_label}-{cell.sampled_weights.name}"
    return Recipe("sample", label, version=2, config=config, inputs=inputs)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `solutions.jsonl`, all of them, and `wrong.jsonl`, each wrong text of a problem once."""
    from lema.models.huggingface import solve

    sampler = cell.config.sampler
    solutions = solve(
        cell.problems("train", "dev"),  # so these solutions serve whichever questions a mix holds out
        sampler.model or cell.config.backbone,
        cell.sampled_weights,
        grader=cell.config.task.trained.grader,
        max_new_tokens=sampler.max_new_tokens,
        temperature=sampler.temperature,
        samples=sampler.samples,
        seed=sampler.seed,
        batch_size=sampler.batch_size,
        resume=folder / RESUME / "sample",
    )
    wrong: dict[tuple[str, str], Solution] = {}
    for solution in solutions:
        answered = solution.answer is not None or sampler.keep_unanswered
        if answered and not solution.correct and solution.text.strip():
            wrong.setdefault((solution.problem_id, solution.text.strip()), solution)
    write_jsonl(folder / "solutions.jsonl", solutions)
    write_jsonl(folder / "wrong.jsonl", wrong.values())
    return {
        "solutions": len(solutions),
        "correct": sum(solution.correct for solution in solutions),
        "unanswered": sum(solution.answer is None for solution in solutions),
        "truncated": sum(solution.truncated for solution in solutions),
        "wrong_paths": len(wrong),
    }
