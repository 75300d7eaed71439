"""A corrector's reply through the front, reader and verdict: what it looks like changes nothing, what it says does."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tables import some, table

from lema.correctors.checking import checked
from lema.correctors.reference import correct, equations_of
from lema.grading.generated import answer_part
from lema.prompts.formats import reference_steps, split_steps
from lema.prompts.replies import read_correction
from lema.types import Correction, Problem, Solution

WRONG = [
    *("Ann has 3 + 4 = 7 pens.", "She loses 2, so 7 - 2 = 6 are left.", "She buys 6 more, which makes 6 + 6 = 12."),
    "The answer is 12.",
]
WHY = "7 - 2 is 5, not 6."
RIGHT = ["She loses 2, so 7 - 2 = 5 are left.", "She buys 6 more, which makes 5 + 6 = 11.", "The answer is 11."]
PENS = Problem("p", "Ann has 3 pens and gets 4, loses 2 and buys 6. How many has she?", "", "11")


def front(reply: str, wrong: list[str] = WRONG, problem: Problem = PENS, grader: str = "gsm8k") -> Correction:
    said, reason = read_correction(reply, wrong, problem.candidates)
    solution = Solution("p", "m", 0, "\n".join(wrong), "12", correct=False, symbolic=False, truncated=False)
    return checked((problem, solution, wrong), said, reason, "c", grader)


def assert_read(reply: str, steps: list[str] = RIGHT) -> None:
    found = front(reply)
    assert (found.reason, found.incorrect_step, found.explanation) == (None, 2, WHY), reply
    assert found.correct_steps == steps


# A case's id -> why it is read otherwise than its label says.
OTHER_READINGS: dict[str, str] = {}


def test_cases_come_out_as_labelled_and_what_is_accepted_is_clean(data_dir: Path) -> None:
    file = data_dir / "cases" / "replies.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    others = set()
    for row in map(json.loads, file.read_text().splitlines()):
        found = front(row["input"])
        if found.accepted != (row["expected"] != "rej"):
            others.add(row["id"])
        elif found.accepted:
            said = (found.incorrect_step, found.explanation, len(found.correct_steps), found.correct_steps[-1])
            assert said == (2, WHY, 3, RIGHT[-1]), row
            assert not any(mark in step for step in found.correct_steps for mark in ("Step", "*", "`", "#", "(corr"))
    assert others == set(OTHER_READINGS)
    assert len(OTHER_READINGS) <= 3


HEAD = f" Step 2.\nExplanation: {WHY}\nCorrect Solution:\n"
LABELS = table(__file__, "labels")


@pytest.mark.parametrize("label", LABELS)
def test_a_step_is_read_under_any_usual_label(label: str) -> None:
    lines = [label.format(n=number, t=step) for number, step in enumerate(RIGHT, 2)]
    assert_read(HEAD + "{\n...\n" + "\n".join(lines) + "\n}")
    assert_read(HEAD + "\n".join(lines))
    assert_read(HEAD + "\n" + "\n\n".join(lines))


STEPS = "\n".join(f"Step {number}: {step}" for number, step in enumerate(RIGHT, 2))
BRACED = f"{{\n...\n{STEPS}\n}}"
USUAL = {"step": "Incorrect Step: Step 2", "explanation": "Explanation:", "solution": "Correct Solution:"}


@pytest.mark.parametrize(("part", "words"), table(__file__, "parts"))
def test_a_part_is_read_under_any_usual_name(part: str, words: str) -> None:
    names = USUAL | {part: words}
    for solution in (BRACED, STEPS):
        assert_read(f"{names['step']}\n{names['explanation']} {WHY}\n{names['solution']}\n{solution}")


ANSWERS = table(__file__, "answers")


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_final_answer_in_any_usual_form_ends_what_is_trained_on_in_the_papers(answer: str) -> None:
    steps = STEPS.rpartition("\n")[0]
    for stated in (f"{steps}\nStep 4: {answer}\n}}", f"{steps}\n{answer}\n}}", f"{steps}\n}}\n{answer}"):
        if not stated.endswith(("\n}", answer)) or "<|" in answer or "</s>" in answer:
            continue
        found = front(f"{HEAD}{{\n...\n{stated}")
        assert (found.reason, found.correct_steps[-1], found.answer) == (None, "The answer is 11.", "11"), stated
        assert found.correct_steps[:2] == RIGHT[:2]
    assert front(f"{HEAD}{steps}\nStep 4: {answer}").correct_steps[-1] == "The answer is 11."


@pytest.mark.parametrize(
    ("last", "steps"),
    [
        ("Thus, she has 11 pens in total.", ["Thus, she has 11 pens in total.", "The answer is 11."]),
        ("So $x = \\boxed{11}$.", ["So $x = \\boxed{11}$.", "The answer is 11."]),
        ("So she has 5 + 6 = 11.", ["So she has 5 + 6 = 11.", "The answer is 11."]),
        ("The answer is 5 + 6 = 11.", ["The answer is 5 + 6 = 11."]),  # the official rules read it
        ("11", ["The answer is 11."]),
    ],
)
def test_a_last_step_that_says_more_is_kept(last: str, steps: list[str]) -> None:
    braced = BRACED.replace("The answer is 11.", last)
    assert_read(HEAD + braced, [*RIGHT[:2], *steps])


GOOD = HEAD + BRACED
DRESSES = dict(table(__file__, "dresses"))


@pytest.mark.parametrize("dress", DRESSES)
def test_what_is_around_the_form_is_taken_off(dress: str) -> None:
    assert_read(DRESSES[dress])


REJECTED = dict(table(__file__, "rejected")) | {
    "two drafts": f"Incorrect Step:{GOOD}\n\nWait.\n\nIncorrect Step:{GOOD}"
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_says_otherwise_is_rejected(name: str) -> None:
    assert not front(REJECTED[name]).accepted


HALF = Problem("h", "What is x?", "", "\\frac{1}{2}")


@pytest.mark.parametrize(
    ("last", "steps"),
    [
        ("\\boxed{\\frac{1}{2}}", ["The answer is \\frac{1}{2}."]),
        ("Hence $x = \\boxed{\\frac12}$.", ["Hence $x = \\boxed{\\frac12}$.", "The answer is \\frac12."]),
        ("Thus the final answer is $\\boxed{\\frac{1}{2}}$.", ["The answer is \\frac{1}{2}."]),
        ("The answer is $\\frac{1}{2}$.", ["The answer is $\\frac{1}{2}$."]),
    ],
)
def test_a_boxed_formula_is_stated_in_the_papers_form(last: str, steps: list[str]) -> None:
    found = front(f" Step 1.\nExplanation: w\nCorrect Solution:\n{{\nStep 1: {last}\n}}", ["No."], HALF, "math")
    assert (found.accepted, found.correct_steps) == (True, steps)


BANK = Problem("b", "Where?", "", "bank", candidates=["bank", "library", "city"])


@pytest.mark.parametrize(
    "form", ["\nCorrected Answer:\n{{\nA bank.\n{}\n}}", "\nHere is the correct answer:\nA bank.\n{}"]
)
@pytest.mark.parametrize("last", ["The answer is bank.", "**Answer:** bank", "\\boxed{\\text{bank}}", "Answer: A"])
def test_an_answer_among_choices_is_stated_in_the_papers_form(form: str, last: str) -> None:
    found = front(f" Wrong.{form.format(last)}", ["The answer is city."], BANK, "csqa")
    assert (found.accepted, found.correct_steps) == (True, ["A bank.", "The answer is bank."])
    assert not front(f" Wrong.{form.format('Banks lend.')}", ["The answer is city."], BANK, "csqa").accepted


def test_a_candidate_that_begins_with_not_is_no_denial() -> None:
    problem = Problem("n", "How?", "", "not happy", candidates=["happy", "not happy"])
    found = front(" Wrong.\nCorrected Answer:\n{\nThe answer is not happy.\n}", ["It is happy."], problem, "csqa")
    assert (found.accepted, found.correct_steps) == (True, ["The answer is not happy."])


NOTED = Problem("n", "q", "She has 5 + 3 = <<5+3=8>>8.\nThen 8 - 2 = <<8-2=6>>6.", "6")
READERS: dict[str, Callable[[str], object]] = {
    "equations_of": lambda text: equations_of(text, 0),
    "correct": lambda text: correct(NOTED, split_steps(text)),
    "correct without notes": lambda text: correct(HALF, split_steps(text)),
    "split_steps": split_steps,
    "reference_steps": reference_steps,
    "answer_part": answer_part,
    "front": lambda text: front(f"{text}\n{HEAD}{text}\nStep 2: {text}\n{text}\nThe answer is 11.{text}"),
    "front of an answer": lambda text: front(f"{HEAD}{{\nStep 2: So {text} 11{text}\n}}"),
    "front of choices": lambda text: front(f" w{text}\nCorrected Answer:\n{text}\n{text}", ["a"], BANK, "csqa"),
}
PIECES = table(__file__, "pieces")


@pytest.mark.parametrize("part", some(range(3), 3))
@pytest.mark.parametrize("reader", some(READERS, 3))
def test_hostile_texts_are_read_in_time(reader: str, part: int) -> None:
    for piece in PIECES[part::3]:
        for around in ("{}", "5 + 3 ={}8."):
            text = around.format(piece * (20_000 // len(piece)))
            began = time.process_time()
            READERS[reader](text)
            # A few hundredths; what took quadratic time took 3.4 s and more, and a busy machine adds up to a second.
            assert time.process_time() - began < 2.5, (piece, around)
