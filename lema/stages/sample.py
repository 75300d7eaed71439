"""sample: solutions of the training problems by one of the sampler's models, graded; the wrong ones get corrected.

Each model's solutions are an artifact of their own, so that adding a model samples only that one. It is the cell's own
backbone, untuned or as the CoT examples alone have tuned it, other weights, a model behind a server, or a file of
solutions that were made before.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from lema.artifacts import RESUME, Artifact, Given, Recipe, Shown, read_jsonl, write_jsonl
from lema.cell import Cell, Context
from lema.config import IF_SET, NO_EFFECT, Ask, Method, SourceConfig, SourceKind, Split
from lema.data import recorded, tasks
from lema.engines import LocalModel, Requests, ServedModel, served
from lema.grading.generated import answer_part
from lema.models.weights import Weights, chosen, weights
from lema.solving import Text, Wording, graded, solve
from lema.types import NO_PROBLEM, Problem, Selected, Solution, distinct, rules_version

_FACTS = ("solutions", "correct", "unanswered", "truncated", "wrong_paths")

SHOWN = Shown("solutions", losses={"truncated": "sampled solutions cut at the token limit"})


@dataclass(frozen=True)
class Settings:
    """Who answers, how often, and which solutions are wrong paths."""

    model: LocalModel | ServedModel | None  # None: recorded solutions
    style: str | None  # of the prompt; None after worked solutions
    samples: int | None  # of each question
    recorded_as: str | None  # the model's name, where a row of the file names none
    grader: str
    keep_unanswered: bool
    key: str = field(metadata=NO_EFFECT)  # where the model stands in the config
    step: int | None = field(default=None, metadata=IF_SET)  # of the checkpoint that answers
    method: Method | None = field(default=None, metadata=IF_SET)  # it is a whole model, or an adapter


@dataclass(frozen=True)
class Inputs:
    """The problems, and what the model is or has seen."""

    data: Artifact
    weights: Weights | None = None
    train: Artifact | None = None  # of a tuned model
    merge: Artifact | None = None
    demonstrations: Given | None = None
    recorded: Given | None = None  # the file
    published: Given | None = None  # the source of all training problems: a file may have solutions of any of them


def recipe(cell: Cell, name: str) -> Recipe:
    config, source, data = cell.config, cell.config.sampler.models[name], cell.artifacts["data"]
    key, label, model, style, tuned = _key(cell, name), name, None, None, source.kind is SourceKind.tuned
    made = cell.tuned.artifacts if tuned else {}
    if source.kind is SourceKind.recorded:
        published = tasks.trained_on(config.task)
        file = Given(recorded.sha256(source.recorded or "", f"{key}.recorded"), source.recorded)
        inputs = Inputs(data, recorded=file, published=Given(published.digest, published))
    else:
        style, demonstrated = _wording(cell, source)
        held = None if source.api else weights(source.weights) if source.weights else cell.base
        inputs = Inputs(data, held, made.get("train"), made.get("merge"), demonstrated)
        label = cell.tuned.arm if tuned else held.name if held else name
        four_bit = tuned and config.train.method is Method.qlora and "merge" not in made
        model = _model(cell, source, key, four_bit)
    settings = Settings(
        model=model,
        style=style,
        samples=config.sampler.samples if model else None,
        recorded_as=None if model else name,
        grader=config.task.trained.grader,
        keep_unanswered=config.sampler.keep_unanswered,
        key=key,
        step=made["select"].read(Selected).step if tuned else None,
        method=config.train.method if tuned else None,
    )
    version = 4 + rules_version(settings.grader)
    return Recipe("sample", f"{cell.train_label}-{label}", version, settings=settings, inputs=inputs, shown=SHOWN)


def _key(cell: Cell, name: str) -> str:
    """Where a source stands in the config, for messages."""
    sampler = cell.config.sampler
    return "sampler.other" if sampler.models[name] is sampler.other else f"sampler.models.{name}"


def _model(cell: Cell, source: SourceConfig, key: str, four_bit: bool = False) -> LocalModel | ServedModel:
    if source.api:
        return ServedModel(source.api, f"{key}.api")
    sampler = cell.config.sampler
    return LocalModel(
        engine=cell.config.engine,
        computation=(source.weights or cell.config.backbone).computation,
        max_new_tokens=sampler.max_new_tokens,
        four_bit=four_bit,
        temperature=sampler.temperature,
        seed=sampler.seed,
    )


def _splits(model: LocalModel | ServedModel) -> list[str]:
    """A strong model is paid by the question; others also answer those that another run holds out as dev."""
    return ["train"] if isinstance(model, ServedModel) else ["train", "dev"]


def _wording(cell: Cell, source: SourceConfig) -> tuple[str | None, Given | None]:
    """The style in which a model is asked, or the worked solutions that it sees first."""
    if (source.prompt or (Ask.few_shot if source.api else None)) is not Ask.few_shot:
        return source.prompt or (source.weights or cell.config.backbone).prompt, None
    return None, cell.demonstrations(cell.config.task.trained.grader)


def requests(cell: Cell, name: str) -> list[Requests]:
    """What is asked of a server that may be paid: each question, as often as it is sampled."""
    source = cell.config.sampler.models[name]
    model = None if source.kind is SourceKind.recorded else _model(cell, source, _key(cell, name))
    if not (model and (server := served(model))):
        return []
    style, shown = _wording(cell, source)
    wording, size = Wording(style, shown and shown.value), None
    if "data" in cell.artifacts:
        size = fmean(len(wording.text(each).encode()) for each in cell.artifacts["data"].stream("train.jsonl", Problem))
    questions = cell.num_questions + (cell.num_asked(Split.dev) if "dev" in _splits(model) else 0)
    number, text = questions * cell.config.sampler.samples, wording.text(NO_PROBLEM)
    return [Requests(f"solutions of {name}", server.section, server.api, (number, number), text, size)]


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `solutions.jsonl`, all of them, and `wrong.jsonl`, each wrong text of a problem once."""
    counts, costs = Counter[str](), {}
    if settings.model is None:
        solutions = graded(_recorded(settings, inputs, context, counts), settings.grader)
    else:
        problems = [each for split in _splits(settings.model) for each in inputs.data.rows(f"{split}.jsonl", Problem)]
        asked = [(problem, number) for problem in problems for number in range(settings.samples or 1)]
        wording = Wording(settings.style, inputs.demonstrations and inputs.demonstrations.value)
        train, merge = (each and each.path for each in (inputs.train, inputs.merge))
        held = chosen(inputs.weights, settings.method, train, settings.step, merge)
        engine = context.engine(settings.model, *held)
        solutions = solve(asked, wording, engine, settings.grader, folder / RESUME / "sample", whole=False)
        costs = engine.costs and engine.costs | {"failed": len(asked) - len(solutions)}  # a text cut off is a solution
    write_jsonl(folder / "solutions.jsonl", solutions)
    made, models = read_jsonl(folder / "solutions.jsonl", Solution), set[str]()
    wrong = _wrong(made, settings.keep_unanswered, counts, models)
    write_jsonl(folder / "wrong.jsonl", distinct(wrong, counts))
    return {fact: counts.pop(fact, 0) for fact in _FACTS} | dict(counts) | {"models": sorted(models)} | costs


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


def _recorded(settings: Settings, inputs: Inputs, context: Context, counts: Counter[str]) -> Iterator[Text]:
    """The texts of a file; `sample` numbers those of each problem."""
    assert inputs.recorded
    assert inputs.published
    assert settings.recorded_as
    number = Counter[str]()
    own = {problem.id for problem in inputs.data.rows("train.jsonl", Problem)}
    official = tasks.published(inputs.published.value)[0]  # those too that are held out, or beyond `limit`
    rows = recorded.read(inputs.recorded.value, official, context.test_questions(), f"{settings.key}.recorded", counts)
    for problem, text, model in rows:
        if problem.id in own:
            name, part = model or settings.recorded_as, answer_part(text)
            yield Text(problem, name, number[problem.id], part, truncated=False)
            number[problem.id] += 1
        else:
            counts["question that is not trained on"] += 1
