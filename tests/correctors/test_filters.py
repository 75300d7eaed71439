"""Filters of corrections: what each keeps, what it drops and for which reason, on corrections made by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lema.correctors.model import NO_AGREEMENT, correct_all
from lema.correctors.structural import filtered, objection
from lema.correctors.verifier import DENIED, NO_VERDICT, verdict, verified
from lema.prompts.formats import correction_completion
from lema.types import NO_ERROR, Completion, Correction, Problem, Prompt, Solution

WRONG = ["Tom buys 2 * 3 = 6 pens.", "He has 6 + 4 = 11 pens.", "The answer is 11."]
RIGHT = ["He has 6 + 4 = 10 pens.", "The answer is 10."]
PROBLEM = Problem("p", "How many pens has Tom?", "", "10")


class Engine:
    """Says to each prompt what `reply` says, and remembers what it was asked."""

    def __init__(self, reply: Callable[[Prompt], str]) -> None:
        self.reply, self.costs, self.about, self.rounds = reply, {}, {}, list[int]()
        self.asked: list[Prompt] = []

    def complete(self, prompts: Sequence[Prompt], resume: Path) -> list[Completion]:
        self.asked += prompts
        return [Completion(self.reply(prompt), "stop", "c") for prompt in prompts]


@pytest.mark.parametrize(
    ("wrong", "step", "explanation", "right", "reason"),
    [
        (WRONG, 2, "6 + 4 is 10, not 11.", RIGHT, None),
        (WRONG, 3, "The answer must be 10, not 11.", RIGHT, "false formula before the step"),
        (
            WRONG,
            2,
            "6 + 4 is 10.",
            ["6 + 4 = 10.", "10 * 1 = 11.", "The answer is 10."],
            "false formula in the correction",
        ),
        (WRONG, 1, "6 pens are wrong.", [WRONG[0], *RIGHT], "step not changed"),
        (WRONG, 1, "6 pens are wrong.", ["The pens are 3 * 2 = 6.", *RIGHT], "step not changed"),
        (["tom has **10** pens"], 1, "10 pens are wrong.", ["Tom has 10 pens."], "step not changed"),
        (WRONG, 2, "The sum is wrong.", RIGHT, "explanation not about the step"),
        (["He counts them.", "The answer is 11."], 1, "That gives nothing.", RIGHT, None),
        (["It costs $1,100."], 1, "1100 is too much.", ["It costs $900."], None),
        ([r"$\sqrt{64 + 36} = 10$.", "So $x = 11$."], 2, "It is not 11.", [r"So $2^{6-4} = 4$."], None),
        (WRONG, 4, "The end is missing.", RIGHT, "false formula before the step"),
    ],
)
def test_a_structural_check_finds_what_needs_no_model(
    wrong: list[str], step: int, explanation: str, right: list[str], reason: str | None
) -> None:
    assert objection(wrong, step, explanation, right) == reason


NONE = "None."
ONE, TWO = (
    correction_completion(1, "Wrong.", [WRONG[0], *RIGHT]),
    correction_completion(2, "Wrong.", RIGHT),
)
TWO_ENDS_WRONG = correction_completion(2, "Wrong.", ["The answer is 12."])


@pytest.mark.parametrize(
    ("replies", "step", "reason", "asked"),
    [
        ([TWO, TWO, ONE], 2, None, 2),
        ([ONE, TWO, TWO], 2, None, 3),
        ([TWO_ENDS_WRONG, TWO, ONE], 2, None, 2),
        ([TWO_ENDS_WRONG, TWO_ENDS_WRONG, TWO], 2, None, 3),
        ([TWO_ENDS_WRONG, TWO_ENDS_WRONG, ONE], 1, NO_AGREEMENT, 3),
        ([TWO, ONE, "What?"], 2, NO_AGREEMENT, 3),
        (["What?", "What?", TWO], 0, "unparsable", 2),
        ([NONE, TWO, NONE], 0, NO_ERROR, 3),
        ([NONE, TWO, ONE], 0, NO_AGREEMENT, 3),
    ],
)
def test_a_correction_is_kept_whose_step_the_most_name(
    replies: list[str], step: int, reason: str | None, asked: int
) -> None:
    engine = Engine(lambda prompt: replies[prompt.attempt])
    item = PROBLEM, Solution("p", "m", 0, "", "11", correct=False, symbolic=False, truncated=False), WRONG
    [made] = correct_all([item], "Shown.", 3, "gsm8k", engine, Path("resume"), may_be_right=True, agree=2)
    assert (made.incorrect_step, made.reason, made.accepted) == (step, reason, reason is None)
    assert len(engine.asked) == asked, "no try is asked that can change nothing"


def test_what_a_structural_check_rejects_is_tried_again() -> None:
    replies = [TWO, correction_completion(2, "6 + 4 is 10, not 11.", RIGHT), TWO]
    engine = Engine(lambda prompt: replies[prompt.attempt])
    item = PROBLEM, Solution("p", "m", 0, "", "11", correct=False, symbolic=False, truncated=False), WRONG
    [made] = correct_all([item], "Shown.", 3, "gsm8k", engine, Path("resume"), check=filtered)
    assert (made.accepted, made.explanation, len(engine.asked)) == (True, "6 + 4 is 10, not 11.", 2)


def test_a_verifier_sees_accepted_corrections_alone_and_no_answer_of_theirs() -> None:
    def correction(sample: int, accepted: bool = True) -> Correction:
        why = None if accepted else "wrong answer"
        return Correction("p", "m", sample, "c", WRONG, 2, "It is wrong.", RIGHT, "10", accepted, why)

    replies = iter(["Yes.", "No, step 1 is.", "Perhaps."])
    engine = Engine(lambda prompt: next(replies))
    made, names = verified([correction(k, k != 1) for k in range(4)], {"p": PROBLEM}, engine, Path("resume"))
    assert [each.reason for each in made] == [None, "wrong answer", DENIED, NO_VERDICT]
    assert [each.accepted for each in made] == [True, False, False, False]
    assert names == ["c"]
    assert "Step 2: He has 6 + 4 = 11 pens." in engine.asked[0].text
    assert "Named Step: Step 2." in engine.asked[0].text
    assert not [words for words in ("10", "It is wrong.") if words in engine.asked[0].text]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *(("yes", True), ("Yes, step 2 adds wrongly.", True), ("**No** – step 1 is.", False), ("NO", False)),
        *(("<think>No, or yes?</think>\nYes.", True), ("<think>yes", None), ("", None), ("Maybe yes, maybe no.", None)),
        *(("Step 1 holds, step 2 does not.\n\n**Answer: Yes**", True), ("The answer is no.", False)),
        *(("Answer: yes\nQuestion: What?", True), ("Yes.\nNo step before it is wrong.", True), ("Yes.\n\nNo.", None)),
        *(("No step before it is wrong.", None), ("None of them.", None), ('{"answer": "no"}', False)),
        *((r"\boxed{\text{Yes}}", True), ("Not at all", None), ("yesterday", None), ("No", False), ("no.", False)),
    ],
)
def test_a_verdict_is_read_in_whatever_dress_and_nothing_else_is(text: str, says: bool | None) -> None:
    assert verdict(text) is says
