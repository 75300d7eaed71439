"""The kind of a wrong answer's mistake, and whether two answers make the same one."""

import pytest

from lema.correctors.mistakes import mistake
from lema.types import Problem

TOM = Problem(
    "t",
    "Tom has 5 apples. He buys 3 more. He eats 2. How many apples does Tom have now?",
    "Tom has 5 + 3 = <<5+3=8>>8 apples.\nTom has 8 - 2 = <<8-2=6>>6 apples.",
    "6",
)
WRONG = "5 + 3 = 9 apples. 9 - 2 = 7 apples. The answer is 7."


@pytest.mark.parametrize(
    ("text", "answered", "kind", "step"),
    [
        (WRONG, True, "wrong result", 1),
        ("5 + 3 = 8 apples. 8 - 7 = 1. The answer is 1.", True, "wrong operand", 2),
        ("8 - 2 = 6 apples. The answer is 8.", True, "missing step", 1),
        ("Tom has some apples. The answer is 9.", True, "no formula", 1),
        ("5 + 3 = 8 apples. 8 - 2 =", False, "no answer", 2),
        ("", False, "no answer", 1),
    ],
)
def test_a_wrong_answer_has_one_kind_and_a_first_wrong_step(text: str, answered: bool, kind: str, step: int) -> None:
    found = mistake(TOM, text, answered)
    assert (found.kind, found.step) == (kind, step)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (WRONG, True),
        (
            "Step 1: He has 3+5 = $9.\nStep 2: 9 * 2 = 18\nStep 3: The answer is 18.",
            True,
        ),  # what follows does not count
        ("5 + 3 = 8. 5 + 3 = 9. The answer is 9.", True),  # in a later step
        ("5 + 3 = 7 apples. 7 - 2 = 5 apples. The answer is 5.", False),
        ("5 - 3 = 9 apples. The answer is 9.", False),
        ("The answer is 7.", False),
    ],
)
def test_the_same_mistake_states_the_same_formula_with_the_same_result(text: str, same: bool) -> None:
    assert (mistake(TOM, text).says == mistake(TOM, WRONG).says) is same


def test_without_a_formula_the_same_mistake_says_the_same_words() -> None:
    said = mistake(TOM, "Tom has 1,000 apples.\nThe answer is 1,000.").says
    assert said == mistake(TOM, "the Answer  is 1000").says != mistake(TOM, "The answer is 100.").says
    assert mistake(Problem("m", "?", "It is $2$.\nSo $x = 3$.", "3"), "It is $4$.").kind == "differs from the reference"
