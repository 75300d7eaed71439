"""The symbolic rules on whole texts: what a careful reader calls right, in the ways that models write."""

import doctest
import json
from pathlib import Path

import pytest
from tables import tab_separated

from lema.grading import choices, numerals, quantities, symbolic

CANDIDATES = ("bank", "library", "department store", "mall", "new york")
# Cases that we read otherwise than their label does: id to our verdict and the reason; at most 3 in 100.
OTHER_READINGS: dict[str, tuple[bool, str]] = {}


TEXTS = [
    (truth == "yes", task, text, gold)
    for truth, task, text, gold in tab_separated(Path(__file__).with_name("symbolic_texts.tsv"))
]


def right(text: str, gold: str, task: str, candidates: tuple[str, ...] | list[str] = ()) -> bool:
    """By the fast rules and then SymPy's: what the workers do, in this process."""
    found = symbolic.extract(text, task, candidates)
    verdict = False if found is None else symbolic.quick(found, gold, task)
    return symbolic.equivalent(found or "", gold) if verdict is None else verdict


def test_the_table_of_texts_has_both_truths_in_number() -> None:
    for task in ("gsm8k", "math"):
        truths = [truth for truth, of, *_ in TEXTS if of == task]
        assert min(truths.count(True), truths.count(False)) >= 100


@pytest.mark.parametrize("task", ["gsm8k", "math"])
def test_a_text_is_judged_as_a_careful_reader_judges_it(task: str) -> None:
    rows = [row for row in TEXTS if row[1] == task]
    assert [row for row in rows if right(row[2], row[3], task) != row[0]] == []


def test_numbers_are_read_alike_in_every_number_task() -> None:
    rows = [row for row in TEXTS if row[1] == "gsm8k"][::7]
    for task in ("svamp", "asdiv", "arithmetic"):
        assert [row for row in rows if right(row[2], row[3], task) != row[0]] == []


@pytest.mark.parametrize("frame", ["{}", "The answer is {}", "She reads.\n\nAnswer: {}", "\\boxed{{{}}}", "#### {}"])
def test_a_choice_is_named_in_any_dress(frame: str) -> None:
    for truth, task, text, gold in TEXTS:
        if task != "csqa" or (frame != "{}" and len(text.split()) > 3):
            continue
        named = [name for name in CANDIDATES if right(frame.format(text), name, "csqa", CANDIDATES)]
        assert named == ([gold] if truth else []), (frame, text)


def test_a_candidate_of_several_words_or_with_a_denial_in_it_is_named() -> None:
    candidates = ["false information", "not eat", "turn around", "turn around and walk", "washington d.c.", "the sea"]
    for text, name in [
        ("The correct answer is \\boxed{(A) false information}.", "false information"),
        ("The answer is not eat.", "not eat"),
        ("The answer is turn around.", "turn around"),
        ("The answer is turn around and walk.", "turn around and walk"),
        ("The answer is Washington D.C.", "washington d.c."),
        ("The answer is sea.", "the sea"),
        ("The answer is to turn around and a walk.", "turn around and walk"),
    ]:
        assert symbolic.extract(text, "csqa", candidates) == name


def test_the_labelled_cases_come_out_as_labelled(data_dir: Path) -> None:
    if not (data_dir / "cases").is_dir():
        pytest.skip("the data folder has no cases/")
    lines = (data_dir / "cases/grading.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(OTHER_READINGS) <= 0.03 * len(rows)
    differing = {
        row["id"]
        for row in rows
        if right(row["input"], row["gold"], row["task"], row["candidates"] or ()) != row["expected"]
    }
    assert differing == set(OTHER_READINGS)


@pytest.mark.parametrize("module", [choices, numerals, quantities], ids=lambda module: module.__name__)
def test_the_documented_instances_hold(module) -> None:
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted
