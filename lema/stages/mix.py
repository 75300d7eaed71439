"""mix: the training examples of one arm, in the paper's formats.

`task.max_cot` questions, drawn by `task.seed`, give the CoT examples every arm has; the other training questions
are the pool of the extras (all questions, when none is left over). One draw of accepted corrections in the pool
serves three arms: `lema` trains on them, `cot_matched` on their corrected solutions written as CoT, and
`cot_random` on as many CoT examples of random pool questions. So the arms differ in one thing each.
"""

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lema.artifacts import Recipe, write_jsonl
from lema.cell import Cell
from lema.config import Extra
from lema.prompts import formats
from lema.types import Correction, Example, Problem, UserError

VERSION = 1


def needs_corrections(cell: Cell) -> bool:
    """Whether this arm uses corrections, if only their number."""
    return cell.config.mix.extra is not Extra.none


def recipe(cell: Cell) -> Recipe:
    task = cell.plain(cell.config.task)
    config = cell.plain(cell.config.mix) | {name: task[name] for name in ("seed", "max_cot", "max_extra")}
    config["prompt"] = cell.config.backbone.prompt
    inputs = {"data": cell.artifacts["data"].digest, "tokenizer": cell.base.digest}
    if needs_corrections(cell):
        inputs["corrections"] = cell.artifacts["correct"].digest
    return Recipe("mix", f"{cell.task_label}-{cell.backbone_label}-{config['name']}", VERSION, config, inputs)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `examples.jsonl`. A training question that is a test question too is left out and counted."""
    task, style = cell.config.task, cell.config.backbone.prompt
    tested = {problem.question for problem in cell.problems("test")}
    problems = [problem for problem in cell.problems("train") if problem.question not in tested]
    questions, pool = _split(problems, task.max_cot, random.Random(task.seed))
    examples = [_cot(problem, "cot", style) for problem in questions if _has_rationale(problem)]
    repeated = 0
    if needs_corrections(cell):
        drawn = _draw_corrections(cell, pool)
        match cell.config.mix.extra:
            case Extra.corrections:
                examples += [_correction(problem, correction) for problem, correction in drawn]
            case Extra.corrected_cot:
                examples += [_corrected_cot(problem, correction, style) for problem, correction in drawn]
            case _:
                chosen, repeated = _draw_questions(pool, questions, len(drawn), task.seed)
                examples += [_cot(problem, "random_cot", style) for problem in chosen]
    if not examples:
        raise UserError(f"mix={cell.config.mix.name}: no example; {task.name} has no reference solutions")
    write_jsonl(folder / "examples.jsonl", examples)
    in_test = len(cell.problems("train")) - len(problems)
    return {"sources": _table(cell, examples), "questions_in_test": in_test, "repeated_random_cot": repeated}


def _has_rationale(problem: Problem) -> bool:
    """Two MATH training rows have an empty answer: nothing to train on."""
    return bool(problem.solution and problem.answer)


def _split(problems: list[Problem], max_cot: int | None, rng: random.Random) -> tuple[list[Problem], list[Problem]]:
    if max_cot is None or max_cot >= len(problems):
        return problems, problems
    chosen = set(rng.sample(range(len(problems)), max_cot))
    cot = [problem for index, problem in enumerate(problems) if index in chosen]
    return cot, [problem for index, problem in enumerate(problems) if index not in chosen]


def _draw_corrections(cell: Cell, pool: list[Problem]) -> list[tuple[Problem, Correction]]:
    by_id = {problem.id: problem for problem in pool}
    corrections = cell.artifacts["correct"].rows("corrections.jsonl", Correction)
    usable = [(by_id[each.problem_id], each) for each in corrections if each.accepted and each.problem_id in by_id]
    if not usable:
        raise UserError(
            f"mix={cell.config.mix.name}: not one of {len(corrections)} corrections was accepted for the "
            f"{len(pool)} questions they are drawn from ({cell.artifacts['correct'].path / 'corrections.jsonl'} says "
            "why); sample more solutions (sampler.samples=, limit=) or choose another corrector, or mix=cot"
        )
    most = cell.config.task.max_extra
    if most is not None and most < len(usable):
        usable = random.Random(cell.config.task.seed).sample(usable, most)
    return usable


def _draw_questions(pool: list[Problem], used: list[Problem], count: int, seed: int) -> tuple[list[Problem], int]:
    """`count` random questions with a rationale, and how many of them are CoT examples already."""
    rng = random.Random(seed)
    already = {problem.id for problem in used}
    pool = [problem for problem in pool if _has_rationale(problem)]
    drawn: list[Problem] = []
    while len(drawn) < count and pool:
        drawn += rng.sample(pool, min(len(pool), count - len(drawn)))
    new = len({problem.id for problem in drawn} - already)
    return drawn, len(drawn) - new


def _cot(problem: Problem, source: str, style: str) -> Example:
    steps = formats.reference_steps(problem.solution)
    completion = formats.cot_completion(steps, problem.answer)
    return Example(problem.id, source, formats.cot_prompt(style, problem.question), completion)


def _correction(problem: Problem, correction: Correction) -> Example:
    prompt = formats.correction_prompt(problem.question, correction.wrong_steps)
    completion = formats.correction_completion(
        correction.incorrect_step, correction.explanation, correction.correct_steps
    )
    return Example(problem.id, "correction", prompt, completion)


def _corrected_cot(problem: Problem, correction: Correction, style: str) -> Example:
    """The steps kept and the steps corrected, as one CoT solution."""
    kept = correction.wrong_steps[: correction.incorrect_step - 1]
    completion = formats.one_line([*kept, *correction.correct_steps])
    return Example(problem.id, "corrected_cot", formats.cot_prompt(style, problem.question), completion)


def _table(cell: Cell, examples: Iterable[Example]) -> dict[str, dict[str, int]]:
    """Examples, distinct questions and tokens (prompt and completion, and completion alone) per source."""
    from lema.models.huggingface import encode_completion, encode_prompt, load_tokenizer

    tokenizer = load_tokenizer(cell.base)
    table: dict[str, Counter[str]] = {}
    questions: dict[str, set[str]] = {}
    for example in examples:
        target = len(encode_completion(tokenizer, example.completion))
        tokens = len(encode_prompt(tokenizer, example.prompt)) + target
        row = table.setdefault(example.source, Counter())
        row.update({"examples": 1, "tokens": tokens, "target_tokens": target})
        questions.setdefault(example.source, set()).add(example.problem_id)
    return {source: {**row, "questions": len(questions[source])} for source, row in table.items()}
