"""What a model generates around its answer."""

import pytest
from tables import table

from lema.grading.generated import answer_part, first_answer, without_thinking


@pytest.mark.parametrize(("text", "answer"), table(__file__, "first answer ends where the next question is made up"))
def test_first_answer_ends_where_the_next_question_is_made_up(text: str, answer: str) -> None:
    assert first_answer(text) == answer


@pytest.mark.parametrize(("text", "rest"), table(__file__, "thinking is no part of the text"))
def test_thinking_is_no_part_of_the_text(text: str, rest: str) -> None:
    assert without_thinking(text) == rest


def test_what_is_trained_on_has_neither_thinking_nor_a_next_question() -> None:
    assert answer_part("<think>The answer is 9.</think>\nThe answer is 8.\n\nQ: Why?") == "The answer is 8."
