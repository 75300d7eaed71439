"""do=compare: two runs side by side, by the front door."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from simulated import answers, changing, run

from lema import pipeline
from lema.config import Config
from lema.types import UserError


@pytest.fixture
def compared(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., tuple[str, dict]]:
    """Runs the command and reads what it wrote."""

    def compare(a: str, b: str, *overrides: str) -> tuple[str, dict]:
        pipeline.run(
            make_config("do=compare", f"runs_dir={tmp_path}", f"compare.a={a}", f"compare.b={b}", *overrides), []
        )
        [folder] = (tmp_path / "reports").iterdir()
        return (folder / "compare.md").read_text(), json.loads((folder / "compare.json").read_text())

    return compare


def test_flips_differences_in_settings_and_examples_stand_side_by_side(
    tmp_path: Path, compared: Callable[..., tuple[str, dict]]
) -> None:
    mine = answers(100, 60)
    theirs = np.roll(mine, 5)  # the first five are wrong, five more at the end right
    run(tmp_path, "lema", 1, mine)
    run(tmp_path, "cot", 2, theirs, train={"method": "lora", "learning_rate": 1e-3})
    text, facts = compared("gsm8k-llama2-7b-lema", "gsm8k-llama2-7b-cot", "compare.examples=2")
    assert facts["right_only_in_a"] == [f"gsm8k-test-{number}" for number in range(5)]
    assert facts["right_only_in_b"] == [f"gsm8k-test-{number}" for number in range(60, 65)]
    assert facts["differ"]["train.method"] == ["qlora", "lora"]
    assert "| seed | 1 | 2 |" in text
    assert "a − b: +0.0 points" in text
    assert "McNemar's exact p 1, on 100 problems" in text
    assert text.count("**gsm8k-test-") == 4
    assert "**gsm8k-test-60** How many? *Gold: 10*\n\n| a | b |" in text


def test_what_a_model_wrote_cannot_write_to_a_terminal_or_a_page(
    tmp_path: Path, compared: Callable[..., tuple[str, dict]]
) -> None:
    run(tmp_path, "lema", 1, answers(4, 1))
    folder = run(tmp_path, "cot", 1, answers(4, 0))
    file = folder / "evaluate" / "predictions.jsonl"
    hostile = "2 < 3\x1b[2J | a\r\nb\u2028c <img src=x>"
    rows = [json.loads(line) | {"text": hostile} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with changing(folder / "evaluate" / "record.json") as facts:
        facts["files"]["predictions.jsonl"] = hashlib.sha256(file.read_bytes()).hexdigest()
    text, _ = compared("gsm8k-llama2-7b-lema", "gsm8k-llama2-7b-cot")
    assert "| 2 < 3[2J \\| a<br>b<br>c &lt;img src=x> |" in text
    assert "\x1b" not in text


def test_runs_of_one_task_with_other_limits_are_compared_on_their_common_problems(
    tmp_path: Path, compared: Callable[..., tuple[str, dict]]
) -> None:
    run(tmp_path, "lema", 1, answers(100, 60))
    run(tmp_path, "cot", 1, answers(50, 10), limit=50)
    text, facts = compared("gsm8k-llama2-7b-lema", "gsm8k-llama2-7b-cot")
    assert facts["problems"] == 50
    assert len(facts["right_only_in_a"]) == 40
    assert "Only the problems that both were asked are compared." in text


def test_what_cannot_be_compared_is_said_in_one_line(
    tmp_path: Path, compared: Callable[..., tuple[str, dict]], make_config: Callable[..., Config]
) -> None:
    run(tmp_path, "lema", 1, answers(100, 60))
    run(tmp_path, "lema", 2, answers(100, 60))
    dead = run(tmp_path, "cot", 1, answers(100, 60), state="running")
    (dead / "evaluate" / "record.json").unlink()
    damaged = run(tmp_path, "cot", 2, answers(100, 60))
    (damaged / "evaluate" / "predictions.jsonl").write_text("{}")
    run(tmp_path, "lema", 1, answers(9, 3), task={"name": "svamp", "real": True, "grader": "svamp"})
    own = "gsm8k-llama2-7b-lema-seed1"
    for named, words in (
        ("gsm8k-llama2-7b-lema", "2 runs begin so"),
        ("nothing", "no such run in"),
        ("gsm8k-llama2-7b-cot-seed1", "it was not finished"),
        ("gsm8k-llama2-7b-cot-seed2", "its predictions are missing or damaged"),
        ("svamp", "were asked no common problem"),
    ):
        with pytest.raises(UserError, match=words):
            compared(own, named)
    with pytest.raises(UserError, match=r"compare\.b=null: name a run"):
        pipeline.run(make_config("do=compare", f"runs_dir={tmp_path}", f"compare.a={own}"), [])


def test_runs_to_compare_are_refused_where_nothing_is_compared(make_config: Callable[..., Config]) -> None:
    with pytest.raises(UserError, match=r"compare\.a: does nothing without do=compare"):
        make_config("compare.a=x")
