"""Leakage: a text that repeats a test question is found, however it is written, and no other is."""

import random
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from questions import FENCE, all_tests, problems, questions
from tables import table

from lema.data import leakage
from lema.prompts.demonstrations import demonstrations

FRACTION = "Compute $\\frac{1}{2} + \\sqrt{10{,}000}.$"
ROBE = "A robe takes two bolts of blue fiber and half that."
TESTS = [FENCE, FRACTION, ROBE]


def matched(question: str) -> tuple[str, str] | None:
    """The test question that matches, and why."""
    match = leakage.TestQuestions(problems(TESTS)).match(question)
    return match and (match.problem.question, match.why)


@pytest.mark.parametrize(("text", "expected"), table(__file__, "words are the same however they are written"))
def test_words_are_the_same_however_they_are_written(text: str, expected: str) -> None:
    assert " ".join(leakage.words(text)) == expected


@pytest.mark.parametrize(
    "edit",
    [
        *(str.upper, lambda text: f"  {text}\n\n", lambda text: text.replace(" ", "\n  ")),
        lambda text: text.replace("'", "’").replace("?", " ?!"),
        lambda text: text.replace("1,250", "1250").replace("'", "").replace("$", ""),
        lambda text: re.sub(r"[.?]", "", text),
    ],
)
@pytest.mark.parametrize("question", TESTS)
def test_a_rewritten_test_question_equals_it(question: str, edit) -> None:
    assert matched(edit(question)) == (question, "equal")


@pytest.mark.parametrize(("text", "why"), table(__file__, "half of the 13 grams or all words of a short text"))
def test_half_of_the_13_grams_or_all_words_of_a_short_text(text: str, why: str | None) -> None:
    found = matched(text)
    assert found == (why and (FENCE, why))


def test_grams_of_several_test_questions_are_not_added_up() -> None:
    first, second = (" ".join(f"{letter}{number}" for number in range(19)) for letter in "ab")
    tests = leakage.TestQuestions(problems([first, second]))
    assert tests.match(f"{first} {second}") is None, "7 of 26 each"
    assert tests.match(f"{first} {second[:20]}"), "7 of 14"


def test_the_search_finds_what_comparing_with_every_question_finds() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcd", [9, 1, 1, 1], k=rng.randint(1, 45))) for _ in range(300)]
    tests = leakage.TestQuestions(problems(texts[:100]))
    pieces = [f"{a[: rng.randint(0, 80)]} {b[rng.randint(0, 40) :]}" for a, b in zip(texts, texts[50:], strict=False)]
    found = 0
    for text in texts[100:] + pieces:
        row = text.split()
        size = min(13, len(row))
        grams = [f" {' '.join(row[at : at + size])} " for at in range(len(row) - size + 1)] if row else []
        most = max(sum(gram in f" {question} " for gram in grams) for question in texts[:100])
        assert bool(tests.match(text)) == (bool(grams) and 2 * most >= len(grams)), text
        found += bool(tests.match(text))
    assert 20 < found < 400


def test_overlap_tells_equal_training_questions_from_alike_ones() -> None:
    train = problems([FENCE.upper(), FENCE.replace("16", "20"), "Another one?"], "some-train")
    found = leakage.overlap(train, leakage.TestQuestions(problems(TESTS)))
    assert {name: match.equal for name, match in found.items()} == {"some-train-0": True, "some-train-1": False}


@pytest.mark.parametrize(
    "form", ["Solve.\n\nQuestion: {}\nAnswer: 5.", "{}\n5.", "Q: {}\nA: 5.\n\nQ: x?", '{{"q": "{}"}}']
)
@pytest.mark.parametrize("question", [*TESTS, "Find\n$x$."])
def test_worked_examples_with_a_test_question_are_found(form: str, question: str) -> None:
    tests = leakage.TestQuestions(problems([*TESTS, "Find\n$x$."]))
    match = tests.within(form.format(question.upper()))
    assert match
    assert match.problem.question == question
    assert tests.within(form.format(f"{question[:20]} or else")) is None


def test_a_short_test_question_within_another_question_is_none() -> None:
    tests = leakage.TestQuestions(problems(["Find $x$.", "?"]))
    assert tests.within("Question: Find x and y.\nAnswer: To find x, add.\n\n?") is None
    assert tests.within("Question: Find x.\nAnswer: 5.")


@pytest.fixture(scope="module")
def tests(data_dir: Path) -> leakage.TestQuestions:
    return leakage.TestQuestions(all_tests(data_dir))


@pytest.mark.parametrize(("task", "equal", "alike"), [("gsm8k", 0, 2), ("math", 9, 189), ("csqa", 0, 1)])
def test_the_overlap_of_the_official_sets(data_dir, tests, task: str, equal: int, alike: int) -> None:
    found = leakage.overlap(questions(data_dir, task, "train"), tests)
    assert sum(match.equal for match in found.values()) == equal
    assert sum(not match.equal for match in found.values()) == alike


@pytest.mark.parametrize("grader", ["gsm8k", "math", "csqa"])
@pytest.mark.parametrize("kind", ["solve", "correct"])
def test_our_own_worked_examples_hold_no_test_question(tests: leakage.TestQuestions, grader: str, kind: str) -> None:
    shown = demonstrations(kind, grader, None, "")
    assert tests.within(shown) is None
    for problem in random.Random(0).sample(tests.problems, 100):
        assert tests.within(f"{shown}\nQuestion: {problem.question}\nAnswer: x\n"), problem.question


def test_lightly_edited_real_test_questions_are_caught(tests: leakage.TestQuestions) -> None:
    for problem in random.Random(0).sample(tests.problems, 500):
        question = problem.question
        for edited in (question.upper(), question.replace(" ", "  ") + "\n", re.sub(r"[.?!]+$", "", question)):
            match = tests.match(edited)
            assert match, edited
            assert match.equal, edited
        if len(leakage.words(question)) >= 14:
            assert tests.match(re.sub(r"\w+(\W*)$", r"zebra\1", question)), question


def test_all_test_questions_are_indexed_in_seconds_and_little_memory(data_dir: Path) -> None:
    problems, start = all_tests(data_dir), time.process_time()
    leakage.TestQuestions(problems)
    assert time.process_time() - start < 2, "seconds; measured: 0.5"
    tracemalloc.start()
    kept = leakage.TestQuestions(problems)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept
    assert size < 200e6
