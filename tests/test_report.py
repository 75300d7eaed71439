"""The report: open cells, paired differences, and words that follow the numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lema.stages.report import Run, read_runs, render

CONFIG: dict[str, Any] = {
    "seed": 1,
    "limit": None,
    "task": {"name": "arithmetic", "real": False},
    "backbone": {"name": "tiny", "size": None, "path": None, "tiny": {"steps": 1}},
    "sampler": {"name": "self"},
    "corrector": {"name": "reference"},
    "rationales": {"name": "none"},
    "train": {"method": "full", "learning_rate": 0.001},
    "evaluation": {"split": "test"},
    "selection": "dev",
}


def run(mix: str, seed: int, correct: int, setting: str = "a", differ: int = 0, **changes: Any) -> Run:
    config = copy.deepcopy(CONFIG) | {"seed": seed, "mix": {"name": mix}} | changes
    score = {
        "split": "test",
        "step": 50,
        "selection": "dev",
        "num_problems": 200,
        "num_unanswered": 0,
        "num_truncated": 0,
        "num_correct": correct,
        "accuracy": correct / 200,
        "accuracy_symbolic": (correct + differ) / 200,
        "disagreements": [f"arithmetic-test-{number}" for number in range(differ)],
    }
    summaries = {
        "base": {"parameters": 400_000, "texts_too_long": 3},
        "mix": {"repeated_random_cot": 0},
        "train": {"examples": 300, "tokens": 21_000, "steps": 57, "truncated": 0},
        "evaluate_untuned": score | {"accuracy": 0.5},
        "evaluate": score,
    }
    return Run(config, setting, ["task=arithmetic", f"mix={mix}", f"seed={seed}", "tracker=none"], summaries)


def test_an_open_cell_names_its_command_and_nothing_is_compared_with_the_base() -> None:
    text = render([run("lema", 1, 180)])
    assert "| cot: CoT alone | not run |" in text
    assert "`python run.py task=arithmetic mix=cot`" in text
    assert "difference" not in text.split("Not run yet")[0]
    assert "90.0" in text
    assert "40.0" not in text  # 90 - 50: no gain over the untuned base is printed


def test_differences_are_paired_by_seed() -> None:
    runs = [run("lema", seed, correct) for seed, correct in ((1, 180), (2, 170), (3, 160))]
    runs += [run("cot", seed, correct) for seed, correct in ((1, 160), (2, 160), (4, 20))]
    text = render(runs)
    assert "| lema − cot | +7.5 ± 3.5 | 2 of 2 |" in text
    assert "| cot: CoT alone | 56.7 ± 40.4 | 56.7 ± 40.4 (0) | best on dev | 3 |" in text
    assert "run the two controls" in text


@pytest.mark.parametrize(
    ("matched", "words"),
    [
        ((120, 122, 124), "it helps, +20.0 points, the same sign in all 3 seeds"),
        ((200, 200, 200), "it costs, -19.0 points, the same sign in all 3 seeds"),
        ((150, 200, 150), "-2.3 points, but the seeds disagree (2 of 3 have one sign)"),
    ],
)
def test_words_follow_the_numbers(matched: tuple[int, ...], words: str) -> None:
    runs = [run("lema", seed, 160 + 2 * seed - 2) for seed in (1, 2, 3)]
    runs += [run("cot_matched", seed, correct) for seed, correct in zip((1, 2, 3), matched, strict=True)]
    assert f"same questions, same size: {words}." in render(runs)


def test_both_rules_and_the_number_of_their_disagreements_stand_in_the_table() -> None:
    text = render([run("lema", 1, 160, differ=4), run("lema", 2, 170, differ=7)])
    assert "| accuracy, % | symbolic, % (differ) |" in text
    assert "| 82.5 ± 3.5 | 85.2 ± 4.6 (6) | best on dev | 2 |" in text
    assert "official rules" in text


@pytest.mark.parametrize(
    ("selection", "split", "label", "words"),
    [
        ("last", "test", "last", None),
        ("dev", "test", "best on dev", None),
        ("dev", "dev", "best on dev: optimistic", "on the dev split, which they are scored on: optimistic"),
        (
            "paper",
            "test",
            "best on test: optimistic",
            "on the test split, which they are scored on, as the paper did: optimistic",
        ),
    ],
)
def test_how_the_checkpoint_was_chosen_stands_beside_its_accuracy(
    selection: str, split: str, label: str, words: str | None
) -> None:
    chosen = run("lema", 1, 160, selection=selection)
    chosen.score.update(selection=selection, split=split)
    text = render([chosen])
    assert f"| 80.0 | 80.0 (0) | {label} | 1 |" in text
    assert words in text if words else "optimistic" not in text


def test_other_arms_stand_in_the_table_once_they_are_run() -> None:
    text = render([run("lema", 1, 180), run("cot", 1, 160)])
    assert "cot_tokens" not in text
    assert "lema_no_step" not in text
    text = render([run("lema", 1, 180), run("cot", 1, 160), run("cot_tokens", 1, 170), run("lema_32k", 1, 150)])
    assert "(and the same with mix=cot_matched)" in text
    assert "| cot_tokens: cot_matched + CoT of random questions | 85.0 |" in text
    assert "| lema − cot_tokens | +5.0 | 1 of 1 | as many training tokens |" in text
    assert "| lema_32k − cot | -5.0 | 0 of 1 |" in text


def test_settings_are_never_compared_with_each_other() -> None:
    text = render([run("lema", 1, 180, "a"), run("cot", 1, 150, "b", train={"method": "full", "learning_rate": 0.002})])
    assert text.count("\n## ") == 2
    assert "lema − cot" not in text


def test_one_seed_is_called_one_seed() -> None:
    assert "One training seed (1)" in render([run("lema", 1, 180)])


def test_real_tasks_say_why_the_tiny_backbone_fails_and_limit_is_shown() -> None:
    text = render([run("lema", 1, 2, limit=50, task={"name": "gsm8k", "real": True})])
    assert "0.4 million parameters" in text
    assert "first 50 problems: a rehearsal, not a result" in text


def test_test_questions_that_were_trained_on_are_counted() -> None:
    seen = run("lema", 1, 2, task={"name": "svamp", "real": True})
    seen.summaries["test_data"] = {"test": 200, "questions_in_training": 3}
    assert "test questions that are training questions 3" in render([seen])


def test_a_run_from_before_checkpoints_were_chosen_is_left_out(tmp_path: Path) -> None:
    for number, extra in enumerate([{}, {"selection": "last"}]):
        folder = tmp_path / "cells" / str(number)
        folder.mkdir(parents=True)
        facts = {"config": CONFIG | {"mix": {"name": "cot"}}, "setting": "a", "overrides": []}
        (folder / "run.json").write_text(json.dumps(facts))
        summary = {"stage": "evaluate", "summary": {"accuracy": 0.5} | extra}
        (folder / "metrics.jsonl").write_text(json.dumps(summary) + "\n")
    assert len(read_runs(tmp_path)) == 1


def test_losses_are_counted() -> None:
    assert "pretraining texts too long for the base 3" in render([run("lema", 1, 2)])


def test_an_empty_folder_says_what_to_run() -> None:
    assert "No run has been evaluated yet" in render([])
