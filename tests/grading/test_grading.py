"""Grading: the official verdicts on real texts and on their quirks, arithmetic that cannot run, nothing that hangs."""

import json
import threading
import time
from random import Random

import pytest
from tables import table

from lema.grading import Grade, grade, grade_all
from lema.grading.expressions import evaluate
from lema.grading.official import last_box


def test_verdicts_and_answers_are_the_official_ones_on_real_outputs(outputs):
    assert len(outputs) == 10_816
    differing = []
    for row in outputs:
        found = grade(row["text"], row["gold"], row["task"], candidates=row.get("candidates", ()))
        official = row["official_answer"]
        if found.answer is None:
            same = official in (0, "", None)
        else:
            same = official == (found.answer if row["task"] == "math" else float(found.answer))
        if not same or found.correct != row["official_correct"]:
            differing.append((row["source"], row["id"], found, official))
    assert differing == []


def test_a_batch_has_the_same_grades_in_order(outputs):
    for task in ("gsm8k", "math", "svamp", "csqa"):
        items = [(row["text"], row["gold"], row.get("candidates", ())) for row in outputs if row["task"] == task]
        assert grade_all(iter(items), task) == [grade(text, gold, task, "official", c) for text, gold, c in items]
        if task != "csqa":
            assert grade_all([item[:2] for item in items], task) == grade_all(items, task)


def test_the_gold_answer_alone_gives_the_same_verdicts_as_its_text(outputs):
    for row in outputs:
        if row["task"] != "csqa":  # its gold is the answer alone
            math = row["task"] == "math"
            answer = last_box(row["gold"]) if math else row["gold"].rpartition("The answer is ")[2].removesuffix(".")
            assert answer
            assert grade(row["text"], answer, row["task"]).correct == row["official_correct"], row["id"]


def test_every_gold_answer_of_the_test_sets_is_right_against_itself(data_dir):
    gsm8k, latex = (
        [json.loads(line) for line in (data_dir / name / "test.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("gsm8k", "math")
    )
    answers = [("gsm8k", row["answer"].split("####")[1].strip()) for row in gsm8k]
    answers += [("math", last_box(row["solution"])) for row in latex]
    assert len(answers) == 1319 + 5000
    assert [(task, gold) for task, gold in answers if not grade(f"The answer is {gold}.", gold, task).correct] == []
    assert [
        gold for task, gold in answers if task == "math" and not grade(f"\\boxed{{{gold}}}", gold, task).correct
    ] == []


@pytest.mark.parametrize(
    ("text", "answer", "extracted", "correct"),
    [
        *table(__file__, "numbers follow the official rules"),
        ("The answer is " + "+".join(["1"] * 1500) + ".", "1500", "1500", True),
    ],
)
def test_numbers_follow_the_official_rules(text, answer, extracted, correct):
    assert grade(text, answer, "gsm8k") == grade(text, answer, "arithmetic") == Grade(extracted, correct)


@pytest.mark.parametrize(
    ("text", "answer", "extracted", "correct"),
    [
        *table(__file__, "svamp and asdiv are rounded to two digits"),
        ("The answer is 9" + "9" * 400 + ".", "5", "inf", False),
    ],
)
def test_svamp_and_asdiv_are_rounded_to_two_digits(text, answer, extracted, correct):
    assert grade(text, answer, "svamp") == grade(text, answer, "asdiv") == Grade(extracted, correct)


@pytest.mark.parametrize(("text", "answer", "extracted", "correct"), table(__file__, "the nearest choice"))
def test_choices_go_to_the_nearest_candidate(text, answer, extracted, correct):
    candidates = ["bank", "library", "department store", "mall", "new york"]
    assert grade(text, answer, "csqa", candidates=candidates) == Grade(extracted, correct)


def test_unknown_names_and_missing_candidates_are_errors_of_the_code_that_calls():
    with pytest.raises(ValueError, match="task='gsm': must be one of arithmetic, gsm8k, svamp, asdiv, math, csqa"):
        grade("", "5", "gsm")
    with pytest.raises(ValueError, match="rules='strict': must be one of official, symbolic"):
        grade_all([], "gsm8k", "strict")
    for rules in ("official", "symbolic"):
        with pytest.raises(ValueError, match=r"task='csqa': .* candidates"):
            grade("The answer is bank.", "bank", "csqa", rules)


@pytest.mark.parametrize(("text", "answer", "extracted", "correct"), table(__file__, "latex, officially"))
def test_latex_follows_the_official_rules(text, answer, extracted, correct):
    assert grade(text, answer, "math") == Grade(extracted, correct)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *table(__file__, "arithmetic has the value python gives or none"),
        *(("1+" * 1500 + "1", 1501), ("(" * 199 + "1" + ")" * 202, None), ("(" * 250 + "1" + ")" * 250, None)),
        *(("-" * 3000 + "1", None), ("2**" * 1000 + "2", None), ("-" * 100_000 + "1", None)),
        ("1+" * 100_000 + "1", None),
    ],
)
def test_arithmetic_has_the_value_python_gives_or_none(text, value):
    assert evaluate(text) == value
    assert type(evaluate(text)) is type(value)


def test_random_arithmetic_has_the_value_worked_out_beside_it():
    random = Random(0)

    def made(depth):
        """An expression and its value, worked out beside it."""
        if depth == 0 or random.random() < 0.2:
            number = random.choice([random.randint(0, 99), round(random.uniform(0, 9), 2)])
            return str(number), number
        (left, a), (right, b) = made(depth - 1), made(depth - 1)
        sign = random.choice("+-*/")
        if sign == "/" and b == 0:
            sign = "-"
        value = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[sign]()
        return f"({left}){sign}({right})", value

    for _ in range(500):
        text, value = made(4)
        assert evaluate(text) == value, text


@pytest.mark.parametrize(
    "text",
    [
        *("9**9**9**9", "9" * 1_000_000, "9**" * 30_000 + "9", "(" * 50_000 + "1+1" + ")" * 50_000),
        *("-" * 100_000 + "1", "1" * 50_000 + "/" + "1" * 50_000, "*".join(["9**999"] * 50), "\\frac" * 20_000),
        *("\\frac1" * 20_000 + "2", "\\sqrt2" * 20_000, "\\boxed{" * 15_000, "\\boxed{" + "{" * 50_000 + "}" * 50_001),
        *("The answer is " * 10_000, "Q:" * 50_000, "=" * 100_000, " " * 100_000 + "5", "\0\ud800\u202e + 5"),
        *("{0.__class__}", "__import__('os').system('true')"),
    ],
    ids=lambda text: text[:12],
)
@pytest.mark.parametrize("task", ["gsm8k", "math"])
def test_hostile_texts_are_graded_at_once(text, task):
    verdicts = []

    def run():
        for whole in (text, f"The answer is {text}", f"\\boxed{{{text}}}"):
            verdicts.extend([grade(whole, "5", task), grade("The answer is 5.", whole, task)])

    # In a thread, as stages may: no signal is needed to stop it.
    began = time.perf_counter()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert time.perf_counter() - began < 3
    assert len(verdicts) == 6
