"""The paper's text formats, byte for byte."""

import pytest
from tables import table

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


CHOICES = ["bank", "library", "department store"]


def test_choices_have_the_papers_own_prompt() -> None:
    expected = (
        "Please answer the following commonsense question. Please first explain each candidate answer, then select "
        "only one answer that is most relevant to the question and provide reasons.\nQuestion: Where?\n"
        "Candidate Answers: bank, library, department store.\nAnswer: Let's think step by step.\n"
    )
    assert formats.cot_prompt("lema", "Where?", CHOICES) == expected
    alpaca = formats.cot_prompt("alpaca", "Where?", CHOICES)
    assert "### Instruction:\nWhere?\nCandidate Answers: bank, library, department store.\n\n###" in alpaca


def test_an_output_among_choices_keeps_its_lines() -> None:
    problem = Problem("p", "Where?", "Explanations:\nBank - It has one.", "bank", candidates=CHOICES)
    assert formats.cot("lema", problem)[1] == "Explanations:\nBank - It has one.\nThe answer is bank."


def test_a_correction_among_choices_names_mistakes_and_no_step() -> None:
    prompt = formats.correction_prompt("Where?", ["A library.", "The answer is library."], CHOICES)
    assert prompt.endswith(
        "\nQuestion: Where?\nCandidate Answers: bank, library, department store.\nOriginal Answer:\n{\nA library.\n"
        "The answer is library.\n}\nMistakes:"
    )
    completion = formats.correction_completion(1, "It has none.", ["A bank.", "The answer is bank."], CHOICES)
    assert completion == " It has none.\nCorrected Answer:\n{\nA bank.\nThe answer is bank.\n}"


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


@pytest.mark.parametrize(("part", "asked", "last", "completion"), table(__file__, "prompts of ablations"))
def test_prompt_of_an_ablation_asks_for_the_parts_that_are_left(
    part: str, asked: str, last: str, completion: str
) -> None:
    assert formats.correction_prompt(QUESTION, ["5 + 3 = 9.", "The answer is 9."], without=part) == (
        f"For the following math word problem, the original solution is incorrect. Please {asked}.\n"
        f"Question: {QUESTION}\nOriginal Solution:\n{{\nStep 1: 5 + 3 = 9.\nStep 2: The answer is 9.\n}}\n{last}"
    )
    assert formats.correction_completion(2, "Because.", ["The answer is 8."], without=part) == completion


@pytest.mark.parametrize(
    ("part", "asked", "last", "completion"),
    [
        ("explanation", "provide the corrected answer", "Corrected Answer:", "\n{\nA bank.\nThe answer is bank.\n}"),
        ("solution", "explain the mistakes", "Mistakes:", " It has none."),
    ],
)
def test_prompt_of_an_ablation_among_choices(part: str, asked: str, last: str, completion: str) -> None:
    assert formats.correction_prompt("Where?", ["The answer is library."], CHOICES, part) == (
        f"For the following commonsense question, the original answer contains mistakes. Please {asked}.\n"
        "Question: Where?\nCandidate Answers: bank, library, department store.\n"
        f"Original Answer:\n{{\nThe answer is library.\n}}\n{last}"
    )
    steps = ["A bank.", "The answer is bank."]
    assert formats.correction_completion(1, "It has none.", steps, CHOICES, part) == completion


def test_few_shot_prompt_is_the_examples_and_then_the_question() -> None:
    expected = f"Solve.\n\nQuestion: Q\nAnswer: A\n\nQuestion: {QUESTION}\nAnswer: Let's think step by step.\n"
    for ending in ("", "\n", "\n\n"):
        assert formats.few_shot_prompt(f"Solve.\n\nQuestion: Q\nAnswer: A{ending}", QUESTION) == expected
    asked = f"Question: {QUESTION}\nCandidate Answers: bank, library, department store.\nAnswer: Let's"
    assert asked in formats.few_shot_prompt("Solve.", QUESTION, CHOICES)


@pytest.mark.parametrize(("text", "steps"), table(__file__, "steps are lines or else sentences"))
def test_steps_are_lines_or_else_sentences(text: str, steps: list[str]) -> None:
    assert formats.split_steps(text) == steps
