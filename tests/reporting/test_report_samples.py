"""What the report says of samples, of further tests of a model, and of answers of different engines."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import answers, changing, evaluation, made, published, record, run, tiny

from lema import pipeline
from lema.config import Config
from lema.reporting.statistics import over_problems, over_seeds, sign_flip

SVAMP = {"svamp_": {"task": {"name": "svamp", "real": True, "grader": "svamp"}, "setting": "s"}}
SETTING: dict[str, Any] = {"evaluation": {"split": "test", "samples": 4, "temperature": 0.7}}


def drawn(seed: int, share: float) -> np.ndarray:
    """Verdicts on four samples of each of 200 problems, of which some are easy."""
    rng = np.random.default_rng(seed)
    return rng.random((200, 4)) < np.clip(share + rng.normal(0, 0.3, (200, 1)), 0, 1)


@pytest.fixture
def sampled(tmp_path: Path) -> dict[str, list[np.ndarray]]:
    """Two arms over two seeds, with samples that say more than the greedy answers do."""
    made: dict[str, list[np.ndarray]] = {"cot": [], "lema": []}
    for seed in (1, 2):
        for arm, share in (("cot", 0.4), ("lema", 0.6)):
            made[arm].append(samples := drawn(10 * seed + len(arm), share))
            tiny(tmp_path, arm, seed, 100 + seed, samples=samples, **SETTING)
    return made


def test_means_pass_and_majority_stand_beside_the_greedy_score(
    tmp_path: Path, sampled: dict[str, list[np.ndarray]]
) -> None:
    text, numbers = published(tmp_path)
    head = "| backbone | arm | samples | greedy | mean | over problems | pass@4 | maj@k | symbolic | no answer, % |"
    assert head in text
    rows = {row["arm"]: row for row in numbers["arms"]}
    for arm, seeds in sampled.items():
        spread = over_seeds([float(each.mean()) for each in seeds])
        row = rows[arm]
        assert row["sampled_accuracy"] == pytest.approx(spread.mean)
        # Most problems are right in some samples: the interval is over the mean share of each.
        means = np.mean([each.mean(axis=1) for each in seeds], axis=0)
        assert row["sampled_over_problems_low"] == pytest.approx(over_problems(means).low)
        assert row["pass_at"]["1"] == pytest.approx(spread.mean)
        assert row["pass_at"]["4"] == pytest.approx(np.mean([each.any(axis=1).mean() for each in seeds]))
        votes = [np.select([each.sum(1) > 2, each.sum(1) == 2], [1.0, 0.5]).mean() for each in seeds]
        assert row["majority"] == pytest.approx(np.mean(votes))
        assert f"| tiny | {arm} | 4 at 0.7 | 50.8 | {100 * spread.mean:.1f} [" in text
    assert "samples" not in rows["untuned"], "whose run here was not sampled"
    table = list(csv.DictReader((tmp_path / "reports/all/report.csv").open()))
    assert [row["samples"] for row in table] == ["", "4", "4"]
    assert float(table[2]["sampled_accuracy"]) == pytest.approx(rows["lema"]["sampled_accuracy"])


def test_arms_are_paired_by_the_mean_over_a_problems_samples(
    tmp_path: Path, sampled: dict[str, list[np.ndarray]]
) -> None:
    text, numbers = published(tmp_path)
    [greedy], [found] = numbers["differences"], numbers["sampled_differences"]
    assert (greedy["difference"], greedy.get("samples")) == (0, None)
    pairs = list(zip(sampled["lema"], sampled["cot"], strict=True))
    differences = [mine.mean(axis=1) - theirs.mean(axis=1) for mine, theirs in pairs]
    assert list(found["by_seed"].values()) == pytest.approx([each.mean() for each in differences])
    assert found["over_problems_low"] == pytest.approx(over_problems(np.mean(differences, axis=0)).low)
    whole = [mine.sum(axis=1) - theirs.sum(axis=1) for mine, theirs in pairs]
    assert list(found["sign-flip"].values()) == pytest.approx([sign_flip(each) for each in whole])
    assert "mcnemar" not in found
    assert (found["p_of"], found["samples"]) == ("student", 4)
    assert [len(found["flips"]["1"][side]) for side in ("gained", "lost")] == [
        (whole[0] > 0).sum(),
        (whole[0] < 0).sum(),
    ]
    assert "| sign-flip p | gained / lost |" in text
    assert "more data than CoT alone, by the mean over 4 samples of a problem: " in text
    assert (tmp_path / "reports/all/sampled_differences.csv").is_file()


def test_without_samples_the_report_says_nothing_of_them(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180)
    tiny(tmp_path, "cot", 1, 160)
    text, numbers = published(tmp_path)
    for words in ("sample of", "samples:", "pass@", "maj@", "sign-flip", "‡"):
        assert words not in text
    assert "sampled_differences" not in numbers
    assert not {"samples", "pass_at", "answered"} & numbers["arms"][2].keys()


def test_damaged_samples_leave_the_score_of_the_samples(tmp_path: Path) -> None:
    folder = tiny(tmp_path, "lema", 1, 180, samples=drawn(1, 0.6), **SETTING)
    tiny(tmp_path, "cot", 1, 160, samples=drawn(2, 0.4), **SETTING)
    (folder / "evaluate" / "sampled.jsonl").write_text("{}\n")
    _, numbers = published(tmp_path)
    [found] = numbers["sampled_differences"]
    assert found["difference"] == pytest.approx(drawn(1, 0.6).mean() - drawn(2, 0.4).mean())
    assert found["over_problems_low"] is None


def test_a_run_that_is_asked_a_further_test_stands_in_the_table_of_that_task_too(tmp_path: Path) -> None:
    for mix, right in (("lema", 180), ("cot", 160)):
        folder = run(tmp_path, mix, 1, answers(200, right))
        with changing(folder / "run.json") as facts:
            facts["tests"] = SVAMP
        (folder / "svamp_test_data").mkdir()
        record(folder / "svamp_test_data", "data", {"test": 1000}, {})
        evaluation(folder / "svamp_evaluate_untuned", "svamp", answers(1000, 50), {})
        evaluation(
            folder / "svamp_evaluate", "svamp", answers(1000, 10 * (right // 4)), {"select": made(folder / "select")}
        )
    # The same cell run as a cell of that task: it is counted once.
    run(tmp_path, "lema", 1, answers(1000, 450), **SVAMP["svamp_"])
    text, numbers = published(tmp_path)
    assert "3 evaluated runs." in text
    assert "## gsm8k: 200 problems" in text
    assert "## svamp: 1,000 problems" in text
    found = {(row["task"], row["arm"]): (row["accuracy"], row["seeds"], row["problems"]) for row in numbers["arms"]}
    assert found["gsm8k", "lema"] == (0.9, [1], 200)
    assert found["svamp", "lema"] == (0.45, [1], 1000)
    assert found["svamp", "cot"] == (0.4, [1], 1000)
    assert found["svamp", "untuned"][0] == 0.05
    [svamp] = [row for row in numbers["differences"] if row["task"] == "svamp"]
    assert len(svamp["flips"]["1"]["gained"]) == 50
    assert {row["setting"] for row in numbers["arms"]} == {"a", "s"}
    # The paper has numbers of SVAMP: 54.1 for lema on Llama-2 7B.
    assert [row["paper"] for row in numbers["arms"] if (row["task"], row["arm"]) == ("svamp", "lema")] == [0.541]


def test_a_further_test_of_an_earlier_model_is_named_and_its_run_still_counts(tmp_path: Path) -> None:
    folder = run(tmp_path, "lema", 1, answers(200, 180))
    with changing(folder / "run.json") as facts:
        facts["tests"] = SVAMP
    evaluation(folder / "svamp_evaluate", "svamp", answers(100, 5), {"select": "an earlier one"})
    text, numbers = published(tmp_path)
    assert "1 evaluated run." in text
    assert f"{facts['name']} asked svamp: its evaluate was made from an earlier select; run its command again" in text
    assert {row["task"] for row in numbers["arms"]} == {"gsm8k"}


ENGINES = {"cot": {"engine": "transformers 5.24.0"}, "lema": {"engine": "vllm 0.32.0", "device": "NVIDIA H100"}}


def test_arms_that_different_engines_answered_are_said_to_be_so_in_table_and_words(tmp_path: Path) -> None:
    for mix, right in (("cot", 160), ("lema", 180)):
        tiny(tmp_path, mix, 1, right, score={"answered": ENGINES[mix]})
    tiny(tmp_path, "cot_matched", 1, 170, score={"answered": ENGINES["lema"]})
    text, numbers = published(tmp_path)
    both = "transformers 5.24.0 and vllm 0.32.0, NVIDIA H100"
    assert "| lema − cot ‡ | tiny |" in text
    assert "| lema − cot_matched | tiny |" in text
    assert f"- ‡ Their answers came from different engines: {both}." in text
    assert f"These runs were answered by different engines ({both}): numbers may differ by that alone." in text
    assert [row["engines"] for row in numbers["differences"]] == [both, "vllm 0.32.0, NVIDIA H100"]
    assert {json.dumps(row["answered"]) for row in numbers["runs"].values()} == set(map(json.dumps, ENGINES.values()))


@pytest.mark.parametrize("known", [{}, {"lema": ENGINES["cot"]}, dict.fromkeys(("lema", "cot"), ENGINES["cot"])])
def test_one_engine_or_one_that_is_not_known_makes_no_difference(tmp_path: Path, known: dict[str, Any]) -> None:
    for mix, right in (("cot", 160), ("lema", 180)):
        tiny(tmp_path, mix, 1, right, score={"answered": known.get(mix)})
    text, _ = published(tmp_path)
    assert "different engines" not in text
    assert "‡" not in text


def test_two_runs_side_by_side_say_what_answered_and_what_their_samples_are_worth(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    mine, theirs = drawn(1, 0.6), np.repeat(drawn(2, 0.4), 2, axis=1)
    for mix, samples in (("lema", mine), ("cot", theirs)):
        run(tmp_path, mix, 1, answers(200, 100), samples=samples, score={"answered": ENGINES[mix]}, **SETTING)
    named = [f"compare.a=gsm8k-llama2-7b-{each}" for each in ("lema", "cot")]
    overrides = [named[0], named[1].replace(".a=", ".b="), f"runs_dir={tmp_path}", "do=compare"]
    pipeline.run(make_config(*overrides), [])
    [file] = tmp_path.glob("reports/compare-*/compare.md")
    text = file.read_text()
    assert "| answered by | vllm 0.32.0, NVIDIA H100 | transformers 5.24.0 |" in text
    assert "Their answers came from different engines (transformers 5.24.0 and vllm 0.32.0, NVIDIA H100)" in text
    assert "| samples | 4 at 0.7 | 8 at 0.7 |" in text
    p = sign_flip(2 * mine.sum(axis=1) - theirs.sum(axis=1))
    points = 100 * (mine.mean(axis=1) - theirs.mean(axis=1)).mean()
    assert f"By the means over samples, a − b: {points:+.1f} points" in text
    assert f"sign-flip p {p:.3g}." in text
