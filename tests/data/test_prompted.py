"""Prompts: the question within is found, whatever stands around it, and not where more is asked than that."""

import random
import time

import pytest
from questions import PREFIXES, SUFFIXES, WRAPS
from tables import table

from lema.data import prompted
from lema.prompts.formats import cot_prompt, few_shot_prompt

Q = "Ben has 6 jars. He buys 5 more at $2.50 each. How many jars does he have now?"
M = "Find the sum of the following numbers: 1, 2 and 3. Express your answer as a fraction."


@pytest.mark.parametrize("question", [Q, M])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("space", [" ", "\n", "\n\n"])
def test_what_says_how_to_answer_is_left_off_behind_a_question(question: str, suffix: str, space: str) -> None:
    assert question in prompted.questions(f"{question}{space}{suffix}")


@pytest.mark.parametrize("question", [Q, M])
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", ["", "\n\n" + SUFFIXES[0]])
def test_what_says_how_to_answer_is_left_off_before_a_question(question: str, prefix: str, suffix: str) -> None:
    for space in ("\n\n", "\n"):
        assert question in prompted.questions(f"{prefix}{space}{question}{suffix}")


@pytest.mark.parametrize("question", [Q, M])
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("suffix", ["", "\n" + SUFFIXES[0]])
def test_labels_turns_and_worked_examples_are_left_off(question: str, wrap: str, suffix: str) -> None:
    assert question in prompted.questions(wrap.replace("{q}", question + suffix))


def test_worked_examples_of_files_and_candidates_are_left_off() -> None:
    assert Q in prompted.questions(few_shot_prompt("Question: 1?\nAnswer: 1.\n\nQuestion: 2?\nAnswer: 2.", Q))
    assert prompted.questions(cot_prompt("lema", "Where is it?", ["bank", "mall"]))[-1] == "Where is it?"


@pytest.mark.parametrize("prompt", table(__file__, "a prompt that asks more than a question is not that question"))
def test_a_prompt_that_asks_more_than_a_question_is_not_that_question(prompt: str) -> None:
    assert Q not in prompted.questions(prompt)


@pytest.mark.parametrize(("rest", "expected"), table(__file__, "another task, or an answer"))
def test_a_prompt_that_holds_an_answer_or_asks_for_another_task_is_told(rest: str, expected: bool) -> None:
    assert prompted.asks_otherwise(f"Please look at this.\n{Q}{rest}", Q) is expected


def test_a_question_that_asks_to_rewrite_is_no_other_task() -> None:
    question = "Rewrite $3/6$ as $a/b$ with the least $b$."
    assert not prompted.asks_otherwise(f"Solve it.\n{question}", question)
    assert not prompted.asks_otherwise(f"Solve it.\n{question.replace(' ', '  ')}", question)


@pytest.mark.parametrize(
    "unit", ["\n", " ", "user\n", "Question: x\n", "[INST] <<SYS>>", "a? ", "Let's think. ", "\n\n", "A:\n"]
)
def test_a_long_prompt_takes_little_time(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    prompted.questions(text)
    assert time.process_time() - start < 2


def test_any_text_has_a_question() -> None:
    pieces = ["<|im_start|>user\n", "Question:", "Answer:", "\n", "\n\n", "?", ". ", "x", " ", "[/INST]", "user\n", Q]
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        found = prompted.questions(text)
        assert found[0] == text.strip()
        assert all(part in text for part in found)
