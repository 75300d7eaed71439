"""The paper's text formats, byte for byte, and reading them back."""

import pytest

from lema.prompts import formats
from lema.types import Problem

QUESTION = "Tom has 5 apples and buys 3. How many has he?"


def test_lema_prompt_is_the_papers() -> None:
    expected = f"Please solve the following math problem.\nQuestion: {QUESTION}\nAnswer: Let's think step by step.\n"
    assert formats.cot_prompt("lema", QUESTION) == expected


def test_alpaca_prompt_is_the_papers() -> None:
    expected = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{QUESTION}\n\n### Response: Let's think step by step.\n"
    )
    assert formats.cot_prompt("alpaca", QUESTION) == expected


def test_questions_with_braces_pass_through() -> None:
    question = r"Let $f(x) = \frac{1}{x}$ and {x}."
    assert question in formats.cot_prompt("lema", question)
    assert question in formats.correction_prompt(question, ["{a}"])


def test_cot_output_is_one_line_without_calculator_notes() -> None:
    solution = "He buys 3 so 5+3=<<5+3=8>>8 apples\nThat is all."
    expected = "He buys 3 so 5+3=8 apples. That is all. The answer is 8."
    problem = Problem("p", QUESTION, solution, "8")
    assert formats.cot("lema", problem) == (formats.cot_prompt("lema", QUESTION), expected)


def test_correction_example_is_in_the_papers_layout() -> None:
    assert formats.correction_prompt(QUESTION, ["5 + 3 = 9.", "The answer is 9."]).endswith(
        f"\nQuestion: {QUESTION}\nOriginal Solution:\n"
        "{\nStep 1: 5 + 3 = 9.\nStep 2: The answer is 9.\n}\nIncorrect Step:"
    )
    first = formats.correction_completion(1, "5 + 3 is 8, not 9.", ["5 + 3 = 8.", "The answer is 8."])
    assert first == (
        " Step 1.\nExplanation: 5 + 3 is 8, not 9.\nCorrect Solution:\n{\n"
        "Step 1: 5 + 3 = 8.\nStep 2: The answer is 8.\n}"
    )
    later = formats.correction_completion(2, "Because.", ["The answer is 8."])
    assert later == " Step 2.\nExplanation: Because.\nCorrect Solution:\n{\n...\nStep 2: The answer is 8.\n}"


@pytest.mark.parametrize("step", [1, 3])
def test_parsing_a_correction_inverts_writing_it(step: int) -> None:
    steps = ["Then $x = \\frac{1}{2}$.", "A step\nof two lines.", "The answer is 8."]
    parsed = formats.parse_correction(formats.correction_completion(step, "Why:\nbecause.", steps))
    assert parsed == formats.ParsedCorrection(step, "Why:\nbecause.", steps)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "The solution is right.",
        " Step 2.\nCorrect Solution:\n{\nStep 2: The answer is 8.\n}",
        " Step 2.\nExplanation: why\nCorrect Solution:\n{\n...\n}",
        " Step two.\nExplanation: why\nCorrect Solution:\n{\nStep 2: The answer is 8.\n}",
    ],
)
def test_other_replies_are_not_corrections(reply: str) -> None:
    assert formats.parse_correction(reply) is None


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("One.\nTwo.", ["One.", "Two."]),
        ("Step 1: One.\nStep 2: Two.", ["One.", "Two."]),
        (
            "He pays $2.50. She pays 3.5 dollars. The answer is 6.",
            ["He pays $2.50.", "She pays 3.5 dollars.", "The answer is 6."],
        ),
        ("Mr. Smith has 3. So 3 vs. 4!", ["Mr. Smith has 3.", "So 3 vs. 4!"]),
        ("  \n", []),
        ("no full stop", ["no full stop"]),
    ],
)
def test_steps_are_lines_or_else_sentences(text: str, steps: list[str]) -> None:
    assert formats.split_steps(text) == steps
