"""What a model generates around its answer."""

from __future__ import annotations

import pytest

from lema.grading.generated import answer_part, first_answer, without_thinking


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5 + 3 = 8. The answer is 8.", "5 + 3 = 8. The answer is 8."),
        (" 5 + 3 = 8. The answer is 8.\n", "5 + 3 = 8. The answer is 8."),
        ("The answer is 8.\n\nQuestion: How many eggs are left?\nAnswer: The answer is 3.", "The answer is 8."),
        ("The answer is 8.\r\n\r\nQuestion: How many?", "The answer is 8."),
        ("The answer is 8.\nQ: How many?\nA: 3\n\nQ: Why?", "The answer is 8."),
        ("The answer is 8.\n\nQuestion 5: How many?", "The answer is 8."),
        ("The answer is 8.\n\n### Instruction:\nHow many?", "The answer is 8."),
        ("Bank - A\n\nbank.\nThe answer is bank.\n\n  Question: Why?", "Bank - A\n\nbank.\nThe answer is bank."),
        ("The question: how many? Question: 8.", "The question: how many? Question: 8."),
        ("Question: How many?", ""),
        ("The answer is 8.\n\n**Question 2:** How many?", "The answer is 8."),
        ("The answer is 8.\nHuman: How many?", "The answer is 8."),
        ("The answer is 8.\n\n### Question\nHow many?", "The answer is 8."),
        ("The answer is 8.<|im_end|>\n<|im_start|>user\nHow many?", "The answer is 8."),
        ("The answer is 8.\n\nProblem 2. How many?", "The answer is 8."),
        ("The answer is 8.\n\nNext question: How many?", "The answer is 8."),
        ("The answer is 8.\n\nQ2. How many?", "The answer is 8."),
        ("The answer is 8.\n\nQuestion 2\nHow many?", "The answer is 8."),
        ("The answer is 8.\n\nExample 2:\nHow many?", "The answer is 8."),
        ("The answer is 8.\n\n[Question] How many?", "The answer is 8."),
        ("The answer is 8.<|user|>\nHow many?", "The answer is 8."),
        ("For example: 5 + 3 = 8.\nProblem solved.", "For example: 5 + 3 = 8.\nProblem solved."),
        ("", ""),
    ],
)
def test_first_answer_ends_where_the_next_question_is_made_up(text: str, answer: str) -> None:
    assert first_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("5 + 3 = 8.", "5 + 3 = 8."),
        ("<think>5 + 3 = 9? No.</think>\n5 + 3 = 8.", "5 + 3 = 8."),
        ("5 + 3 = 9? No.</think>\n5 + 3 = 8.", "5 + 3 = 8."),
        ("<think>5 + 3 = 9? Or", ""),
        ("<think></think>\n\n5 + 3 = 8.", "5 + 3 = 8."),
        ("<Thinking>9?</Thinking>5 + 3 = 8.", "5 + 3 = 8."),
        ("<seed:think>9?</seed:think>5 + 3 = 8.", "5 + 3 = 8."),
        ("[THINK]9?[/THINK]5 + 3 = 8.", "5 + 3 = 8."),
        ("◁think▷9?◁/think▷5 + 3 = 8.", "5 + 3 = 8."),
        ("<think>9?</think>5 + 3 = 8. <think>or 9", "5 + 3 = 8."),
        ("I think <that> 3 < 5.", "I think <that> 3 < 5."),
    ],
)
def test_thinking_is_no_part_of_the_text(text: str, rest: str) -> None:
    assert without_thinking(text) == rest


def test_what_is_trained_on_has_neither_thinking_nor_a_next_question() -> None:
    assert answer_part("<think>The answer is 9.</think>\nThe answer is 8.\n\nQ: Why?") == "The answer is 8."
