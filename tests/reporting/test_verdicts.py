"""Verdicts: what they say of simple cases, and how often they are wrong in simulated experiments."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from simulated import TINY, answers, differences, run

from lema.config import ReportConfig
from lema.reporting.export import as_json, tables
from lema.reporting.markdown import render
from lema.reporting.report import compared
from lema.reporting.statistics import Crossed, decide, over_seeds

# Between seeds and between problems, the standard deviations of a difference: none, as a pilot's, more.
SETTINGS = [(seeds, *parts) for seeds in (3, 5) for parts in ((0.0, 0.0), (0.04, 0.1), (0.06, 0.2))]


def words(experiments: int, *of: float, margin: float = 0.03) -> list[str]:
    """The verdicts on so many experiments of `differences(...)`."""
    rng, seeds, rest = np.random.default_rng(20231031), int(of[0]), of[1:]
    return [decide(Crossed.of(differences(rng, seeds, 600, *rest)), margin).word for _ in range(experiments)]


def test_the_parts_of_the_variance_are_those_of_the_analysis_of_variance() -> None:
    # By hand: means of the seeds 3 and 5, of the problems 2, 4, 6; what is left is 0, -1, 1 and 0, 1, -1.
    found = Crossed.of(np.array([[1.0, 2.0, 6.0], [3.0, 6.0, 6.0]]))
    assert (found.mean, found.spread, found.rest) == pytest.approx((4.0, 2.0, 2.0))
    assert found.problems == pytest.approx(4.0 - 2.0 / 2)


@pytest.mark.parametrize("parts", [(0.02, 0.0, 0.3), (0.02, 0.05, 0.3), (0.0, 0.1, 0.01)])
def test_the_parts_are_found_again(parts: tuple[float, float, float]) -> None:
    rng, (seeds, problems) = np.random.default_rng(1), (400, 500)
    sizes = (seeds, 1), (1, problems), (seeds, problems)
    drawn = [rng.normal(0, np.sqrt(part), size) for part, size in zip(parts, sizes, strict=True)]
    found = Crossed.of(0.1 + drawn[0] + drawn[1] + drawn[2])
    assert found.spread - found.rest / problems == pytest.approx(parts[0], rel=0.2, abs=1e-4)
    assert (found.problems, found.rest) == pytest.approx(parts[1:], rel=0.2, abs=1e-4)


def test_the_interval_is_students_over_seeds_unless_problems_differ_and_never_narrower() -> None:
    rng = np.random.default_rng(4)
    for seeds, problem_sd in itertools.product((2, 3, 5), (0.0, 0.2)):
        values = differences(rng, seeds, 400, 0.05, 0.03, problem_sd)
        wide, student = Crossed.of(values).interval(), over_seeds(values.mean(axis=1).tolist()).interval
        assert wide
        assert student
        assert wide.high >= student.high - 1e-12
        if not Crossed.of(values).problems:
            assert wide == pytest.approx(student)


@pytest.mark.parametrize(
    ("mean", "margin", "said"),
    [  # the 95 % interval is ±4.30 * 0.01, the 90 % one ±2.92 * 0.01
        (0.05, 0.03, ("helps", "")),
        (-0.05, 0.03, ("costs", "")),
        (0.0, 0.03, ("no difference", "")),
        (0.001, 0.03, ("not decided", "")),
        (0.04, 0.2, ("no difference", "")),
        (0.05, 0.2, ("helps", "by less than the margin")),
        (-0.05, 0.2, ("costs", "by less than the margin")),
    ],
)
def test_each_verdict_follows_from_its_intervals(mean: float, margin: float, said: tuple[str, str]) -> None:
    assert decide(Crossed(mean, 3, 10**6, 3 * 0.01**2, 0.0, 0.0), margin) == said


def test_where_the_seeds_do_not_differ_nothing_is_decided() -> None:
    assert decide(Crossed.of(np.tile([1.0, 0.0, -1.0, 1.0], (3, 1))), 0.5) == ("not decided", "seeds do not differ")


@pytest.mark.parametrize("setting", SETTINGS)
def test_without_a_difference_few_help_or_cost_and_at_the_margin_few_make_none(setting: tuple[float, ...]) -> None:
    seeds, *parts = setting
    assert sum(word in ("helps", "costs") for word in words(400, seeds, 0.0, *parts)) <= 0.06 * 400
    assert words(400, seeds, 0.06, *parts, margin=0.06).count("no difference") <= 0.06 * 400


@pytest.mark.parametrize("setting", SETTINGS)
def test_twice_what_could_show_is_shown_four_times_in_five(setting: tuple[float, ...]) -> None:
    seeds, *parts = setting
    rng, shown = np.random.default_rng(5), []
    for _ in range(60):
        pilot = Crossed.of(differences(rng, int(seeds), 600, 0.0, *parts))
        least = pilot.smallest(int(seeds), 600)
        assert least
        shown.append(decide(Crossed.of(differences(rng, int(seeds), 600, 2 * least, *parts)), 0.03).word == "helps")
    assert np.mean(shown) >= 0.8


def test_a_report_has_the_verdicts_that_were_stated_in_their_order(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for mix, right in (("lema", 160), ("cot", 100), ("mistakes", 120 + 20 * seed)):
            run(tmp_path, mix, seed, answers(200, right + seed % 2), **TINY)
    run(tmp_path, "cot_random", 1, answers(200, 100), **TINY)
    run(tmp_path, "lema", 1, answers(200, 120), parts={"weights": {"step": 2.0}}, **TINY)
    stated = ReportConfig(
        margin=2,
        contrasts=[
            "mistakes/cot",
            "lema/cot_random",
            "lema/cot_matched",
            "cot/mistakes",
            "lema/lema (mix.weights.step=2)",
        ],
    )
    found = compared(tmp_path, None, stated.share, stated.pairs)
    text = render(found, {})
    part = text.partition("## arithmetic: verdicts, margin 2 points")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("| ")][2:]
    assert [(row[0], row[3]) for row in rows] == [
        ("mistakes − cot", "helps"),  # +20, +30 and +40 points
        ("lema − cot_random", "not decided: one seed"),
        ("lema − cot_matched", "not run"),
        ("cot − mistakes", "costs"),
        ("lema − lema (mix.weights.step=2)", "not decided: one seed"),
    ]
    assert "lies inside ±2 points" in part
    numbers = json.loads(as_json(found))
    assert (numbers["margin"], numbers["contrasts"][0]) == (0.02, ["mistakes", "cot"])
    told = {(row["arm"], row["other"]): row for row in csv.DictReader(tables(found)["differences.csv"].splitlines())}
    assert told["mistakes", "cot"]["verdict"] == "helps"
    assert float(told["mistakes", "cot"]["over_both_high"]) > float(told["mistakes", "cot"]["over_both_90_high"]) > 0.3
    assert told["lema", "cot"]["verdict"] == "", "which was not stated"
    assert "Learning from mistakes, with more data than CoT alone: " in text


def test_without_a_margin_there_is_no_verdict_and_without_contrasts_each_that_is_known_has_one(tmp_path: Path) -> None:
    for seed, right in ((1, 150), (2, 152), (3, 151)):
        run(tmp_path, "lema", seed, answers(200, right), **TINY)
        run(tmp_path, "cot", seed, answers(200, 100), **TINY)
    plain, judged = (compared(tmp_path, margin=margin) for margin in (None, 0.03))
    assert [each.verdict for each in plain.differences] == [None]
    assert "verdict" not in render(plain, {})
    assert "| lema − cot | tiny | greedy | helps | 3 | +25.5 |" in render(judged, {})
    assert "it helps, +25.5 points" in render(plain, {})
    assert "it helps, +25.5 points" not in render(judged, {}), "which is by the narrower interval"
