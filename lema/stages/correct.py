"""correct: each wrong solution of a training question becomes a correction, or a rejection with its reason.

A correction is accepted when it keeps to the paper's form, its final answer is right, and it passes `corrector.filter`.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from lema.artifacts import RESUME, Artifact, Given, Recipe, Shown, write_jsonl
from lema.cell import Cell, Context
from lema.config import IF_SET, NO_EFFECT, CorrectionMethod, Grader
from lema.correctors import model, reference, structural, verifier
from lema.correctors.checking import Item, checked, ends_rightly
from lema.engines import LocalModel, Requests, ServedModel, writer
from lema.models.weights import Weights, weights
from lema.prompts.formats import split_steps
from lema.types import (
    MAY_BE_RIGHT,
    NO_ERROR,
    NO_PROBLEM,
    Correction,
    Labelled,
    Problem,
    Sampled,
    Solution,
    UserError,
    distinct,
    rules_version,
)

log = logging.getLogger(__name__)

# "model", "level", "corrector", "kind" or "all" -> which one -> how many were accepted, and how many rejected why.
_Outcomes = dict[str, dict[str, Counter[str]]]
SHOWN = Shown("corrections", files=("corrections.jsonl",))
_WRONG_SHARE = (0.2, 1.0)  # of sampled solutions, before any is sampled
_VERIFIER = "corrector.filter.verifier"


@dataclass(frozen=True)
class Settings:
    """Who corrects, and how often a path is tried."""

    model: LocalModel | ServedModel | None  # None: the reference solution corrects
    tries: int
    grader: str
    paper_success: dict[str, float] = field(metadata=NO_EFFECT)  # of the sampler's models, for the table that is shown
    may_be_right: bool = field(default=False, metadata=IF_SET)  # it may answer that no step is wrong
    agree: int | None = field(default=None, metadata=IF_SET)  # so many tries must name the same step
    structural: bool = field(default=False, metadata=IF_SET)
    verifier: LocalModel | ServedModel | None = field(default=None, metadata=IF_SET)


@dataclass(frozen=True)
class Inputs:
    """The mistakes, the questions they were made on, and what the corrector is and has seen."""

    data: Artifact | None
    samples: dict[str, Artifact]  # by the names of the sampler's models
    demonstrations: Given | None
    weights: Weights | None
    labelled: Artifact | None = None  # of an audit, in the place of data and samples
    verifier: Weights | None = None


def recipe(cell: Cell, audited: bool = False) -> Recipe:
    config, task = cell.config.corrector, cell.config.task
    models = {} if audited else cell.config.sampler.models
    by_model, verifies = config.method is not CorrectionMethod.reference, config.filter.verifier
    settings = Settings(
        model=writer(config, cell.config.engine, "corrector") if by_model else None,
        tries=config.tries,
        grader=task.trained.grader,
        # What the paper says of its models is about MATH.
        paper_success={
            name: each.paper_success
            for name, each in models.items()
            if each.paper_success and task.trained.grader is Grader.math
        },
        may_be_right=config.prompt == MAY_BE_RIGHT if by_model else audited,
        agree=config.filter.agree,
        structural=config.filter.structural,
        verifier=writer(verifies, cell.config.engine, _VERIFIER) if verifies else None,
    )
    inputs = Inputs(
        data=None if audited else cell.artifacts["data"],
        samples={name: cell.artifacts[f"sample_{name}"] for name in models},
        demonstrations=_shown(cell) if by_model else None,
        weights=weights(config.weights) if config.weights else None,
        labelled=cell.artifacts["labelled"] if audited else None,
        verifier=weights(verifies.weights) if verifies and verifies.weights else None,
    )
    changes = rules_version(settings.grader)
    if audited:  # what says nothing about training questions lies in a folder of its own
        label = f"{cell.artifacts['labelled'].path.name.rpartition('-')[0]}-{config.name}"
        return Recipe("audit", label, 3 + changes, settings=settings, inputs=inputs, shown=SHOWN)
    label = f"{cell.train_label}-{cell.sampler_label}-{config.name}"
    return Recipe("correct", label, 6 + changes, settings=settings, inputs=inputs, shown=SHOWN)


def _shown(cell: Cell) -> Given:
    """The instruction and worked corrections that a corrector sees first."""
    return cell.demonstrations(cell.config.task.trained.grader, "corrector.prompt")


def requests(cell: Cell, audited: bool = False) -> list[Requests]:
    """What is asked of servers: each wrong or labelled solution, at most as often as it is tried; and verdicts."""
    config, verifies = cell.config.corrector, cell.config.corrector.filter.verifier
    by_api, served, asked = config.method is CorrectionMethod.api, verifies and verifies.model, list[Requests]()
    if not by_api and not served:
        return asked
    shown = _shown(cell).value if by_api else ""
    (low, high), size = _paths(cell, audited, shown)
    if by_api:
        number = low * (config.filter.agree or 1), high * config.tries
        asked.append(
            Requests("corrections", "corrector", config.api, number, model.prompt(shown, NO_PROBLEM, []), size)
        )
    if verifies and served:  # of what is accepted, which may be nothing
        asked.append(Requests("verdicts", _VERIFIER, verifies.api, (0, high), verifier.prompt(NO_PROBLEM)))
    return asked


def _paths(cell: Cell, audited: bool, shown: str) -> tuple[tuple[int, int], float | None]:
    """How many solutions are corrected, from low to high, and once all are known the mean bytes of their prompts."""
    if audited:
        items = cell.artifacts["labelled"].summary["items"] if "labelled" in cell.artifacts else 0
        return (items, items), None
    samples = {name: cell.artifacts.get(f"sample_{name}") for name in cell.config.sampler.models}
    made, sampled = [each for each in samples.values() if each], cell.num_questions * cell.config.sampler.samples
    if len(made) == len(samples) and "data" in cell.artifacts:  # all paths are known
        problems = {problem.id: problem for problem in cell.artifacts["data"].rows("train.jsonl", Problem)}
        paths = [model.prompt(shown, item[0], item[2]) for item in _wrong(problems, made, Counter())]
        return (len(paths), len(paths)), sum(len(path.encode()) for path in paths) / max(1, len(paths))
    known = sum(each.read(Sampled).wrong_paths for each in made)
    low, high = (known + (len(samples) - len(made)) * ceil(sampled * share) for share in _WRONG_SHARE)
    # Of wrong paths that are known, some may be of questions that are not trained on, or the same as another model's.
    return (low, high), None


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `corrections.jsonl`, accepted and rejected."""
    counts = Counter[str]()
    source, name = (inputs.labelled, "problems.jsonl") if inputs.labelled else (inputs.data, "train.jsonl")
    assert source
    problems = {problem.id: problem for problem in source.rows(name, Problem)}
    wrong = _labelled(problems, source) if inputs.labelled else _wrong(problems, inputs.samples.values(), counts)
    corrections, costs = _corrected(wrong, settings, inputs, context, folder)
    told = [f"{settings.agree} of {settings.tries} agree"] if settings.agree else []
    told += ["structural"] * settings.structural
    if settings.verifier:
        engine = context.engine(settings.verifier, inputs.verifier)
        corrections, names = verifier.verified([*corrections], problems, engine, folder / RESUME / "verdicts")
        told.append(f"verified by {' and '.join(names)}" if names else "verified")
        costs = {name: costs.get(name, 0) + engine.costs.get(name, 0) for name in costs | engine.costs}
    found: _Outcomes = {"all": {"": Counter()}, "model": {}, "level": {}, "corrector": {}, "kind": {}}
    write_jsonl(folder / "corrections.jsonl", _counted(corrections, problems, found))
    outcomes = {part: dict(sorted(own.items())) for part, own in found.items()}
    theirs = {name: inputs.samples[name].read(Sampled).models for name in settings.paper_success}
    total = outcomes["all"][""]
    if not inputs.labelled:
        _show(outcomes, {model: settings.paper_success[name] for name, models in theirs.items() for model in models})
    elif not total.keys() - model.REFUSED:
        why = ", ".join(f"{reason} {count:,}" for reason, count in total.items())
        raise UserError(f"corrector: said nothing of all {total.total():,} solutions ({why}); choose another model")
    return (
        {
            "corrections": total.total(),
            "accepted": total["accepted"],
            "rejected": {reason: count for reason, count in total.items() if reason != "accepted"},
            "kinds": {name: own.total() for name, own in outcomes["kind"].items()},
            "correctors": list(outcomes["corrector"]),
            "by_model": {name: dict(own) for name, own in outcomes["model"].items()},
            "by_level": {name: dict(own) for name, own in outcomes["level"].items()},
            "repeated": counts["repeated"],
        }
        | ({"filter": ", ".join(told)} if told else {})
        | costs
    )


def _corrected(
    wrong: Iterator[Item], settings: Settings, inputs: Inputs, context: Context, folder: Path
) -> tuple[Iterable[Correction], dict[str, Any]]:
    """What the corrector says of each solution, and what it cost."""
    check = structural.filtered if settings.structural else lambda each: each
    if settings.model is None:  # one by one: recorded solutions may be millions
        return (check(_by_reference(item, settings)) for item in wrong), {}
    assert inputs.demonstrations
    engine, shown = context.engine(settings.model, inputs.weights), inputs.demonstrations.value
    how = (settings.tries, settings.grader, engine, folder / RESUME, settings.may_be_right, settings.agree or 1)
    return model.correct_all(list(wrong), shown, *how, check), engine.costs


def _by_reference(item: Item, settings: Settings) -> Correction:
    """The reference solution's correction, or in an audit its word that nothing is wrong."""
    if settings.may_be_right and reference.settles_all(item[0], item[2]) and ends_rightly(item, settings.grader):
        return checked(item, None, NO_ERROR, "reference", settings.grader)
    return checked(item, reference.correct(item[0], item[2]), None, "reference", settings.grader)


def _labelled(problems: dict[str, Problem], source: Artifact) -> Iterator[Item]:
    """The solutions with human labels, right ones too."""
    for each in source.stream("labels.jsonl", Labelled):
        solution = Solution(each.problem_id, each.generator, 0, "\n".join(each.steps), None, False, False, False)
        yield problems[each.problem_id], solution, each.steps


def _wrong(problems: dict[str, Problem], samples: Iterable[Artifact], counts: Counter[str]) -> Iterator[Item]:
    """The wrong solutions of training questions, of all models, each text of a problem once."""
    wrong = (each for artifact in samples for each in artifact.stream("wrong.jsonl", Solution))
    for solution in distinct((each for each in wrong if each.problem_id in problems), counts):  # not dev questions
        yield problems[solution.problem_id], solution, split_steps(solution.text)


def _counted(corrections: Iterable[Correction], problems: dict[str, Problem], found: _Outcomes) -> Iterator[Correction]:
    """The same corrections, each counted in `found`."""
    for each in corrections:
        level = problems[each.problem_id].level
        parts = {"all": "", "model": each.model, "level": level, "corrector": each.corrector, "kind": each.kind}
        for part, name in parts.items():
            if name is not None:
                found[part].setdefault(name, Counter())[each.reason or "accepted"] += 1
        yield each


def _show(outcomes: _Outcomes, paper: dict[str, float]) -> None:
    """Print success and reasons by model and by level; `paper` has the paper's success rate of some models."""
    columns = "%-16s %-24s %9s %9s %7s %8s  %s"
    log.info(columns, "correct", "", "paths", "accepted", "%", "paper %", "rejected")
    for name, counts in [*outcomes["model"].items(), *outcomes["level"].items()]:
        share, theirs = f"{100 * counts['accepted'] / counts.total():.1f}", paper.get(name)
        why = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common() if reason != "accepted")
        numbers = f"{counts.total():,}", f"{counts['accepted']:,}", share, f"{100 * theirs:.1f}" if theirs else "–"
        log.info(columns, "", name, *numbers, why)
