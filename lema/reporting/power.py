"""What other numbers of seeds, problems and samples would show of each contrast, and the hours that they take."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from lema.reporting.comparing import CONTRASTS, Comparison, Difference
from lema.reporting.markdown import bullets, columns, publish
from lema.reporting.runs import Run
from lema.types import UserError


def write_power(
    folder: Path,
    comparison: Comparison,
    seeds: Sequence[int],
    problems: Sequence[int] | None = None,
    samples: Sequence[int] | None = None,
) -> None:
    """Write `power.md` and `power.json` into a report's folder, and print the text; None is what the runs had."""
    rows = [row for each in _several(comparison) for row in _designs(each, seeds, problems, samples)]
    if not rows:
        raise UserError("do=power: no contrast has two seeds yet; run both of its arms, -m mix=ARM,OTHER seed=1,2")
    text = (
        f"# What other designs would show\n\n{_table(rows, comparison.margin)}\n\n{bullets(_notes(rows, comparison))}\n"
    )
    publish(folder, "power", text, {"margin": comparison.margin, "designs": rows})


def _several(comparison: Comparison) -> Iterator[Difference]:
    """The differences of the report's contrasts with several seeds, by greedy answers and by means over samples."""
    for contrast in comparison.contrasts or CONTRASTS:
        for each in (*comparison.differences, *comparison.sampled):
            if each.contrast == contrast and each.crossed:
                yield each


def _designs(
    each: Difference, seeds: Sequence[int], problems: Sequence[int] | None, samples: Sequence[int] | None
) -> Iterator[dict[str, Any]]:
    """A row for each number of problems, samples and seeds; of greedy answers the number of samples is 0."""
    now = each.crossed
    assert now
    chance, (training, answer) = _chance(each), _hours(each)
    drawn = (samples or [each.samples]) if each.samples else [0]
    for of_problems, of_samples, of_seeds in product(problems or [now.num_problems], drawn, seeds):
        rest: float | None = now.rest
        if of_samples != each.samples:
            rest = None if chance is None else max(0.0, now.rest - chance / each.samples) + chance / of_samples
        yield {
            "task": each.setting.task,
            "backbone": each.setting.backbone,
            "arm": each.arm,
            "other": each.other,
            "seeds": of_seeds,
            "problems": of_problems,
            "samples": of_samples,
            "smallest_effect": None if rest is None else now.smallest(of_seeds, of_problems, rest),
            "hours": of_seeds * (training + of_problems * (1 + of_samples) * answer),
            "from_seeds": now.num_seeds,
        }


def _chance(each: Difference) -> float | None:
    """The variance that drawing alone gives a difference of one sample of each arm; None where it is not known.

    Of a share p of k samples p (1 - p) k / (k - 1) is its unbiased estimate, here a mean over problems and seeds.
    """
    if each.samples < 2:
        return None
    once = [
        fmean(float((of.correct * (1 - of.correct)).mean()) for run in runs if (of := run.tuned.sampled_verdicts))
        for runs in zip(*each.runs, strict=True)
    ]
    return sum(once) * each.samples / (each.samples - 1)


def _hours(each: Difference) -> tuple[float, float]:
    """The hours of both arms, as measured: of a seed without its evaluation, and of one answer."""
    training, answer = fmean(map(_before, each.runs)), 0.0
    for runs in zip(*each.runs, strict=True):
        spent = [run.records["evaluate"]["made"]["seconds"] / 3600 for run in runs]
        training += fmean(run.hours - hours for run, hours in zip(runs, spent, strict=True))
        asked = [run.score.num_problems * (1 + (drawn.samples if (drawn := run.tuned.sampled) else 0)) for run in runs]
        answer += fmean(hours / answers for hours, answers in zip(spent, asked, strict=True))
    return training, answer


def _before(runs: Sequence[Run]) -> float:
    """The hours of what a seed has of its own before it trains: its tuned model, that one's mistakes, corrections."""
    own = {run.digests[step] for run in runs for step in run.own_steps}
    spent = {
        run.digests[step]: run.records[step]["made"]["seconds"] for run in runs for step in run.made_from("tuned_train")
    }
    return sum(seconds for digest, seconds in spent.items() if digest not in own) / 3600


def _table(rows: list[dict[str, Any]], margin: float | None) -> str:
    """A line for each contrast, number of problems and number of samples; a column for each number of seeds."""
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        line = {
            "task": row["task"],
            "backbone": row["backbone"],
            "difference": f"{row['arm']} − {row['other']}",
            "answers": f"mean of {row['samples']}" if row["samples"] else "greedy",
            "problems": f"{row['problems']:,}",
        }
        shows = row["smallest_effect"]
        points = "–" if shows is None else f"{100 * shows:.1f}"
        points = f"**{points}**" if margin and shows and shows <= margin else points
        lines.setdefault(tuple(line.values()), line)[f"{row['seeds']} seeds"] = f"{points}, {row['hours']:.2g} h"
    return columns(list(lines.values()), words=4)


def _notes(rows: list[dict[str, Any]], comparison: Comparison) -> Iterator[str]:
    yield (
        "Points: the smallest true difference that would be found to help or to cost four times in five, for other "
        "seeds and other problems alike. It is estimated from how much the difference varied here between seeds, "
        "between problems, and besides."
    )
    if comparison.margin:
        yield f"Bold: no more than the margin of {100 * comparison.margin:g} points."
    for number, each in {each.crossed.num_seeds: each.crossed for each in _several(comparison) if each.crossed}.items():
        low, high = each.factors
        yield (
            f"From {number} seeds the deviation between seeds is known poorly: the true one lies between {low:.1f} and "
            f"{high:.1f} times its estimate (95 %)."
        )
    yield (
        "Hours: of both arms, all seeds, by the hours that these runs took: of a seed from training on, and of each "
        "answer (one greedy, and the samples). What seeds share is not counted."
    )
    if not any(row["samples"] for row in rows):
        yield (
            "No run here has samples, so how much answers vary within a problem is not known, nor what a mean over "
            "samples would show: evaluation.samples=8 evaluation.temperature=0.7 tells."
        )
    elif any(row["smallest_effect"] is None and row["samples"] for row in rows):
        yield "From one sample of each problem it is not known what more of them would show."
