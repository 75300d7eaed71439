"""The report: what it says of finished, open, dead and damaged runs, and the words that follow the numbers."""

import csv
import json
import random
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated
from simulated import answers, changing, evaluation, made, record, run, tiny
from tables import some, table

from lema.artifacts import Recipe, Shown, Store
from lema.reporting import report
from lema.reporting.commands import command
from lema.reporting.comparing import compare
from lema.reporting.export import as_json
from lema.reporting.markdown import render
from lema.reporting.plots import draw
from lema.reporting.runs import read_runs
from lema.stages import base
from lema.types import SCORE_VERSION


def published(root: Path) -> str:
    return simulated.published(root)[0]


def numbers(root: Path) -> dict[str, Any]:
    return json.loads((root / "reports" / "all" / "report.json").read_text())


def test_an_open_cell_names_its_command_and_nothing_is_compared_with_the_base(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180, untuned=answers(200, 80))
    text = published(tmp_path)
    assert "| backbone | untuned | cot | cot_random | cot_matched | lema |" in text
    told = command("backbone=tiny", "task=arithmetic", "seed=1", "tracker=none", "mix=cot", root=tmp_path)
    assert f"cot was not run, so nothing is compared with it: `{told}`" in text
    assert "| tiny | 40.0 {33.5, 46.9} | not run | not run | not run | 90.0 {85.1, 93.4} ×1 |" in text
    assert "differences" not in text  # no gain over the untuned base is printed


def test_an_untuned_backbone_that_fails_by_its_form_is_told_and_one_asked_otherwise_is_named(tmp_path: Path) -> None:
    folder = tiny(tmp_path, "lema", 1, 180)
    evaluation(folder / "evaluate_untuned", "arithmetic", answers(200, 10), {}, num_unanswered=150)
    assert "wrote no answer that can be read to 75% of the problems" in published(tmp_path)
    evaluation(folder / "evaluate_untuned", "arithmetic", answers(200, 40), {}, num_unanswered=150, prompt="few_shot")
    with changing(folder / "run.json") as facts:
        facts["config"]["backbone"]["prompt"] = "lema"
    text = published(tmp_path)
    assert "| tiny | 20.0 {15.0, 26.1} few_shot | not run" in text
    assert "| tiny | untuned: few_shot |" in text
    assert "The untuned backbone was asked otherwise (few_shot) than the fine-tuned models." in text
    assert "no answer that can be read" not in text
    assert [arm["prompt"] for arm in numbers(tmp_path)["arms"]] == ["few_shot", None]


def test_the_headline_is_the_mean_of_the_paired_differences_with_students_interval_over_seeds(tmp_path: Path) -> None:
    for seed, right in ((1, 180), (2, 170), (3, 160)):
        tiny(tmp_path, "lema", seed, right)
    for seed, right in ((1, 160), (2, 160), (4, 20)):
        tiny(tmp_path, "cot", seed, right)
    text = published(tmp_path)
    # +10 and +5 points: 7.5 ± 12.706 * 3.5355 / sqrt(2); with 1 degree of freedom p = 2 atan(sd / (mean sqrt(2))) / pi
    assert "| lema − cot |" in text
    assert "| +7.5 | [-24.3, +39.3] | 0.205 | 0.205 | 2 of 2 |" in text
    assert "cot has no seed 3: the other arms' runs of it pair with none." in text
    assert "lema has no seed 4" in text
    assert "no difference shown, +7.5 points [-24.3, +39.3] over 2 seeds" in text
    assert "run mix=cot_matched" in text
    [found] = numbers(tmp_path)["differences"]
    assert found["flips"]["1"] == {"lost": [], "gained": [f"arithmetic-test-{number}" for number in range(160, 180)]}
    assert found["mcnemar"]["1"] == pytest.approx(2 * 0.5**20)


@pytest.mark.parametrize(
    ("matched", "words"),
    [
        ((120, 122, 125), "it helps, +19.8 points"),
        ((200, 200, 199), "it costs, -18.8 points"),
        ((150, 200, 150), "no difference shown, -2.3 points"),
        ((120, 122, 124), "+20.0 points in each of 3 seeds, so their spread cannot be told"),
    ],
)
def test_words_follow_the_numbers(tmp_path: Path, matched: tuple[int, ...], words: str) -> None:
    for seed, right in zip((1, 2, 3), matched, strict=True):
        tiny(tmp_path, "lema", seed, 160 + 2 * seed - 2)
        tiny(tmp_path, "cot_matched", seed, right)
    assert f"same questions, same size: {words}" in published(tmp_path)


def test_arms_that_never_differ_have_no_interval_of_no_width(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180)
    tiny(tmp_path, "cot", 1, 180)
    assert "| lema − cot | tiny | +0.0 | – | 1.000* | 1.000 | 0 of 1 | – | 1.000 | 0 / 0 | – |" in published(tmp_path)


def test_one_seed_has_no_headline_and_says_so(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180)
    tiny(tmp_path, "cot", 1, 160)
    text = published(tmp_path)
    assert "One training seed (1): how much training itself varies is not covered." in text
    assert "| +10.0 | – | 2e-06* | 2e-06 | 1 of 1 | {+6.0, +14.5} |" in text
    assert "+10.0 points in the one seed run (McNemar p 1.9e-06), which says nothing of training noise" in text


def test_both_rules_stand_in_the_table(tmp_path: Path) -> None:
    for seed, right, differ in ((1, 160, 4), (2, 170, 7)):
        ids = [f"arithmetic-test-{number}" for number in range(differ)]
        tiny(tmp_path, "lema", seed, right, score={"accuracy_symbolic": (right + differ) / 200, "disagreements": ids})
    assert "| 85.2 (6) | 0.0 | 200 | 300 | 21,000 | 57 | 1.5 | 0 |" in published(tmp_path)


@pytest.mark.parametrize(("selection", "split", "label", "words"), table(__file__, "how the checkpoint was chosen"))
def test_how_the_checkpoint_was_chosen_stands_beside_its_accuracy(
    tmp_path: Path, selection: str, split: str, label: str, words: str | None
) -> None:
    tiny(tmp_path, "lema", 1, 160, selection=selection, score={"selection": selection, "split": split})
    text = published(tmp_path)
    assert f"| lema: CoT + corrections of the failed questions | {label} |" in text
    assert words in text if words else "optimistic" not in text


def test_other_arms_stand_in_the_table_once_they_are_run(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180)
    tiny(tmp_path, "cot", 1, 160)
    text = published(tmp_path)
    assert "cot_tokens" not in text
    assert "lema_no_step" not in text
    tiny(tmp_path, "cot_tokens", 1, 170)
    tiny(tmp_path, "lema_32k", 1, 150)
    tiny(tmp_path, "mine", 1, 140)
    text = published(tmp_path)
    assert "| untuned | cot | cot_random | cot_matched | lema | cot_tokens | lema_32k | mine |" in text
    assert "| lema − cot_tokens | tiny | +5.0 |" in text
    assert "| lema_32k − cot | tiny | -5.0 |" in text
    assert "*lema − cot_tokens*: as many training tokens." in text


def test_a_mix_that_the_command_line_changed_is_an_arm_of_its_own(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180)
    parts = {"without": "step", "weights": {"solution": 1.0}}
    tiny(tmp_path, "lema", 1, 120, overrides=["mix.without=step"], parts=parts, limit=None, selection="last")
    text = published(tmp_path)
    assert "| lema | lema (mix.without=step) |" in text
    assert "| 90.0 {85.1, 93.4} ×1 | 60.0 {53.1, 66.5} ×1 |" in text
    assert " mix=cot " in text
    assert "mix.without=step mix=cot " not in text


def test_an_arm_is_what_its_mix_is_and_not_what_was_typed(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180, overrides=["mix.weights.solution=1"])  # as it comes
    tiny(tmp_path, "lema", 2, 120, parts={"weights": {"solution": 0.5}})  # by ++, or a sweep's file
    tiny(tmp_path, "cot", 1, 150)
    text = published(tmp_path)
    assert "| untuned | cot | cot_random | cot_matched | lema | lema (mix.weights.solution=0.5) |" in text
    assert "| lema − cot | tiny | +15.0 |" in text


def test_of_two_runs_of_one_arm_and_seed_one_counts_and_the_other_is_named(tmp_path: Path) -> None:
    first = tiny(tmp_path, "lema", 1, 180)
    second = tiny(tmp_path, "lema", 1, 120, selection="last", score={"selection": "last"})
    text = published(tmp_path)
    one, other = sorted([first.name, second.name])
    assert "1 evaluated run, and 1 that are named at the end." in text
    assert f"it has the setting, arm and seed of arithmetic-tiny-None-lema-seed1 ({one}), which counts" in text
    assert other not in text.partition("which counts")[0].rpartition("named")[0]


def test_only_a_stated_contrast_is_drawn_that_is_known_for_nothing(tmp_path: Path) -> None:
    for mix, right in (("cot", 150), ("cot_tokens", 160)):
        tiny(tmp_path, mix, 1, right)
    folder, comparison, _ = report.write_report(tmp_path, contrasts=[("cot_tokens", "cot")], margin=0.03)
    assert [(each.arm, each.other) for each in comparison.differences] == [("cot_tokens", "cot")]
    assert (folder / "differences-arithmetic.png").is_file()


def test_settings_are_rows_told_apart_by_what_differs_and_never_compared_with_each_other(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180)
    tiny(tmp_path, "cot", 1, 150, setting="b", train={"method": "full", "learning_rate": 0.002})
    text = published(tmp_path)
    assert "| tiny (train.learning_rate=0.001; a) |" in text
    assert "| tiny (train.learning_rate=0.002; b) |" in text
    assert "lema − cot" not in text


def test_real_tasks_say_why_the_tiny_backbone_fails_and_limit_is_shown(tmp_path: Path) -> None:
    folder = run(tmp_path, "lema", 1, answers(50, 2), limit=50, backbone={"name": "tiny", "size": None})
    (folder / "base").mkdir()
    record(folder / "base", "base", {"parameters": 400_000, "texts_too_long": 3}, {}, shown=asdict(base.SHOWN))
    text = published(tmp_path)
    assert "## gsm8k, first 50: 50 problems" in text
    assert "0.4 million parameters" in text
    assert "first 50 problems: a rehearsal, not a result" in text
    assert "pretraining texts too long for the base 3" in text


def test_the_papers_numbers_stand_beside_ours_and_mistral_has_none(tmp_path: Path) -> None:
    for mix, right in (("cot", 700), ("lema", 730)):
        run(tmp_path, mix, 1, answers(1319, right))
        run(tmp_path, mix, 1, answers(1319, right), setting="m", backbone={"name": "mistral", "size": "7b"})
    text = published(tmp_path)
    assert "| – the paper | 14.6 ±1.0 | 52.6 ±1.4 |  | 53.6 ±1.4 | 54.1 ±1.4 |" in text
    assert text.count("the paper |") == 1
    paper = {(row["backbone"], row["arm"]): row["paper"] for row in numbers(tmp_path)["differences"]}
    assert paper["llama2 7b", "lema"] == pytest.approx(0.015)
    assert paper["mistral 7b", "lema"] is None


@pytest.mark.parametrize(("problems", "limit"), [(50, 50), (600, None), (1319, 2000)])
def test_a_rehearsal_or_a_part_of_the_test_split_is_not_held_against_the_paper(
    tmp_path: Path, problems: int, limit: int | None
) -> None:
    for mix in ("cot", "lema"):
        run(tmp_path, mix, 1, answers(problems, 20), limit=limit)
    assert "– the paper" not in published(tmp_path)
    assert [row["paper"] for row in (*numbers(tmp_path)["arms"], *numbers(tmp_path)["differences"])] == [None] * 4


def test_holm_corrects_over_the_rows_of_one_difference(tmp_path: Path) -> None:
    for place, size in enumerate(("7b", "13b", "70b")):
        for seed in (1, 2, 3):
            backbone = {"name": "llama2", "size": size}
            run(tmp_path, "cot", seed, answers(1000, 500), setting=size, backbone=backbone)
            gain = 20 + 12 * seed * (place + 1)
            run(tmp_path, "lema", seed, answers(1000, 500 + gain), setting=size, backbone=backbone)
    published(tmp_path)
    found = [row for row in numbers(tmp_path)["differences"] if row["other"] == "cot"]
    ordered = sorted(found, key=lambda row: row["p"])
    expected, least = [], 0.0
    for rank, row in enumerate(ordered):
        least = max(least, min(1.0, (3 - rank) * row["p"]))
        expected.append(least)
    assert [row["p_holm"] for row in ordered] == pytest.approx(expected)
    assert all(first <= second for first, second in pairwise(expected))


def test_a_run_that_died_or_was_stopped_is_named_with_its_reason(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180)
    for seed, state in ((2, "running"), (3, "GPU is gone: /home/jane/x/y.bin"), (4, "stopped after mix")):
        folder = tiny(tmp_path, "lema", seed, 180, state=state)
        for step in ("evaluate", "select", "train"):
            shutil.rmtree(folder / step)
    text = published(tmp_path)
    assert "1 evaluated run, and 3 that are named at the end." in text
    assert "seed2: it was not finished: it stopped without a word (killed?) or still runs, after mix" in text
    assert "seed3: it failed after mix: GPU is gone: /home/jane/x/y.bin" in text
    assert "seed4: it ended after mix, as asked" in text


def test_an_earlier_score_of_a_run_whose_last_attempt_failed_stands_and_that_is_said(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180, state="no disk left at /home/jane/runs")
    text = published(tmp_path)
    assert (
        "The last attempt of arithmetic-tiny-None-lema-seed1 ended otherwise (no disk left at /home/jane/runs)" in text
    )
    assert "| 90.0 {85.1, 93.4} ×1 |" in text


def test_a_score_of_an_older_version_or_of_an_earlier_mix_is_named_and_not_compared(tmp_path: Path) -> None:
    old, stale, rules = (tiny(tmp_path, "lema", seed, 180) for seed in (1, 2, 4))
    tiny(tmp_path, "lema", 3, 160)
    csqa = {"config": {"grader": "csqa"}}  # whose rules have changed since the version of all evaluations
    for folder, step, change in (
        (old, "evaluate", {"version": 3}),
        (stale, "mix", {"version": 9}),
        (rules, "evaluate", csqa),
    ):
        with changing(folder / step / "record.json") as facts:
            facts["recipe"] |= change
    text = published(tmp_path)
    assert "its score is of version 3 of the evaluation, now 5; run its command again" in text
    assert "its score is of version 5 of the evaluation, now 6; run its command again" in text
    assert "its train was made from an earlier mix; run its command again" in text
    assert "| 80.0 {73.9, 85.0} ×1 |" in text


def test_a_step_that_no_code_here_names_is_a_runs_own_counted_and_checked(tmp_path: Path) -> None:
    folder = tiny(tmp_path, "lema", 1, 180)
    (folder / "average").mkdir()
    shown = {"type": "model", "losses": {"skipped": "{arm}: checkpoints that were skipped"}}
    average = record(folder / "average", "average", {"skipped": 2}, {"train": made(folder / "train")}, shown=shown)
    evaluation(folder / "evaluate", "arithmetic", answers(200, 180), {"average": average})
    text = published(tmp_path)
    assert "Counted: lema: checkpoints that were skipped 2." in text
    assert numbers(tmp_path)["runs"][folder.name]["hours"] == 2.0  # of train, average, select and evaluate
    record(folder / "average", "average", {"skipped": 3}, {"train": "another"})
    assert "its average was made from an earlier train; run its command again" in published(tmp_path)


@pytest.mark.parametrize("step", ["evaluate", "evaluate_untuned"])
@pytest.mark.parametrize("damage", [lambda it: it.pop("accuracy"), lambda it: it.update(bleu=0.5)])
def test_a_score_of_other_fields_is_named_and_not_compared(tmp_path: Path, step: str, damage: Any) -> None:
    tiny(tmp_path, "cot", 1, 160)
    with changing(tiny(tmp_path, "lema", 1, 180) / step / "record.json") as facts:
        damage(facts["summary"])
    text = published(tmp_path)
    assert f"its {step}/record.json has not the fields of a score; delete what {step} links to and run" in text
    assert "1 evaluated run, and 1 that" in text


@pytest.mark.parametrize("damage", ["removed", "cut", "changed", "binary", "record"])
def test_damaged_predictions_leave_the_score_and_are_named(tmp_path: Path, damage: str) -> None:
    folder = tiny(tmp_path, "lema", 1, 180)
    tiny(tmp_path, "cot", 1, 160)
    file = folder / "evaluate" / "predictions.jsonl"
    if damage == "removed":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    elif damage == "changed":
        file.write_text(file.read_text().replace('"correct": true', '"correct": false', 1))
    elif damage == "binary":
        file.write_bytes(b"\xff\xfe\x00")
    else:
        (folder / "evaluate" / "record.json").write_text("{")
    text = published(tmp_path)
    if damage == "record":
        assert f"{folder.name}: its evaluate/record.json cannot be read; delete what evaluate links to" in text
        return
    assert "are missing or damaged: the scores stand" in text
    assert "| lema − cot |" in text
    assert "| +10.0 | – | – | – | 1 of 1 | – | – | – | – |" in text


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00", '{"name": 1}'])
def test_an_unreadable_run_is_named(tmp_path: Path, content: str) -> None:
    folder = tiny(tmp_path, "lema", 1, 180)
    (folder / "run.json").write_text(content)
    assert f"{folder.name}: its run.json cannot be read" in published(tmp_path)


def mutilated(value: Any, rng: random.Random) -> Any:
    """The same JSON with one thing in it gone, null, or of another type."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        if rng.random() < 0.3:
            return {name: part for name, part in value.items() if name != key}
        return value | {key: mutilated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], mutilated(value[place], rng), *value[place + 1 :]]
    return rng.choice([None, "x", -1, [], {}, 1e400])


@pytest.mark.parametrize("damages", some([100, 300], 2))
def test_no_damage_to_any_file_of_a_run_stops_the_report_of_the_others(tmp_path: Path, damages: int) -> None:
    samples = np.arange(800).reshape(200, 4) % 7 < 3
    tiny(tmp_path, "lema", 1, 180, samples=samples)
    tiny(tmp_path, "cot", 1, 160, samples=samples)
    folder, rng = tiny(tmp_path, "lema", 2, 170, samples=samples), random.Random(0)
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*.json*")) if path.is_file()}
    damaged = 0
    for number in range(damages):
        path, whole = rng.choice(list(files.items()))
        if number % 4 == 0:
            path.write_bytes(whole[: rng.randrange(len(whole))])
        elif path.suffix == ".jsonl":
            lines = whole.splitlines(keepends=True)
            line = rng.randrange(len(lines))
            lines[line] = json.dumps(mutilated(json.loads(lines[line]), rng)).encode() + b"\n"
            path.write_bytes(b"".join(lines))
        else:
            path.write_text(json.dumps(mutilated(json.loads(whole), rng)))
        comparison = compare([report.checked(run) for run in read_runs(tmp_path)])
        text = render(comparison, {})
        assert folder.name in json.loads(as_json(comparison))["runs"], path
        assert "| lema − cot | tiny" in text, path
        damaged += "Not compared" in text
        if number % 30 == 0:
            draw(comparison, tmp_path)
        path.write_bytes(whole)
    assert damaged > damages / 6


@pytest.mark.parametrize("step", ["evaluate", "correct"])
def test_a_score_or_a_cost_that_was_changed_by_hand_is_named_and_not_used(tmp_path: Path, step: str) -> None:
    tiny(tmp_path, "lema", 1, 180)
    folder = tiny(tmp_path, "lema", 2, 180)
    (folder / step).mkdir(exist_ok=True)
    recipe = Recipe(step, "x", SCORE_VERSION, {}, {}, Shown("predictions"))
    artifact, _ = Store(tmp_path / "made").make(recipe, lambda _: {"usd": 1.0})
    facts = json.loads((artifact.path / "record.json").read_text()) | {"summary": {"usd": 0.0}}
    (folder / step / "record.json").write_text(json.dumps(facts))
    text = published(tmp_path)
    assert f"seed2: its {step}/record.json was changed after it was made; delete what {step} links to and run" in text
    assert "1 evaluated run, and 1 that" in text


def test_different_versions_and_devices_are_said(tmp_path: Path) -> None:
    tiny(tmp_path, "cot", 1, 180)
    folder = tiny(tmp_path, "lema", 1, 180)
    for step in ("train", "evaluate"):
        with changing(folder / step / "record.json") as facts:
            facts["made"] |= {"device": "NVIDIA H100", "versions": {"torch": "2.11.0"}}
    text = published(tmp_path)
    assert "trained on different devices (NVIDIA A100, NVIDIA H100)" in text
    assert "torch 2.11.0 and 2.13.0" in text


def test_an_empty_folder_says_what_to_run(tmp_path: Path) -> None:
    assert "No run has been evaluated yet" in published(tmp_path)
    assert numbers(tmp_path)["arms"] == []


def test_tables_for_other_programs_hold_the_same_numbers(tmp_path: Path) -> None:
    for seed in (1, 2):
        tiny(tmp_path, "lema", seed, 180 + seed)
        tiny(tmp_path, "cot", seed, 160)
    folder, comparison, _ = report.write_report(tmp_path)
    arms, differences = (list(csv.DictReader((folder / name).open())) for name in ("report.csv", "differences.csv"))
    assert [row["arm"] for row in arms] == ["untuned", "cot", "lema"]
    assert float(arms[2]["accuracy"]) == pytest.approx(comparison.arms[2].accuracy.mean) == pytest.approx(181.5 / 200)
    assert arms[2]["accuracies"] == "1=0.905 2=0.91"
    assert float(differences[0]["over_seeds_low"]) == pytest.approx(comparison.differences[0].over_seeds.interval.low)  # pyright: ignore[reportOptionalMemberAccess]


def test_nothing_is_drawn_again_when_nothing_changed(tmp_path: Path) -> None:
    tiny(tmp_path, "lema", 1, 180)
    folder, _, new = report.write_report(tmp_path)
    pictures = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert new
    assert set(pictures) == {"accuracy-arithmetic.png", "curves-arithmetic.png"}
    _, _, again = report.write_report(tmp_path)
    assert not again
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")} == pictures
    tiny(tmp_path, "cot", 1, 160)
    assert report.write_report(tmp_path)[2]
    assert (folder / "differences-arithmetic.png").is_file()


def test_processes_that_end_at_once_write_one_whole_report(tmp_path: Path) -> None:
    for seed in (1, 2):
        tiny(tmp_path, "lema", seed, 180 + seed)
        tiny(tmp_path, "cot", seed, 160)
    code = "import sys, pathlib; from lema.reporting import report; report.write_report(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
    folder = tmp_path / "reports" / "all"
    assert len(list(folder.glob("*.png"))) == (folder / "report.md").read_text().count("![") == 3
    assert not list(folder.parent.glob("*.lock"))


def test_accuracy_by_level_is_counted_by_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = [f"Level {level}" for level in (1, 2, 3, 4, 5)]
    right = rng.random(500) < 0.4
    folder = run(tmp_path, "lema", 1, right, levels=levels, task={"name": "math", "real": True, "grader": "math"})
    assert folder.is_dir()
    published(tmp_path)
    [arm] = [row for row in numbers(tmp_path)["arms"] if row["arm"] == "lema"]
    assert arm["by_level"] == {level: [pytest.approx(right[place::5].mean())] for place, level in enumerate(levels)}


def test_a_report_has_paths_in_its_commands_and_what_is_shared_of_it_has_none(tmp_path: Path) -> None:
    folder = tiny(tmp_path, "lema", 1, 180)
    tiny(tmp_path, "lema", 2, 180, state="no disk left at /home/jane/runs")
    with changing(folder / "run.json") as facts:
        facts["overrides"] += ["task.dataset.path=/home/jane/my data/gsm8k", "backbone.path='/home/jane/[a] b$c'"]
    reported, comparison, _ = report.write_report(tmp_path)
    text, shared = ((reported / name).read_text() for name in ("report.md", ".shared.md"))
    assert "-m backbone=tiny" in text, "for all seeds of the other arms"
    assert f"seed=1,2 mix=cot runs_dir={tmp_path}`" in text
    assert shlex.quote("task.dataset.path=/home/jane/my data/gsm8k") in text
    assert "task.dataset.path=FOLDER backbone.path=FOLDER" in shared
    assert "FOLDER stands for a path" in shared
    at_wandb = report.at_wandb(comparison, tmp_path, "all")
    for seen in (shared, str(at_wandb), *(file.read_text() for file in reported.glob("*.[jc]s*"))):
        assert not {each for each in ("jane", "my data", "[a]", str(tmp_path)) if each in seen}
