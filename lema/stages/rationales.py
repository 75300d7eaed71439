"""rationales: further CoT solutions of the training questions, by a strong model; those with the right answer are kept.

As in the paper (section 2 of its data: 30,000 asked of GPT-4 for GSM8K, of which 24,948 were kept).
"""

from collections import Counter
from pathlib import Path
from typing import Any

from lema.artifacts import Recipe, write_jsonl
from lema.cell import Cell
from lema.grading import grade_all
from lema.grading.generated import answer_part
from lema.identity import api_identity, digest
from lema.types import Problem, Solution, distinct


def recipe(cell: Cell) -> Recipe:
    rationales, grader = cell.config.rationales, cell.config.task.trained.grader
    config = api_identity(rationales) | {"requests": rationales.requests, "most": rationales.most, "grader": grader}
    config["demonstrations"] = digest(cell.rationale_prompt(Problem("", "", "", "")))
    inputs = {"data": cell.artifacts["data"].digest}
    return Recipe("rationales", f"{cell.train_label}-{rationales.name}", version=2, config=config, inputs=inputs)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `rationales.jsonl`: the right ones whose answer can be read, each text of a problem once."""
    grader, asked = cell.config.task.trained.grader, shares(cell)
    prompts = {problem.id: cell.rationale_prompt(problem) for problem, _ in asked}
    wanted = [(prompts[problem.id], number) for problem, number in asked]
    answers, spent = cell.ask(wanted, api=cell.config.rationales, section="rationales")
    usable = [(*each, answer) for each, answer in zip(asked, answers, strict=True) if answer.usable]
    items = [(answer_part(answer.text or ""), problem.answer, problem.candidates) for problem, _, answer in usable]
    verdicts = zip(grade_all(items, grader), grade_all(items, grader, "symbolic"), strict=True)
    solutions = [
        Solution(problem.id, answer.model, number, text, official.answer, official.correct, symbolic.correct, False)
        for (problem, number, answer), (text, *_), (official, symbolic) in zip(usable, items, verdicts, strict=True)
    ]
    right = [each for each in solutions if each.correct and each.answer is not None]
    write_jsonl(folder / "rationales.jsonl", kept := list(distinct(right, Counter())))
    counts = {"asked": len(asked), "answered": len(solutions), "correct": len(right), "kept": len(kept)}
    return counts | {"models": sorted({each.model for each in solutions})} | spent


def shares(cell: Cell) -> list[tuple[Problem, int]]:
    """Each question as often as it is asked, with the number of the time: evenly, as many as the config says."""
    rationales, problems = cell.config.rationales, cell.problems("train")
    each, more = divmod(rationales.requests or 0, len(problems))
    times = [min(each + (index < more), rationales.most or each + 1) for index in range(len(problems))]
    return [(problem, number) for problem, most in zip(problems, times, strict=True) for number in range(most)]
