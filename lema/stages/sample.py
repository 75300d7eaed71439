"""sample: solutions of the training problems by one of the sampler's models, graded; the wrong ones get corrected.

Each model's solutions are an artifact of their own, so that adding a model samples only that one. It is the cell's own
backbone, other weights, a model behind a server, or a file of solutions that were made before.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lema.artifacts import RESUME, Recipe, read_jsonl, write_jsonl
from lema.cell import Cell
from lema.config import SourceKind
from lema.data import recorded, tasks
from lema.grading import grade_all
from lema.grading.generated import answer_part
from lema.identity import api_identity, digest
from lema.types import Problem, Solution, distinct

_CHUNK = 10_000  # texts that are graded together: enough to keep the symbolic workers busy
_FACTS = ("solutions", "correct", "unanswered", "truncated", "wrong_paths")


class Sampled(NamedTuple):
    """A text that is to be graded."""

    problem: Problem
    model: str
    sample: int
    text: str
    truncated: bool


def recipe(cell: Cell, name: str) -> Recipe:
    sampler, source = cell.config.sampler, cell.config.sampler.models[name]
    config: dict[str, Any] = {"grader": cell.config.task.trained.grader, "keep_unanswered": sampler.keep_unanswered}
    inputs, label = {"data": cell.artifacts["data"].digest}, name
    if source.kind is SourceKind.recorded:
        inputs["recorded"] = recorded.sha256(source.recorded or "", _key(name, "recorded"))
    else:
        few_shot = cell.few_shot(source)
        config |= {"samples": sampler.samples, "few_shot": few_shot and digest(few_shot), "style": source.prompt}
    if source.api:
        config |= api_identity(source.api)
    elif source.kind is not SourceKind.recorded:
        model, weights = source.weights or cell.config.backbone, cell.weights_of(source)
        own = {field: getattr(model, field) for field in ("prompt", "precision", "attention")}
        how = {field: getattr(sampler, field) for field in ("temperature", "max_new_tokens", "batch_size", "seed")}
        config, inputs["model"], label = config | own | how, weights.digest, weights.name
    return Recipe("sample", f"{cell.train_label}-{label}", version=4, config=config, inputs=inputs)


def build(cell: Cell, folder: Path, name: str) -> dict[str, Any]:
    """Writes `solutions.jsonl`, all of them, and `wrong.jsonl`, each wrong text of a problem once."""
    kind, counts, spent = cell.config.sampler.models[name].kind, Counter[str](), {}
    if kind is SourceKind.recorded:
        solutions = _graded(cell, _recorded(cell, name, counts))
    elif kind is SourceKind.api:
        asked, spent = _asked(cell, name)
        solutions = _graded(cell, asked)
    else:
        solutions = _solved(cell, name, folder / RESUME / "sample")
    write_jsonl(folder / "solutions.jsonl", solutions)
    made, models = read_jsonl(folder / "solutions.jsonl", Solution), set[str]()
    wrong = _wrong(made, cell.config.sampler.keep_unanswered, counts, models)
    write_jsonl(folder / "wrong.jsonl", distinct(wrong, counts))
    return {fact: counts.pop(fact, 0) for fact in _FACTS} | dict(counts) | {"models": sorted(models)} | spent


def _wrong(
    solutions: Iterable[Solution], keep_unanswered: bool, counts: Counter[str], models: set[str]
) -> Iterator[Solution]:
    """The wrong ones; `counts` gets the facts of all, `models` who made them."""
    for solution in solutions:
        answered, text = solution.answer is not None, solution.text.strip()
        counts["solutions"] += 1
        counts["correct"] += solution.correct
        counts["unanswered"] += not answered
        counts["truncated"] += solution.truncated
        models.add(solution.model)
        if text and not solution.correct and (answered or keep_unanswered):
            yield solution


def _solved(cell: Cell, name: str, resume: Path) -> list[Solution]:
    """By weights that are loaded here."""
    from lema.models.huggingface import solve

    sampler, source = cell.config.sampler, cell.config.sampler.models[name]
    return solve(
        cell.problems("train", "dev"),  # so these solutions serve whichever questions a mix holds out
        source.weights or cell.config.backbone,
        cell.weights_of(source),
        grader=cell.config.task.trained.grader,
        style=source.prompt,
        few_shot=cell.few_shot(source),
        max_new_tokens=sampler.max_new_tokens,
        temperature=sampler.temperature,
        samples=sampler.samples,
        seed=sampler.seed,
        batch_size=sampler.batch_size,
        resume=resume,
        whole=False,
    )


def _asked(cell: Cell, name: str) -> tuple[Iterator[Sampled], dict[str, Any]]:
    """By a model behind a server: its texts, and what they cost. One that never came is no solution, and counted."""
    source, samples = cell.config.sampler.models[name], range(cell.config.sampler.samples)
    assert source.api
    asked = [(problem, number) for problem in cell.problems("train") for number in samples]
    prompts = {problem.id: cell.sample_prompt(source, problem) for problem, _ in asked}
    wanted = [(prompts[problem.id], number) for problem, number in asked]
    answers, spent = cell.ask(wanted, api=source.api, section=_key(name, "api"))
    texts = (
        Sampled(problem, answer.model, number, answer_part(answer.text), answer.ended == "length")
        for (problem, number), answer in zip(asked, answers, strict=True)
        if answer.text is not None
    )
    return texts, spent | {"failed": sum(answer.text is None for answer in answers)}  # one cut off is a solution


def _recorded(cell: Cell, name: str, counts: Counter[str]) -> Iterator[Sampled]:
    """From a file; `sample` numbers the texts of each problem."""
    file, number = cell.config.sampler.models[name].recorded or "", Counter[str]()
    own = {problem.id for problem in cell.problems("train")}
    official = tasks.published(cell.config.task)[0]  # those too that are held out, or beyond `limit`
    for problem, text, model in recorded.read(file, official, cell.test_questions(), _key(name, "recorded"), counts):
        if problem.id in own:
            yield Sampled(problem, model or name, number[problem.id], answer_part(text), truncated=False)
            number[problem.id] += 1
        else:
            counts["question that is not trained on"] += 1


def _graded(cell: Cell, texts: Iterator[Sampled]) -> Iterator[Solution]:
    grader = cell.config.task.trained.grader
    while chunk := list(islice(texts, _CHUNK)):
        items = [(each.text, each.problem.answer, each.problem.candidates) for each in chunk]
        verdicts = zip(grade_all(items, grader), grade_all(items, grader, "symbolic"), strict=True)
        for (problem, model, sample, text, truncated), (official, symbolic) in zip(chunk, verdicts, strict=True):
            verdict = (official.answer, official.correct, symbolic.correct)
            yield Solution(problem.id, model, sample, text, *verdict, truncated)


def _key(name: str, field: str) -> str:
    """Where a setting of a model stands in the config."""
    return f"sampler.models.{name}.{field}"
