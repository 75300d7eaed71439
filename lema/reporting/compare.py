"""Two runs side by side: the settings in which they differ, their scores, the problems on which they disagree."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lema.artifacts import IMPORTED
from lema.config import CompareConfig
from lema.identity import flat, without_paths
from lema.privacy import shown
from lema.reporting.markdown import bullets, over, publish, table
from lema.reporting.runs import Run, read_runs
from lema.reporting.statistics import accuracy_over_problems, over_problems, paired_p, smallest_effect
from lema.reporting.verdicts import Verdicts, aligned, flipped
from lema.types import SampledScore, UserError

_LISTED = 20  # so many ids stand in the text; compare.json has all


def write_comparison(root: Path, config: CompareConfig) -> None:
    """Write `reports/compare-A-B/` (`compare.md`, `compare.json`) and print the text."""
    first, second = _find(root, config.a, "compare.a"), _find(root, config.b, "compare.b")
    pair = aligned(first.tuned.verdicts, second.tuned.verdicts)
    if pair is None:
        raise UserError(
            f"do=compare: {first.name} and {second.name} were asked no common problem; choose runs of one task"
        )
    lost, gained = flipped(*pair)
    parts = [*_numbers(first, second, *pair), *_flips(first, second, lost, gained, config.examples)]
    text = shown("\n\n".join(parts) + "\n")
    facts = {"a": first.name, "b": second.name, "problems": len(pair[0].ids), "differ": _differ(first, second)}
    facts |= {"right_only_in_b": lost, "right_only_in_a": gained}
    publish(root / "reports" / f"compare-{first.folder.name}-{second.folder.name}"[:200], "compare", text, facts)


def _find(root: Path, named: str | None, key: str) -> Run:
    """The run of a folder, or of the beginning of a folder's name."""
    if not named:
        raise UserError(
            f"{key}=null: name a run, {key}=RUN: a folder of {root / 'cells'}, or the beginning of its name"
        )
    cells = sorted((root / "cells").glob("*/"))
    begun = [folder for folder in cells if folder.name.startswith(named)]
    is_run = any((Path(named) / name).is_file() for name in ("run.json", IMPORTED))
    found = [Path(named)] if is_run else [folder for folder in begun if folder.name == named] or begun
    runs = [run for run in read_runs(root, found) if not run.links]
    if not runs:
        have = ", ".join(folder.name for folder in cells[:5]) or "none"
        raise UserError(f"{key}={named}: no such run in {root / 'cells'}, which has {have}")
    if len(runs) > 1:
        several = ", ".join(run.folder.name for run in runs[:5])
        raise UserError(f"{key}={named}: {len(runs)} runs begin so ({several}); name one of them")
    [run] = runs
    if run.trouble:
        raise UserError(f"{key}={run.name}: {run.trouble}")
    if run.tuned.verdicts is None:
        raise UserError(
            f"{key}={run.name}: its predictions are missing or damaged; delete its evaluate folder and run it again"
        )
    return run


def _numbers(first: Run, second: Run, mine: Verdicts, theirs: Verdicts) -> Iterator[str]:
    both = first, second
    accuracies = [(each.correct, over(accuracy_over_problems(each.correct))) for each in (mine, theirs)]
    rows = [
        ["run", *(run.name for run in both)],
        *([name, *pair] for name, pair in _differ(first, second).items()),
        ["checkpoint", *(run.chosen for run in both)],
        ["accuracy, %", *(f"{100 * correct.mean():.1f} {interval}" for correct, interval in accuracies)],
        ["symbolic, %", *(f"{100 * each.symbolic.mean():.1f}" for each in (mine, theirs))],
        ["no answer", *(f"{run.score.num_unanswered:,}" for run in both)],
        *_drawn(*(run.tuned.sampled for run in both)),
    ]
    if any(run.answered for run in both):
        rows.append(["answered by", *(run.answered or "not noted" for run in both)])
    yield f"# {first.name} against {second.name}"
    yield table(["", "a", "b"], rows, words=3)
    yield bullets(_said(first, second, mine, theirs))


def _drawn(*both: SampledScore | None) -> Iterator[list[str]]:
    """The rows about samples, where either run has some."""

    def best(of: SampledScore) -> str:
        return f"{100 * of.pass_at[str(of.samples)]:.1f}, {100 * of.majority:.1f} (k = {of.samples})"

    if any(both):
        yield ["samples", *(f"{each.samples} at {each.temperature:g}" if each else "–" for each in both)]
        yield ["mean of samples, %", *(f"{100 * each.accuracy:.1f}" if each else "–" for each in both)]
        yield ["pass@k, maj@k, %", *(best(each) if each else "–" for each in both)]


def _said(first: Run, second: Run, mine: Verdicts, theirs: Verdicts) -> Iterator[str]:
    """The difference with its intervals and tests, and what weakens it."""
    difference = mine.correct.astype(float) - theirs.correct
    yield (
        f"a − b: {100 * difference.mean():+.1f} points {over(over_problems(difference), '+')} (95 % over problems), "
        f"McNemar's exact p {paired_p(difference):.3g}, on {len(difference):,} problems. One run each: how much "
        "training itself varies is not covered."
    )
    if (least := smallest_effect(len(difference), float(np.abs(difference).mean()))) is not None:
        yield f"So many problems would have shown a true difference of {100 * least:.1f} points four times in five."
    pair = aligned(first.tuned.sampled_verdicts, second.tuned.sampled_verdicts)
    if pair and first.tuned.sampled and second.tuned.sampled:
        shares = pair[0].correct - pair[1].correct
        number = math.lcm(first.tuned.sampled.samples, second.tuned.sampled.samples)
        yield (
            f"By the means over samples, a − b: {100 * shares.mean():+.1f} points {over(over_problems(shares), '+')} "
            f"(95 % over problems), sign-flip p {paired_p(shares, number):.3g}."
        )
    if len(engines := sorted({first.answered, second.answered} - {""})) > 1:
        yield f"Their answers came from different engines ({' and '.join(engines)}): they may differ by that alone."
    if len(mine.ids) < max(run.score.num_problems for run in (first, second)):
        yield "Only the problems that both were asked are compared."
    if named := [run.name for run in (first, second) if run.imported is not None]:
        yield f"No texts are here of {' and '.join(named)}: imported results have none."


def _differ(first: Run, second: Run) -> dict[str, tuple[str, str]]:
    """Config key -> both values, where two runs differ; without folders of this machine."""
    mine, theirs = flat(first.config), flat(second.config)
    keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
    return {key: (without_paths(str(mine.get(key, "–"))), without_paths(str(theirs.get(key, "–")))) for key in keys}


def _flips(first: Run, second: Run, lost: list[str], gained: list[str], examples: int) -> Iterator[str]:
    """The problems that only one of them has right, and both answers to some of these."""
    problems = {row["id"]: row for row in first.having(*first.asked_in, "id", "question", "answer")}
    answers = [
        {
            row["problem_id"]: str(row["text"])
            for row in run.having("evaluate", "predictions.jsonl", "problem_id", "text")
        }
        for run in (first, second)
    ]
    for heading, ids in (("Right only in a", gained), ("Right only in b", lost)):
        more = f" and {len(ids) - _LISTED:,} more (compare.json)" if len(ids) > _LISTED else ""
        yield f"## {heading}: {len(ids):,}\n\n{', '.join(ids[:_LISTED]) or 'none'}{more}"
        for problem in ids[:examples] if all(answers) else ():
            asked = problems.get(problem, {"question": "(its data are gone)", "answer": "?"})
            question = _escaped(" ".join(str(asked["question"]).split()))
            cells = ["<br>".join(map(_escaped, each[problem].strip().splitlines())) for each in answers]
            yield f"**{problem}** {question} *Gold: {asked['answer']}*\n\n" + table(["a", "b"], [cells], words=2)


def _escaped(line: str) -> str:
    """A line that a model wrote, with its HTML tags escaped."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", line)
