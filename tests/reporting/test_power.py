"""`do=power`: what other designs would show by the runs at hand, and the hours they take."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import TINY, answers, run

from lema import pipeline
from lema.config import Config
from lema.reporting import report
from lema.types import UserError

PROBLEMS = 300


@pytest.fixture
def power(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., tuple[str, list[dict[str, Any]]]]:
    def written(*overrides: str) -> tuple[str, list[dict[str, Any]]]:
        pipeline.run(make_config("do=power", f"runs_dir={tmp_path}", *overrides), [])
        folder = tmp_path / "reports" / "all"
        return (folder / "power.md").read_text(), json.loads((folder / "power.json").read_text())["designs"]

    return written


def arms(root: Path, drawn: int) -> None:
    """Two arms over three seeds with so many samples; half of the problems are right in 10 %, half in 50 %."""
    rng = np.random.default_rng(7)
    chances = rng.choice([0.1, 0.5], PROBLEMS)
    setting: dict[str, Any] = {"evaluation": {"split": "test", "samples": drawn, "temperature": 0.7 if drawn else 0}}
    for seed in (1, 2, 3):
        for mix, more in (("cot_matched", 0.0), ("lema", 0.04)):
            own = np.clip(chances + more + rng.normal(0, 0.03), 0, 1)
            samples = rng.random((PROBLEMS, drawn)) < own[:, None] if drawn else None
            run(root, mix, seed, rng.random(PROBLEMS) < own, samples=samples, **TINY, **setting)


def test_the_design_that_was_run_shows_what_the_report_says_and_hours_are_those_that_were_measured(
    tmp_path: Path, power: Callable[..., Any]
) -> None:
    arms(tmp_path, 4)
    found = report.compared(tmp_path)
    text, rows = power("power.seeds=[3,6]", "power.problems=[300,600]", "report.margin=100")
    shown = {(row["seeds"], row["problems"], row["samples"]): row for row in rows}
    assert shown[3, 300, 0]["smallest_effect"] == pytest.approx(found.differences[0].smallest)
    assert shown[3, 300, 4]["smallest_effect"] == pytest.approx(found.sampled[0].smallest)
    # Each step took half an hour: training and selection make an hour of each arm, the evaluation half a one.
    assert shown[3, 300, 4]["hours"] == pytest.approx(3 * (2 + 1))
    assert shown[6, 600, 4]["hours"] == pytest.approx(6 * (2 + 2))
    assert shown[3, 300, 0]["hours"] == pytest.approx(3 * (2 + 1 / 5))  # one answer of five
    greedy = 100 * shown[3, 300, 0]["smallest_effect"]
    assert f"| arithmetic | tiny | lema − cot_matched | greedy | 300 | **{greedy:.1f}**, 6.6 h |" in text
    assert "From 3 seeds the deviation between seeds is known poorly: the true one lies between 0.5 and 6.3" in text


def test_more_samples_take_away_what_drawing_adds(tmp_path: Path, power: Callable[..., Any]) -> None:
    arms(tmp_path, 4)
    _, rows = power("power.seeds=[3]", "power.samples=[1,4,16]")
    told = {row["samples"]: row["smallest_effect"] for row in rows}
    [found] = report.compared(tmp_path).sampled
    assert found.crossed
    once = 0.09 + 0.25 + 0.14 * 0.86 + 0.54 * 0.46  # p (1 - p), of both kinds of problems and both arms
    for samples in (1, 4, 16):
        least = found.crossed.smallest(3, PROBLEMS, once / 2 / samples)
        assert told[samples] == pytest.approx(least, rel=0.05)
    assert told[16] < told[4] < told[1]


def test_without_samples_nothing_is_said_of_more_of_them(tmp_path: Path, power: Callable[..., Any]) -> None:
    arms(tmp_path, 0)
    text, rows = power("power.samples=[1,8]")
    assert [(row["seeds"], row["samples"]) for row in rows] == [(3, 0), (5, 0), (10, 0)]
    assert "No run here has samples, so how much answers vary within a problem is not known" in text


def test_one_sample_does_not_tell_what_more_would_show(tmp_path: Path, power: Callable[..., Any]) -> None:
    arms(tmp_path, 1)
    text, rows = power("power.seeds=[3]", "power.samples=[1,8]")
    assert [row["smallest_effect"] is None for row in rows] == [False, False, True]
    assert "From one sample of each problem it is not known what more of them would show." in text


@pytest.mark.parametrize("contrasts", [[], ["report.contrasts=[mistakes/cot]"]])
def test_without_a_contrast_of_two_seeds_there_is_one_line(
    tmp_path: Path, power: Callable[..., Any], contrasts: list[str]
) -> None:
    for mix in ("cot", "lema"):
        for seed in (1, 2) if contrasts else (1,):
            run(tmp_path, mix, seed, answers(200, 50 + 10 * seed), **TINY)
    with pytest.raises(UserError, match="do=power: no contrast has two seeds yet; run both of its arms"):
        power(*contrasts)
