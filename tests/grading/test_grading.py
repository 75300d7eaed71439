"""Grading: the official verdicts on real texts and on their quirks, arithmetic that cannot run, nothing that hangs."""

from __future__ import annotations

import gzip
import json
import threading
import time
from random import Random

import pytest

from lema.grading import Grade, grade, grade_all
from lema.grading.expressions import evaluate
from lema.grading.official import last_box

# What a real text holds, and what the official rules look for.
PIECES = [
    *"0123456789+-*/().,%=:$\"' \n<>^&|~_#{}[]@!x\\£€é½٣",
    *("The answer is ", "The answer is: ", ">>", "\n\nQ: ", "\n\nQuestion: ", "Q:", "**", "//", "1,000", "9**9**9"),
    *("\\frac", "\\dfrac", "\\sqrt", "\\text{ ", "\\boxed{", "\\boxed", "\\fbox{", "\\left", "^\\circ", "\\%", "\\$"),
    *("\0", "\ud800", "\u202e", "__import__('os')", "{0}", "%s", "nan", "inf", "1e999", "9" * 30),
]


@pytest.fixture(scope="module")
def outputs(data_dir):
    with gzip.open(data_dir / "grading/model_outputs.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


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
        ("5 + 3 = 8. The answer is 8.", "8", "8", True),
        ("The answer is: 8", "8", "8", True),
        ("The answer is 3. No. The answer is 8.", "8", "8", True),
        ("The answer is $1,080.00.", "1,080", "1080", True),
        ("The answer is 5 dollars..", "5", "5", True),
        ("The answer is £40.", "40", "40", True),
        ('The answer is "12".', "12", "12", True),
        ("The answer is 12 apples.\n\n", "12", "12", True),
        ("The answer is 25%.", "25", "25", True),
        ("The answer is 25% of 80.", "25", None, False),
        ("The answer is 0.5.", "1/2", "0.5", True),
        ("The answer is -7.", "-7", "-7", True),
        ("The answer is x = 7.", "7", "7", True),
        ("The answer is <<3+4=7>>7.", "7", "7", True),
        ("The answer is >>>5.", "5", None, False),
        ("The answer is 7: seven.", "7", "7", True),
        ("The answer is (3+4)*2.", "14", "14", True),
        ("The answer is 3 + 4 # apples", "7", "7", True),
        ("The answer is 10/4.", "2.5", "2.5", True),
        ("The answer is 10/.", "10", "10", True),
        ("The answer is 1/3.", "1/3", "0.3333333333333333", True),
        ("The answer is 10^2*1.", "8", "8", True),
        ("The answer is 10^2.", "100", None, False),
        ("The answer is 5-2 > 1.", "1", "1", True),
        ("The answer is 7.\n\nQ: Next?\nThe answer is 9.", "7", "7", True),
        ("The answer is 7.\n\nQuestion: Next?\nThe answer is 9.", "7", "7", True),
        ("The answer is 7.\nQ: Next? The answer is 9.", "7", "9", False),
        ("The answer is 16 eggs, 3 eaten.", "16", "163", False),
        ("The answer is ٣.", "3", "3", True),
        ("The answer is '-3'.", "-3", "-3", True),
        ("The answer is '3'.", "3", None, False),
        ("The answer is " + "+".join(["1"] * 1500) + ".", "1500", "1500", True),
        ("The answer is 1_000.", "1000", "1000", True),
        ("The answer is blue.", "5", None, False),
        ("The answer is ", "5", None, False),
        ("The answer is 1/0.", "5", None, False),
        ("Probably 8", "8", None, False),
        ("", "8", None, False),
        ("I do not know.", "0", None, True),  # nothing found is compared as 0
        ("The answer is 0.", "0", "0", True),
        ("The answer is -0.", "0", "0", True),
        ("The answer is 18.", "She makes 9 * 2 = $18. The answer is 18.", "18", True),  # gold as a whole text
    ],
)
def test_numbers_follow_the_official_rules(text, answer, extracted, correct):
    assert grade(text, answer, "gsm8k") == grade(text, answer, "arithmetic") == Grade(extracted, correct)


@pytest.mark.parametrize(
    ("text", "answer", "extracted", "correct"),
    [
        ("The answer is 8.", "8.0", "8", True),
        ("The answer is 1/3.", "0.33", "0.33", True),
        ("The answer is 0.935 oranges.", "0.94", "0.94", True),
        ("The answer is 145 bananas and 0.935 oranges.", "145", "1450.93", False),
        ("The answer is 1/16 or 0.0625.", "16", "0.01", False),
        ("The answer is 1.006.", "1.01", "1.01", True),
        ("The answer is 1.004.", "1", "1", True),
        ("The answer is -0.001.", "0", "0", True),
        ("The answer is 1e999.", "5", "1999", False),  # letters go
        ("The answer is 9" + "9" * 400 + ".", "5", "inf", False),
        ("No idea.", "0", None, True),
        ("No idea.", "0.001", None, True),
    ],
)
def test_svamp_and_asdiv_are_rounded_to_two_digits(text, answer, extracted, correct):
    assert grade(text, answer, "svamp") == grade(text, answer, "asdiv") == Grade(extracted, correct)


@pytest.mark.parametrize(
    ("text", "answer", "extracted", "correct"),
    [
        ("The answer is bank.", "bank", "bank", True),
        ("The answer is: bank.", "bank", "bank", True),
        ("A mall has none. The answer is bank.", "mall", "bank", False),
        ("The answer is mall. No. The answer is bank.", "bank", "bank", True),
        ("The answer is a department store", "department store", "department store", True),
        ("The answer is Banks.", "bank", "bank", True),
        ("The answer is ", "bank", "bank", True),  # the shortest is nearest to nothing, and the first of equals
        ("The answer is Massachusetts.", "new york", "bank", False),
        ("Surely the bank, or so I have always thought.", "bank", None, False),
        ("Surely the bank, or so I have always thought.", "department store", None, True),  # the whole text
        ("", "bank", None, True),
    ],
)
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


@pytest.mark.parametrize(
    ("text", "answer", "extracted", "correct"),
    [
        ("The answer is $\\frac{1}{2}$.", "\\frac{1}{2}", "\\frac{1}{2}", True),
        ("So $x = \\boxed{\\dfrac12}$.", "\\frac{1}{2}", "\\frac{1}{2}", True),
        ("The answer is $\\boxed{1/2}$.", "\\frac12", "\\frac{1}{2}", True),
        ("The answer is .5.", "0.5", "\\frac{1}{2}", True),
        ("The answer is \\frac1{72}.", "\\frac{1}{72}", "\\frac{1}{72}", True),
        ("The answer is \\frac{72}1.", "\\frac{72}{1}", "\\frac{72}1", False),
        ("The answer is \\frac12\\frac1.", "1", "\\frac12\\frac1", False),
        ("The answer is 2\\sqrt3.", "2\\sqrt{3}", "2\\sqrt{3}", True),
        ("The answer is x=5.", "5", "5", True),
        ("The answer is x \\in 5.", "5", "x\\in5", False),
        ("The answer is 90^\\circ.", "90", "90", True),
        ("The answer is 90^{\\circ}.", "90", "90", True),
        ("The answer is 50\\%.", "50", "50", True),
        ("The answer is 12\\text{ cm}.", "12", "12", True),
        ("The answer is 12\\text{cm}.", "12", "12\\text{cm}", False),
        ("The answer is 1\\text{ or }2\\text{ or }3.", "1", None, False),
        ("The answer is \\left(1,2\\right).", "(1,2)", "(1,2)", True),
        ("The answer is \\leftarrow.", "arrow", "arrow", True),
        ("The answer is 1,\\!000.", "1,000", "1,000", True),
        ("The answer is 1000.", "1,000", "1000", False),
        ("The answer is 2\\sqrt.", "2", None, False),
        ("The answer is \\frac.", "2", None, False),
        ("\\boxed{\\{1, 2\\}}", "\\{1,2\\}", "\\{1,2\\}", True),
        ("\\boxed{1} and \\boxed{2}", "2", "2", True),
        ("\\boxed 5", "5", None, False),
        ("\\boxed{5", "5", None, False),
        ("\\fbox{5}", "5", None, False),
        ("\\boxed{5} Question: and \\boxed{6}?", "5", "5", True),
        ("The answer is $\\$5$.", "\\$5", "\\5", True),  # the dollar goes, its backslash stays: as in the gold answer
        ("\\boxed{\\$5}", "\\$5", "5", True),
        ("No idea.", "5", None, False),
        ("No idea.", "", None, False),
        ("\\boxed{9}", "There are $\\boxed{9}$ divisors of 196.", "9", True),  # gold as a whole text
    ],
)
def test_latex_follows_the_official_rules(text, answer, extracted, correct):
    assert grade(text, answer, "math") == Grade(extracted, correct)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("-2**2", -4),
        ("2**-1", 0.5),
        ("2**3**2", 512),
        ("7//2+7%4", 6),
        ("-7//2", -4),
        ("10/4", 2.5),
        ("0.1+0.2", 0.30000000000000004),
        ("1/3", 1 / 3),
        (".5+5.", 5.5),
        ("1_000-1", 999),
        ("~5+1", -5),
        ("2^3-1", 0),
        (" \t2+2\n", 4),
        ("2+2 # four", 4),
        ("1<2<3", True),
        ("9**2000//9**1999", 9),
        ("1**9000.0", 1.0),
        ("", None),
        ("2+", None),
        ("05-1", None),
        ("1/0", None),
        ("2(3)", None),
        ("1,2", None),
        ("(-8)**.5", None),
        ("...", None),
        ("10^6/2", None),
        ("9**9**9", None),
        ("9.9**999", None),
        ("9**9999", None),
        ("x+1", None),
        ("'5'*2", None),
        ("[1][0]", None),
        ("1e5", None),
        ("1<<4", 16),
        ("1<<9999", None),
        ("9**99<<8000", None),
        ("'-5'", -5.0),
        ("'5'+'3'", None),
        ("'%s'%5", None),
        ("1+" * 1500 + "1", 1501),
        ("5 # or 6\n", 5),
        ("__import__('os')", None),
        ("(" * 90 + "1" + ")" * 90, 1),
        ("(" * 199 + "1" + ")" * 202, None),
        ("(" * 250 + "1" + ")" * 250, None),
        ("-" * 3000 + "1", None),
        ("2**" * 1000 + "2", None),
        ("-" * 100_000 + "1", None),
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


def test_random_texts_get_a_verdict_each():
    random, began = Random(1), time.perf_counter()
    for _ in range(10_000):
        text = "".join(random.choices(PIECES, k=random.randint(0, 25)))
        for task in ("gsm8k", "math", "svamp"):
            verdict = grade(random.choice(["", "The answer is ", "\\boxed{"]) + text, "5", task)
            assert verdict.answer is None or verdict.answer
            assert grade(text, text, task).correct in (True, False)
    assert time.perf_counter() - began < 60


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "9" * 1_000_000,
        "9**" * 30_000 + "9",
        "(" * 50_000 + "1+1" + ")" * 50_000,
        "-" * 100_000 + "1",
        "1" * 50_000 + "/" + "1" * 50_000,
        "*".join(["9**999"] * 50),
        "\\frac" * 20_000,
        "\\frac1" * 20_000 + "2",
        "\\sqrt2" * 20_000,
        "\\boxed{" * 15_000,
        "\\boxed{" + "{" * 50_000 + "}" * 50_001,
        "The answer is " * 10_000,
        "Q:" * 50_000,
        "=" * 100_000,
        " " * 100_000 + "5",
        "\0\ud800\u202e + 5",
        "{0.__class__}",
        "__import__('os').system('true')",
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
