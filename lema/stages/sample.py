"""sample: solutions of the training problems, graded; the wrong ones are what a corrector works on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lema.artifacts import Recipe, resume_folder, write_jsonl
from lema.cell import Cell
from lema.grading import grade
from lema.prompts.formats import cot_prompt
from lema.types import Solution

VERSION = 1


def recipe(cell: Cell) -> Recipe:
    config = cell.plain(cell.config.sampler)
    model = config.pop("model") or cell.plain(cell.config.backbone)
    config |= {name: model[name] for name in ("prompt", "precision", "attention")}
    config["grader"] = cell.config.task.grader.value
    inputs = {"data": cell.artifacts["data"].digest, "model": cell.sampled_weights.digest}
    return Recipe("sample", f"{cell.task_label}-{cell.sampled_weights.name}", VERSION, config, inputs)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `solutions.jsonl`, all of them, and `wrong.jsonl`, each wrong text of a problem once.

    Dev questions are sampled too, so that these solutions serve whichever questions a mix holds out.
    """
    from lema.models.huggingface import generate, load_model, load_tokenizer

    sampler = cell.config.sampler
    answering = sampler.model or cell.config.backbone
    source = cell.sampled_weights
    problems = [problem for problem in cell.problems("train", "dev") for _ in range(sampler.samples)]
    completions = generate(
        load_model(source, answering.precision, answering.attention),
        load_tokenizer(source),
        [cot_prompt(answering.prompt.value, problem.question) for problem in problems],
        max_new_tokens=sampler.max_new_tokens,
        temperature=sampler.temperature,
        seed=sampler.seed,
        batch_size=sampler.batch_size,
        resume=resume_folder(folder),
        title="sample",
    )
    solutions = []
    for number, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
        verdict = grade(completion.text, problem.answer, cell.config.task.grader.value)
        solutions.append(
            Solution(
                problem_id=problem.id,
                model=source.name,
                sample=number % sampler.samples,
                text=completion.text,
                answer=verdict.answer,
                correct=verdict.correct,
                truncated=completion.truncated,
            )
        )
    wrong = _wrong_paths(solutions, sampler.keep_unanswered)
    write_jsonl(folder / "solutions.jsonl", solutions)
    write_jsonl(folder / "wrong.jsonl", wrong)
    return {
        "solutions": len(solutions),
        "correct": sum(solution.correct for solution in solutions),
        "unanswered": sum(solution.answer is None for solution in solutions),
        "truncated": sum(solution.truncated for solution in solutions),
        "wrong_paths": len(wrong),
    }


def _wrong_paths(solutions: list[Solution], keep_unanswered: bool) -> list[Solution]:
    wrong = {}
    for solution in solutions:
        answered = solution.answer is not None or keep_unanswered
        if not solution.correct and answered and solution.text.strip():
            wrong.setdefault((solution.problem_id, solution.text.strip()), solution)
    return list(wrong.values())
