"""mix: the training examples of one arm, in the paper's formats.

`task.max_cot` questions, drawn by `task.seed`, give the CoT examples that every arm has; the others are the pool of the
extras (all are, when none is left). One draw of accepted corrections in the pool serves three arms: `lema` trains on
them, `cot_matched` on their corrected solutions as CoT, `cot_random` on as many CoT examples of random pool questions.
"""

import random
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lema.artifacts import Recipe, write_jsonl
from lema.cell import Cell
from lema.config import Extra
from lema.prompts import formats
from lema.types import Correction, Example, Problem, UserError


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
    label = f"{cell.train_label}-{cell.backbone_label}-{config['name']}"
    return Recipe("mix", label, version=1, config=config, inputs=inputs)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `examples.jsonl`. A training question that is a test question too is left out and counted."""
    task, style = cell.config.task, cell.config.backbone.prompt
    tested = {problem.question for problem in cell.problems("test")}
    train = {problem.id: problem for problem in cell.problems("train") if problem.question not in tested}
    chosen = set(random.Random(task.seed).sample(list(train), min(task.max_cot or len(train), len(train))))
    pool = {name: problem for name, problem in train.items() if name not in chosen} or train
    # Two MATH training rows have an empty answer: nothing to train on.
    explained = [problem for problem in train.values() if problem.solution and problem.answer]
    examples = [Example(each.id, "cot", *formats.cot(style, each)) for each in explained if each.id in chosen]
    if needs_corrections(cell):
        examples += _extra(cell, pool, [problem for problem in explained if problem.id in pool])
    if not examples:
        raise UserError(f"mix={cell.config.mix.name}: no example; {task.name} has no reference solutions")
    write_jsonl(folder / "examples.jsonl", examples)
    extra = [example.problem_id for example in examples if example.source == "random_cot"]
    return {
        "sources": _table(cell, examples),
        "questions_in_test": len(cell.problems("train")) - len(train),
        "repeated_random_cot": len(extra) - len(set(extra) - chosen),
    }


def _extra(cell: Cell, pool: dict[str, Problem], explained: list[Problem]) -> list[Example]:
    """The accepted corrections of the pool as examples, or as many of its explained questions as CoT examples."""
    task, style, source = cell.config.task, cell.config.backbone.prompt, cell.artifacts["correct"]
    corrections = source.rows("corrections.jsonl", Correction)
    drawn = [each for each in corrections if each.accepted and each.problem_id in pool]
    if not drawn:
        raise UserError(
            f"mix={cell.config.mix.name}: not one of {len(corrections)} corrections was accepted for the "
            f"{len(pool)} questions they are drawn from ({source.path / 'corrections.jsonl'} says why); "
            "sample more solutions (sampler.samples=, limit=) or choose another corrector, or mix=cot"
        )
    if task.max_extra is not None and task.max_extra < len(drawn):
        drawn = random.Random(task.seed).sample(drawn, task.max_extra)
    if cell.config.mix.extra is Extra.corrections:
        return [_correction(pool[each.problem_id], each) for each in drawn]
    if cell.config.mix.extra is Extra.corrected_cot:
        return [_corrected_cot(pool[each.problem_id], each, style) for each in drawn]
    rng, chosen = random.Random(task.seed), []
    while len(chosen) < len(drawn) and explained:
        chosen += rng.sample(explained, min(len(explained), len(drawn) - len(chosen)))
    return [Example(problem.id, "random_cot", *formats.cot(style, problem)) for problem in chosen]


def _corrected_cot(problem: Problem, correction: Correction, style: str) -> Example:
    """The steps kept and the steps corrected, as one CoT solution."""
    completion = formats.cot_completion(_whole(correction), problem.candidates)
    prompt = formats.cot_prompt(style, problem.question, problem.candidates)
    return Example(problem.id, "corrected_cot", prompt, completion)


def _correction(problem: Problem, correction: Correction) -> Example:
    prompt = formats.correction_prompt(problem.question, correction.wrong_steps, problem.candidates)
    steps = _whole(correction) if problem.candidates else correction.correct_steps
    told = (correction.incorrect_step, correction.explanation, steps, problem.candidates)
    return Example(problem.id, "correction", prompt, formats.correction_completion(*told))


def _whole(correction: Correction) -> list[str]:
    return [*correction.wrong_steps[: correction.incorrect_step - 1], *correction.correct_steps]


def _table(cell: Cell, examples: list[Example]) -> dict[str, dict[str, int]]:
    """Examples, tokens (prompt and completion, and completion alone) and distinct questions per source."""
    from lema.models.huggingface import encode_completion, encode_prompt, load_tokenizer

    tokenizer, table = load_tokenizer(cell.base), {}
    for source in dict.fromkeys(example.source for example in examples):
        rows, target, prompt = [example for example in examples if example.source == source], 0, 0
        for row in tqdm(rows, desc=f"mix {source}", disable=None):
            target += len(encode_completion(tokenizer, row.completion))
            prompt += len(encode_prompt(tokenizer, row.prompt))
        counts = {"examples": len(rows), "tokens": prompt + target, "target_tokens": target}
        table[source] = counts | {"questions": len({row.problem_id for row in rows})}
    return table
