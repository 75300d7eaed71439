"""mix: the training examples of one arm, in the paper's formats.

`task.max_cot` questions, drawn by `task.seed`, give the CoT examples; the others are the pool of the extras (all are,
when none is left). One draw of accepted corrections in the pool serves every arm: `lema` trains on them, `cot_matched`
on their corrected solutions as CoT, `cot_random` on as many CoT examples of random pool questions, and so on: what an
arm takes is its file in `conf/mix/`. `mistakes` has the wrong solutions of that draw, `own_right` right ones of the
same questions, by whoever made the mistakes.
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from lema.artifacts import Artifact, Recipe, Shown, write_jsonl
from lema.cell import Cell, Context
from lema.config import NO_EFFECT, CotPart, Extra, MixConfig, TrainConfig
from lema.console.progress import Progress
from lema.correctors import drawing
from lema.models.weights import Weights
from lema.prompts import formats
from lema.types import Correction, Example, Problem, Solution, UserError, distinct

log = logging.getLogger(__name__)
Item = TypeVar("Item")
_Drawn = list[tuple[Problem, Correction]]
_CountTokens = Callable[[Example], tuple[int, int]]  # those without loss, and those with it
_WHOLE = MixConfig(name="lema", cot=CotPart.all, extra=Extra.corrections, match_tokens=False)

_REPEATED = "{arm}: random questions that are CoT examples already, the pool having no others"
_MISSING = "{arm}: corrections that lema has and the other model's mistakes did not give"
SHOWN = Shown("mix", losses={"repeated_random_cot": _REPEATED, "missing_corrections": _MISSING})


@dataclass(frozen=True)
class Settings:
    """What the arm is made of."""

    mix: MixConfig
    prompt: str
    seed: int
    max_cot: int | None
    max_extra: int | None
    train: TrainConfig = field(metadata=NO_EFFECT)  # its limits, for the examples that are shown


@dataclass(frozen=True)
class Inputs:
    """What examples are made from, and the tokenizer that counts them."""

    data: Artifact
    tokenizer: Weights
    rationales: Artifact | None
    corrections: Artifact | None  # of an arm that needs at least their number
    other_corrections: Artifact | None  # of another model's mistakes
    samples: dict[str, Artifact]  # by the names of the sampler's models, for an arm of right ones


def recipe(cell: Cell) -> Recipe:
    config, task, made = cell.config, cell.config.task, cell.artifacts
    style = config.backbone.prompt
    settings = Settings(config.mix, style, task.seed, task.max_cot, task.max_extra, config.train)
    inputs = Inputs(
        data=made["data"],
        tokenizer=cell.base,
        rationales=made.get("rationales"),
        corrections=made.get("correct") if config.mix.extra is not Extra.none else None,  # `evaluation.learnt` has them
        other_corrections=made.get("other_correct"),
        samples={
            name: made[f"sample_{name}"]
            for name in config.sampler.models
            if config.mix.extra is Extra.own_right and f"sample_{name}" in made
        },
    )
    label = f"{cell.train_label}-{cell.backbone_label}-{config.mix.name}"
    return Recipe("mix", label, version=3, settings=settings, inputs=inputs, shown=SHOWN)


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `examples.jsonl`."""
    mix, style, seed = settings.mix, settings.prompt, settings.seed
    train = {problem.id: problem for problem in inputs.data.rows("train.jsonl", Problem)}
    chosen, pool = drawing.parted(train, settings.max_cot, seed)
    # Two MATH training rows have an empty answer: nothing to train on.
    explained = [problem for problem in train.values() if problem.solution and problem.answer]
    cot = [Example(each.id, "cot", *formats.cot(style, each)) for each in explained if each.id in chosen]
    spare = [Example(each.id, "random_cot", *formats.cot(style, each)) for each in explained if each.id in pool]
    rationales = inputs.rationales.rows("rationales.jsonl", Solution) if inputs.rationales else []
    further = [_rationale(train[each.problem_id], each, style) for each in rationales if each.problem_id in train]
    cot += [example for example in further if example.problem_id in chosen]
    spare += [replace(example, source="random_cot") for example in further if example.problem_id in pool]
    drawn = _drawn(inputs.corrections, settings, pool, settings.max_extra) if inputs.corrections else []
    if mix.extra is Extra.other_corrections and inputs.other_corrections:
        extra = _made(_drawn(inputs.other_corrections, settings, pool, len(drawn)), mix, style)
    elif mix.extra is Extra.own_right:
        extra = _rounds(_own_right(inputs.samples, drawn, settings), len(drawn), seed)
    elif mix.extra is Extra.repeated_cot:
        extra = [replace(example, source="repeated_cot") for example in _rounds(cot, len(drawn), seed)]
    elif mix.extra is Extra.random_cot:
        extra = _rounds(spare, len(drawn), seed)
    else:
        extra = _made(drawn, mix, style)
    count = _token_counter(inputs.tokenizer)
    if mix.match_tokens:
        lema = [_correction(*each, _WHOLE) for each in drawn]  # the CoT examples are the same
        missing = sum(sum(count(each)) for each in lema) - sum(sum(count(each)) for each in extra)
        extra += filling(spare, missing, count, seed)
    examples = _joined(mix, cot, extra, seed)
    if not examples:
        raise UserError(f"mix={mix.name}: no example; the task has no reference solutions")
    rows = ({name: part for name, part in vars(each).items() if part or name != "weights"} for each in examples)
    write_jsonl(folder / "examples.jsonl", rows)
    _preview(settings, inputs.tokenizer, examples)
    random_cot = [(example.problem_id, example.completion) for example in examples if example.source == "random_cot"]
    repeated = len(random_cot) - len({each for each in random_cot if each[0] not in chosen})
    missing = len(drawn) - len(extra) if mix.extra is Extra.other_corrections else 0
    return _table(examples, count) | {"repeated_random_cot": repeated, "missing_corrections": missing}


def _drawn(source: Artifact, settings: Settings, pool: dict[str, Problem], most: int | None) -> _Drawn:
    """The same for every arm."""
    corrections, where = source.rows("corrections.jsonl", Correction), source.path / "corrections.jsonl"
    key = f"mix={settings.mix.name}"
    return drawing.drawn(corrections, pool, most, settings.seed, where=where, key=key, instead="mix=cot")


def _made(drawn: _Drawn, mix: MixConfig, style: str) -> list[Example]:
    """An example of each drawn correction, in the form of the arm; none for an arm without extras."""
    forms: dict[Extra, Callable[[Problem, Correction], Example]] = {
        Extra.corrections: lambda problem, each: _correction(problem, each, mix),
        Extra.other_corrections: lambda problem, each: _correction(problem, each, mix),
        Extra.inline_corrections: lambda problem, each: _inline(problem, each, mix, style),
        Extra.corrected_cot: lambda problem, each: _cot(problem, "corrected_cot", _whole(each), style),
        Extra.mistakes: lambda problem, each: _cot(problem, "mistake", each.wrong_steps, style),
        Extra.marked_mistakes: lambda problem, each: _cot(
            problem, "marked_mistake", [*each.wrong_steps, formats.INCORRECT], style
        ),
    }
    return [forms[mix.extra](*each) for each in drawn]


def _own_right(samples: Mapping[str, Artifact], drawn: _Drawn, settings: Settings) -> list[Example]:
    """Each right solution of the drawn questions that was sampled beside their mistakes."""
    asked = {problem.id: problem for problem, _ in drawn}
    sampled = (each for artifact in samples.values() for each in artifact.stream("solutions.jsonl", Solution))
    whole = (each for each in sampled if each.problem_id in asked and not each.truncated)
    texts = distinct((each for each in whole if each.correct and each.answer is not None), Counter())
    made = [_rationale(asked[each.problem_id], each, settings.prompt, "own_right") for each in texts]
    if not made:
        raise UserError(
            f"mix={settings.mix.name}: not one of the {len(asked)} questions whose mistakes were corrected has a right "
            "solution among the samples; sample more of each question (sampler.samples=), or run mix=cot_matched"
        )
    return made


def _rationale(problem: Problem, solution: Solution, style: str, source: str = "rationale") -> Example:
    """A model's right solution, in the form of the data set's own: its answer line says the gold answer."""
    steps = [step for step in formats.split_steps(solution.text) if not step.startswith("The answer is")]
    return _cot(problem, source, [*steps, formats.ANSWER.format(answer=problem.answer)], style)


def _cot(problem: Problem, source: str, steps: list[str], style: str) -> Example:
    prompt = formats.cot_prompt(style, problem.question, problem.candidates)
    return Example(problem.id, source, prompt, formats.cot_completion(steps, problem.candidates))


def _correction(problem: Problem, correction: Correction, mix: MixConfig) -> Example:
    without = mix.without
    prompt = formats.correction_prompt(problem.question, correction.wrong_steps, problem.candidates, without)
    steps = _whole(correction) if problem.candidates else correction.correct_steps
    told = (correction.incorrect_step, correction.explanation, steps, problem.candidates)
    return _weighed(problem, "correction", prompt, formats.correction_parts(*told, without), mix)


def _inline(problem: Problem, correction: Correction, mix: MixConfig, style: str) -> Example:
    told = (correction.wrong_steps, correction.incorrect_step, correction.explanation, correction.correct_steps)
    prompt = formats.cot_prompt(style, problem.question)
    return _weighed(problem, "inline_correction", prompt, formats.inline_parts(*told), mix)


def _weighed(problem: Problem, source: str, prompt: str, parts: Mapping[str, str], mix: MixConfig) -> Example:
    """An example whose completion is the parts, each with its weight; the incorrect step of an inline one has none."""
    weights = {part: {"before": 1.0, "wrong": 0.0, **vars(mix.weights)}[part] for part in parts}
    spans = tuple((len(text), weights[part]) for part, text in parts.items())
    return Example(problem.id, source, prompt, "".join(parts.values()), spans if {*weights.values()} != {1} else ())


def _whole(correction: Correction) -> list[str]:
    """The steps kept and the steps corrected."""
    return [*correction.wrong_steps[: correction.incorrect_step - 1], *correction.correct_steps]


def _rounds(examples: list[Example], number: int, seed: int) -> list[Example]:
    """`number` of them at random, all of them before one comes again."""
    rng, chosen = random.Random(seed), []
    while len(chosen) < number and examples:
        chosen += rng.sample(examples, min(len(examples), number - len(chosen)))
    return chosen


def filling(examples: list[Example], tokens: int, count: _CountTokens, seed: int) -> list[Example]:
    """Examples at random, all of them before one comes again, to as near `tokens` as whole ones get."""
    rng, chosen = random.Random(seed), []
    while examples:
        for example in rng.sample(examples, len(examples)):
            size = sum(count(example))
            if size >= 2 * tokens:  # past `tokens` by as much as is missing without it, or more
                return chosen
            chosen.append(example)
            tokens -= size
    return chosen


def _joined(mix: MixConfig, cot: list[Example], extra: list[Example], seed: int) -> list[Example]:
    """The CoT examples that the arm has, then the extras.

    `cut` keeps the number of the CoT examples: the extras take the places of random ones, of half of them at most
    (the paper's take 39 %; where there are more extras than that, random ones of them).
    """
    if mix.cot is CotPart.cut:
        rng, places = random.Random(seed), min(len(extra), len(cot) // 2)
        cot, extra = _some(cot, len(cot) - places, rng), _some(extra, places, rng)
    return extra if mix.cot is CotPart.none else cot + extra


def _some(items: list[Item], number: int, rng: random.Random) -> list[Item]:
    """`number` of the items at random, in their order."""
    return [items[index] for index in sorted(rng.sample(range(len(items)), number))]


def _token_counter(source: Weights) -> _CountTokens:
    """Counts an example's tokens by the backbone's tokenizer, BOS and EOS included, before training cuts any."""
    from lema.models.encoding import encode_completion, encode_prompt, loss_weights
    from lema.models.huggingface import load_tokenizer

    tokenizer = load_tokenizer(source)

    @cache
    def count(example: Example) -> tuple[int, int]:
        prompt, completion = encode_prompt(tokenizer, example.prompt), encode_completion(tokenizer, example.completion)
        if (spans := example.weights) and not tokenizer.is_fast:
            why = "the tokenizer does not say where its tokens lie, as parts without loss or with weights need"
            raise UserError(f"mix: {why}; run mix=lema without mix.weights")
        masked = loss_weights(tokenizer, example.completion, spans).count(0) if spans else 0
        return len(prompt) + masked, len(completion) - masked

    return count


def _preview(settings: Settings, source: Weights, examples: list[Example]) -> None:
    """Show three of them as training gets them."""
    from lema.models.batches import encode, preview
    from lema.models.huggingface import load_tokenizer

    tokenizer, shown = load_tokenizer(source), _some(examples, min(3, len(examples)), random.Random(settings.seed))
    rows, _ = encode(shown, tokenizer, settings.train)
    log.info("%-16s %d of the examples, trained on between ⟦ and ⟧\n%s", "mix", len(shown), preview(rows, tokenizer))


def _table(examples: list[Example], count: _CountTokens) -> dict[str, Any]:
    """Examples, tokens (all of them, and those with loss) and distinct questions, by source and in all."""
    with Progress("example", len(examples)) as progress:
        for example in progress.over(examples):
            count(example)

    def row(rows: list[Example]) -> dict[str, int]:
        prompt, target = (sum(part) for part in zip(*map(count, rows), strict=True))
        counts = {"examples": len(rows), "tokens": prompt + target, "target_tokens": target}
        return counts | {"questions": len({example.problem_id for example in rows})}

    names = dict.fromkeys(example.source for example in examples)
    sources, total = {name: row([each for each in examples if each.source == name]) for name in names}, row(examples)
    log.info("%-16s %12s %12s %14s %12s", "mix", *(name.replace("_", " ") for name in total))
    for name, counts in [*sources.items(), ("total", total)]:
        log.info("%-16s %12s %12s %14s %12s", name.replace("_", " "), *(f"{number:,}" for number in counts.values()))
    return {"sources": sources, "total": total}
