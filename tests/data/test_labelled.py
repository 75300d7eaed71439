"""Files with human labels: each layout's base, what is left out and counted, and what is refused in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lema.config import Config
from lema.data import labelled, tasks
from lema.types import UserError

QUESTION = "Tom has 5 apples and gets 3. How many has he?"
STEPS = ["Tom has 5 apples.", "5 + 3 = 9.", "The answer is 9."]
BENCH = {"problem": QUESTION, "steps": STEPS, "label": 1, "generator": "g"}
MR = {
    "question": "What is 2 + 2?",
    "model_output_steps": ["Step 1: 2 + 2 = 5.", "Step 2: #### 5"],
    "model_output_solution_first_error_step": 1,
    "ground_truth_solution": "2 + 2 = <<2+2=4>>4\n#### 4",
    "ground_truth_answer": 4,
    "question_type": "original",
}

FIRST = "model_output_solution_first_error_step"


@pytest.fixture
def load(tmp_path: Path, make_config: Callable[..., Config]) -> Callable[..., Any]:
    row = {"question": QUESTION, "answer": "5 + 3 = <<5+3=8>>8\n#### 8"}
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")

    def loaded(*rows: dict[str, Any], limit: int | None = None) -> Any:
        file = tmp_path / "labels.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = tasks.tested_on(make_config("task=gsm8k", f"task.dataset.path={tmp_path}").task)
        return labelled.load(labelled.source(str(file), source, limit))

    return loaded


def test_both_layouts_are_read_with_their_own_base(load: Callable[..., Any]) -> None:
    right = {"label": -1, "steps": [*STEPS[:1], "5 + 3 = 8.", "The answer is 8."]}
    fine = {"model_output_solution_first_error_step": "N/A", "model_output_steps": ["2 + 2 = 4."]}
    problems, solutions, counts = load(BENCH, BENCH | right, MR, MR | fine)
    assert [each.label for each in solutions] == [2, None, 1, None]
    assert [each.generator for each in solutions] == ["g", "g", "not named", "not named"]
    assert solutions[2].steps == ["2 + 2 = 5.", "#### 5"]
    assert [(each.answer, each.solution) for each in problems[1:3]] == [
        ("8", "5 + 3 = <<5+3=8>>8"),
        ("4", "2 + 2 = <<2+2=4>>4"),
    ]
    assert [each.problem_id for each in solutions] == [each.id for each in problems]
    assert counts["labels"] == {"from_0": 2, "from_1": 2}


def test_a_limit_takes_from_all_parts_of_a_file(load: Callable[..., Any]) -> None:
    wrong = [BENCH | {"steps": [f"{number} apples.", *STEPS]} for number in range(6)]
    right = [each | {"label": -1, "steps": each["steps"][:1]} for each in wrong[:3]]
    for limit, labels in ((3, [2, 2, None]), (8, [2] * 6 + [None] * 2), (20, [2] * 6 + [None] * 3)):
        problems, solutions, _ = load(*wrong, *right, limit=limit)
        assert [each.label for each in solutions] == labels
        assert [each.problem_id for each in solutions] == [each.id for each in problems]
        assert len({each.problem_id for each in solutions}) == len(labels)


def test_what_a_table_lacks_or_writes_otherwise_is_read(load: Callable[..., Any]) -> None:
    nan = float("nan")
    lacking = dict.fromkeys(("ground_truth_answer", "generator", "question_type", "ground_truth_solution"), nan)
    _, (bench, right), _ = load(BENCH | lacking | {"label": 1.0}, MR | {FIRST: nan, "question_type": None})
    assert (bench.label, bench.generator, bench.kind, bench.gradable) == (2, "not named", "", True)
    assert (right.label, right.kind) == (None, "")
    ended = {"model_output_steps": ["2 + 2 = 5.", "#### 5</s>"], "ground_truth_solution": nan}
    problems, solutions, _ = load(
        *(MR | ended | {"question": each, "ground_truth_answer": each} for each in ("-04", "4/0"))
    )
    assert [(each.answer, each.solution) for each in problems] == [("-4", ""), ("4/0", "")]
    assert [(each.steps[-1], each.gradable) for each in solutions] == [("#### 5", True), ("#### 5", False)]


def test_what_cannot_be_used_is_counted(load: Callable[..., Any]) -> None:
    unknown, empty, outside = {"problem": "Another?"}, {"steps": []}, {"label": 7, "steps": STEPS[:2]}
    _, solutions, counts = load(
        BENCH, BENCH, BENCH | {"label": 0}, *(BENCH | each for each in (unknown, empty, outside))
    )
    assert len(solutions) == 1
    assert counts["left_out"] == {
        "without_steps": 1,
        "repeated": 2,
        "label_of_no_step": 1,
        "question_of_no_problem": 1,
    }
    _, [solution], _ = load(MR | {"ground_truth_answer": "Let's think."})
    assert not solution.gradable


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"problem": QUESTION, "steps": STEPS}], "line 1: no human label among its fields problem, steps; an audit"),
        ([BENCH | {"label": "two"}], "line 1, field 'label': 'two' is no number of a step; mend or remove the row"),
        ([BENCH, BENCH | {"label": 3}], "1 labels are one behind the last step and none is 0, so they count from 1"),
        ([{"steps": STEPS, "label": 0}], "line 1: no question among its fields steps, label; name the field question"),
        ([BENCH | {"problem": "Another?"}], "no row can be used with task=gsm8k (question of no problem: 1)"),
        ([BENCH | {"label": None}], "line 1, field 'label': None is no number of a step"),
        ([BENCH | {"label": 1.5}], "line 1, field 'label': 1.5 is no number of a step"),
        ([MR | {FIRST: None, "model_output_solution_correctness": "wrong"}], f"'{FIRST}': None is no number of a step"),
        ([BENCH | {"label": 0, "steps": None}], "no row can be used with task=gsm8k (without steps: 1)"),
        ([BENCH | {"problem": "nan"}], "line 1: no question among its fields"),
        ([], "no row can be used with task=gsm8k (it has no row)"),
    ],
)
def test_a_file_that_cannot_be_audited_on_is_refused_in_one_line(load, rows: list[dict], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as refused:
        load(*rows)
    assert "\n" not in str(refused.value)


def test_names_lie_beside_the_data_set_or_on_the_hub(make_config: Callable[..., Config]) -> None:
    here = tasks.tested_on(make_config("task=gsm8k", "task.dataset.path=/data/gsm8k").task)
    hub, other = (tasks.tested_on(make_config(f"task={name}").task) for name in ("gsm8k", "math"))
    assert labelled.source("processbench", here, None).path == "/data/first_error/processbench_gsm8k.jsonl"
    assert labelled.source("mr_gsm8k", here, None).path == "/data/first_error/mr_gsm8k.jsonl"
    assert labelled.source("processbench", hub, None).path is None
    for name, problems in (("mr_gsm8k", hub), ("processbench", other)):
        with pytest.raises(UserError, match=rf"audit\.data={name}: not on the Hub for task={problems.name}"):
            labelled.source(name, problems, None)
