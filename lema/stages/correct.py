"""correct: each wrong solution of a training question becomes a correction, or a rejection with its reason.

A correction is accepted when it keeps to the paper's form and its final answer is right.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lema.api.journal import Answer
from lema.artifacts import RESUME, Recipe, Shown, write_jsonl
from lema.cell import Cell
from lema.config import CorrectionMethod
from lema.correctors import model, reference
from lema.correctors.checking import Item, checked
from lema.identity import api_identity, digest
from lema.prompts.formats import split_steps
from lema.types import Correction, Solution, distinct

log = logging.getLogger(__name__)

SHOWN = Shown("corrections", files=("corrections.jsonl",))


def recipe(cell: Cell) -> Recipe:
    corrector, grader = cell.config.corrector, cell.config.task.trained.grader
    config: dict[str, Any] = {"method": corrector.method, "grader": grader}
    samples = [cell.artifacts[f"sample_{name}"].digest for name in cell.config.sampler.models]
    inputs: dict[str, Any] = {"data": cell.artifacts["data"].digest, "samples": samples}
    if corrector.method is not CorrectionMethod.reference:
        config |= api_identity(corrector) | {"tries": corrector.tries, "demonstrations": digest(cell.corrections_shown)}
    if corrector.weights:
        config |= {name: getattr(corrector.weights, name) for name in ("precision", "attention")}
        config |= {name: getattr(cell.config.sampler, name) for name in ("batch_size", "seed")}
        inputs["model"] = cell.corrector_weights.digest
    label = f"{cell.train_label}-{cell.sampler_label}-{corrector.name}"
    return Recipe("correct", label, version=4, config=config, inputs=inputs, shown=SHOWN)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `corrections.jsonl`, accepted and rejected."""
    corrector, grader, spent = cell.config.corrector, cell.config.task.trained.grader, {}
    found: Counter[str] = Counter()
    wrong = _wrong(cell, found)
    if corrector.method is CorrectionMethod.reference:  # one by one: recorded solutions may be millions
        corrections: Iterable[Correction] = (
            checked(item, reference.correct(item[0], item[2]), None, "reference", grader)
            for item in tqdm(wrong, desc="correct", disable=None)
        )
    else:
        local = partial(_locally, cell, folder / RESUME)
        answering = local if corrector.weights else partial(cell.ask, api=corrector, section="corrector")
        corrections, spent = model.correct_all(list(wrong), cell.corrections_shown, corrector.tries, grader, answering)
    tally = Tally({problem.id: problem.level for problem in cell.problems("train")})
    write_jsonl(folder / "corrections.jsonl", tally.counted(corrections))
    tally.show(cell.paper_success)
    return tally.summary() | {"repeated": found["repeated"]} | spent


def _wrong(cell: Cell, counts: Counter[str]) -> Iterator[Item]:
    """The wrong solutions of training questions, of all models, each text of a problem once."""
    problems = {problem.id: problem for problem in cell.problems("train")}
    sampled = (cell.artifacts[f"sample_{name}"] for name in cell.config.sampler.models)
    wrong = (each for artifact in sampled for each in artifact.stream("wrong.jsonl", Solution))
    for solution in distinct((each for each in wrong if each.problem_id in problems), counts):  # not dev questions
        yield problems[solution.problem_id], solution, split_steps(solution.text)


def _locally(cell: Cell, resume: Path, asked: list[tuple[str, int]], _: float) -> tuple[list[Answer], dict[str, Any]]:
    """The answers of a model that is loaded here; each try has a seed of its own."""
    from lema.models.huggingface import complete

    corrector, source = cell.config.corrector, cell.corrector_weights
    assert corrector.weights
    number = asked[0][1] if asked else 0
    texts = complete(
        [prompt for prompt, _ in asked],
        corrector.weights,
        source,
        max_new_tokens=corrector.max_completion_tokens or 0,
        temperature=corrector.temperature or 0.0,
        seed=cell.config.sampler.seed + 1_000_003 * number,
        batch_size=cell.config.sampler.batch_size,
        stop="\n}",  # a correction ends so, and a base model would go on
        resume=resume / f"try {number}",
    )
    return [Answer(text, "length" if cut else "stop", source.name) for text, cut in texts], {}


class Tally:
    """How many corrections there are, how many were accepted, and why not the others: in all, by model, by level."""

    def __init__(self, levels: dict[str, str | None]) -> None:
        self._levels = levels  # of the problems, by their ids
        self._outcomes: dict[tuple[str, str], Counter[str]] = {}  # (of what, which one) -> accepted, or the reason

    def counted(self, corrections: Iterable[Correction]) -> Iterator[Correction]:
        """The same corrections, each counted."""
        for each in corrections:
            parts = {"model": each.model, "level": self._levels.get(each.problem_id), "corrector": each.corrector}
            parts |= {"kind": each.kind, "": "all"}
            for part in parts.items():
                if part[1] is not None:
                    self._outcomes.setdefault((part[0], part[1]), Counter())[each.reason or "accepted"] += 1
            yield each

    def summary(self) -> dict[str, Any]:
        """Plain values: `{"corrections": 9, "accepted": 7, "rejected": {"wrong answer": 2}, "by_model": {…}, …}`."""
        outcomes = self._outcomes.get(("", "all"), Counter())
        return {
            "corrections": outcomes.total(),
            "accepted": outcomes["accepted"],
            "rejected": {reason: count for reason, count in outcomes.items() if reason != "accepted"},
            "kinds": {name: counts.total() for name, counts in self._of("kind")},
            "correctors": [name for name, _ in self._of("corrector")],
            "by_model": {name: dict(counts) for name, counts in self._of("model")},
            "by_level": {name: dict(counts) for name, counts in self._of("level")},
        }

    def show(self, paper: dict[str, float]) -> None:
        """Print success and reasons by model and by level; `paper` has the paper's success rate of some models."""
        columns = "%-16s %-24s %9s %9s %7s %8s  %s"
        log.info(columns, "correct", "", "paths", "accepted", "%", "paper %", "rejected")
        for name, counts in [*self._of("model"), *self._of("level")]:
            share, theirs = f"{100 * counts['accepted'] / counts.total():.1f}", paper.get(name)
            why = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common() if reason != "accepted")
            numbers = (
                f"{counts.total():,}",
                f"{counts['accepted']:,}",
                share,
                f"{100 * theirs:.1f}" if theirs else "–",
            )
            log.info(columns, "", name, *numbers, why)

    def _of(self, what: str) -> list[tuple[str, Counter[str]]]:
        return sorted((name, counts) for (part, name), counts in self._outcomes.items() if part == what)
