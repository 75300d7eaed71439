"""The reference corrector: mistakes put in by hand are found, real wrong solutions are corrected, nothing fails."""

import gzip
import hashlib
import json
import os
import re
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from tables import table

from lema.correctors.reference import correct, equations_of, settles_all
from lema.data.arithmetic import make_problems
from lema.prompts.formats import reference_steps, split_steps
from lema.prompts.replies import ParsedCorrection
from lema.types import Problem

DATA = Path(os.environ.get("LEMA_TEST_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="LEMA_TEST_DATA names no folder with the real data")
KINDS = ("wrong result", "wrong operand", "wrong operation", "missing step", "extra step")

TOM = Problem(
    "t",
    "Tom has 5 apples. He buys 3 more. He eats 2. How many apples does Tom have now?",
    "Tom has 5 + 3 = <<5+3=8>>8 apples.\nTom has 8 - 2 = <<8-2=6>>6 apples.",
    "6",
)


@pytest.mark.parametrize(
    ("solution", "settled"),
    [
        ("Tom has 5 + 3 = 8 apples. Tom has 8 - 2 = 6 apples. The answer is 6.", True),
        ("Tom has 3 - 2 = 1 more, so 5 + 1 = 6. The answer is 6.", False),  # right, in another way
        ("Tom has 5 + 3 = 8 apples. The answer is 6.", False),
        ("Tom has 5 + 3 = 9 apples. Tom has 8 - 2 = 6 apples. The answer is 6.", False),
    ],
)
def test_a_solution_is_right_when_each_formula_is_settled(solution: str, settled: bool) -> None:
    assert settles_all(TOM, split_steps(solution)) is settled
    without = Problem("m", "?", "It is $2$.\nSo $x = 3$.", "3")
    assert settles_all(without, ["It is $2$.", "So $x = 3$.", "The answer is 3."])
    assert not settles_all(without, ["So $x = 3$.", "The answer is 3."])


@pytest.mark.parametrize("notes", [True, False])
@pytest.mark.parametrize(
    ("wrong", "step", "kind"),
    [
        ("3 - 2 = 1 more. 5 + 1 = 7 apples. The answer is 7.", 2, "wrong result"),  # the first is another way
        ("3 - 2 = 1 more. 5 + 2 = 7 apples. The answer is 7.", 1, "wrong operand"),
        ("5 - 3 = 2 apples. 2 + 2 = 5 apples. The answer is 5.", 1, "wrong operation"),  # that is no other way
        ("He had 12 apples. 5 + 3 = 8 apples. The answer is 8.", 1, "missing step"),  # nobody knows 12
        ("1. He buys 3: 5 + 3 = 8 apples.\n2. So he has 8.\nThe answer is 8.", 2, "missing step"),  # 1 is a label
        ("10 * 2 = 20 apples. 20 / 4 = 4 apples. The answer is 4.", 1, "wrong operand"),  # 5 is no result
        ("5 + 3 = 8 apples. He keeps them. He is glad. The answer is 8.", 2, "missing step"),
    ],
)
def test_the_mistake_is_what_is_surely_wrong(wrong: str, step: int, kind: str, notes: bool) -> None:
    problem = TOM if notes else replace(TOM, solution=re.sub("<<.*?>>", "", TOM.solution))
    found = correct(problem, split_steps(wrong))
    assert (found.incorrect_step, found.kind) == (step, kind)
    assert found.correct_steps[-1] == "The answer is 6."


def test_a_number_that_nothing_says_is_named_and_no_sum_is_too_large() -> None:
    assert correct(TOM, ["He had 12 apples.", "The answer is 12."]).explanation.startswith("Nothing says 12. The step")
    assert correct(TOM, ["7" + "/.000000000000003%" * 19 + " = 1"]).correct_steps[-1] == "The answer is 6."


@pytest.mark.parametrize(("wrong", "step", "kind", "explanation"), table(__file__, "mistakes"))
def test_mistake_is_named_and_corrected_from_there(wrong: str, step: int, kind: str, explanation: str) -> None:
    right = ["Tom has 5 + 3 = 8 apples.", "Tom has 8 - 2 = 6 apples.", "The answer is 6."]
    found = correct(TOM, split_steps(wrong))
    assert (found.incorrect_step, found.kind, found.explanation) == (step, kind, explanation)
    assert found.correct_steps == (right[step - 1 :] if "+3-2" not in wrong else right[2:])


@pytest.mark.parametrize(("text", "value", "result"), table(__file__, "equation is read as written"))
def test_equation_is_read_as_written(text: str, value: str, result: str) -> None:
    (equation,) = equations_of(text, 0)
    assert (equation.value, equation.result) == (Fraction(value), Fraction(result))
    assert equation.right == (value == result)


@pytest.mark.parametrize(
    "text", ["5=5", "x + 3 = 8", "5 / 0 = 0", "3 = 4 =", "2^3 + 1 = 9", "7" * 5000 + " + 1 = 2", "page 3-4"]
)
def test_what_is_no_arithmetic_states_nothing(text: str) -> None:
    assert equations_of(text, 0) == []


def test_rounding_to_the_decimals_shown_is_right() -> None:
    shown = {"80/3 = 26.67": True, "80/3 = 26.66": True, "80/3 = 27": False, "1 - 2 = 1": False, "1 - 2 = -1": True}
    assert {text: equations_of(text, 0)[0].right for text in shown} == shown


# Injected mistakes

Sum = tuple[int, str, int, int]  # 5 + 3 = 8


def value_of(left: int, operator: str, right: int) -> int:
    return left + right if operator == "+" else left - right


def sums_of(problem: Problem) -> list[Sum]:
    found = re.findall(r"<<(\d+)([+-])(\d+)=(\d+)>>", problem.solution)
    return [(int(left), operator, int(right), int(result)) for left, operator, right, result in found]


def follow(sums: list[Sum], start: int) -> list[Sum]:
    """The sums with their first operands carried on from `start`, as a model that never looks back writes them."""
    carried = []
    for _, operator, right, _ in sums:
        result = value_of(start, operator, right)
        carried.append((start, operator, right, result))
        start = result
    return carried


def inject(problem: Problem, kind: str, random: Random, recompute: bool) -> tuple[list[str], int] | None:
    """The wrong steps and the step (1-based) of the mistake; None where the mistake would not be one."""
    sums = sums_of(problem)
    k = random.randrange(len(sums))
    left, operator, right, result = sums[k]
    if kind == "wrong result":
        wrong = [(left, operator, right, result + random.choice([-2, -1, 1, 2, 10]))]
    elif kind == "wrong operand":
        changed = random.choice([n for n in range(1, 21) if n not in (left, right)])
        first, second = random.choice([(changed, right), (left, changed)])
        wrong = [(first, operator, second, value_of(first, operator, second))]
    elif kind == "wrong operation":
        other = "-" if operator == "+" else "+"
        wrong = [(left, other, right, value_of(left, other, right))]
    elif kind == "missing step":
        wrong = []
        if k + 1 < len(sums) and sums[k + 1][1:3] == sums[k][1:3]:
            return None  # which of two equal steps is missing, nobody can say
    else:
        k = random.randrange(len(sums) + 1)
        value = sums[k][0] if k < len(sums) else sums[-1][3]
        move = (random.choice("+-"), random.randrange(2, 10))
        wrong = [(value, *move, value_of(value, *move))]
        if k < len(sums) and move == sums[k][1:3]:
            return None  # this step is the one that is due
        wrong = [sums[k - 1]] if k and not recompute and random.random() < 0.3 else wrong  # said twice
    rest = sums[k:] if kind == "extra step" else sums[k + 1 :]
    if recompute:
        rest = follow(rest, wrong[-1][3] if wrong else left)
    path = [*sums[:k], *wrong, *rest]
    template = re.sub(r"<<.*?>>", "", problem.solution.splitlines()[0])
    steps = [re.sub(r"\d+ [+-] \d+ = \d+", "{} {} {} = {}".format(*one), template) for one in path]
    answer = path[-1][3] if path else left
    return [*steps, f"The answer is {answer}."], k + 1


def test_injected_arithmetic_mistakes_are_all_found_and_named() -> None:
    problems, _ = make_problems(seed=7, num_train=1100, num_test=1)
    random = Random(3)
    total, wrong_kinds, wrong_steps = 0, [], []
    for problem in problems:
        kind = KINDS[total % len(KINDS)]
        injected = inject(problem, kind, random, recompute=total // len(KINDS) % 2 == 0)
        if injected is None:
            continue
        steps, step = injected
        found = correct(problem, steps)
        total += 1
        if found.incorrect_step != step:
            wrong_steps.append((kind, problem, steps, step, found))
        if found.kind != kind:
            wrong_kinds.append((kind, problem.question, steps, found))
        whole = [*steps[: found.incorrect_step - 1], *found.correct_steps]
        assert whole[-1] == f"The answer is {problem.answer}."
        assert all(equation.right for line in whole for equation in equations_of(line, 0))
    assert total >= 1000
    assert not wrong_steps, wrong_steps[:3]
    assert len(wrong_kinds) <= 0.05 * total, wrong_kinds[:3]


# Real problems and real wrong solutions


def gsm8k(split: str) -> list[Problem]:
    problems = []
    for row, line in enumerate((DATA / "gsm8k" / f"{split}.jsonl").read_text().splitlines()):
        record = json.loads(line)
        solution, _, answer = record["answer"].rpartition("\n####")
        problems.append(Problem(f"gsm8k-{split}-{row}", record["question"], solution, answer.strip().replace(",", "")))
    return problems


def continues_the_reference(problem: Problem, found: ParsedCorrection) -> bool:
    """Whether the right steps are reference steps, in their order, and the gold answer."""
    reference = iter(reference_steps(problem.solution))
    return all(step in reference for step in found.correct_steps[:-1]) and (
        found.correct_steps[-1] == f"The answer is {problem.answer}."
    )


@needs_data
def test_a_wrong_result_in_a_gsm8k_solution_is_located_and_mended() -> None:
    random, hits, restored, total = Random(5), 0, 0, 0
    for problem in random.sample(gsm8k("train"), 1500):
        notes = list(re.finditer(r"= ?\$?<<[^<>]*=(\d+)>>(\1)(?![\d.,/%])", problem.solution))
        if not notes:
            continue
        note = random.choice(notes)
        wrong = int(note[2]) + random.choice([1, 2, 5, 10, 100])
        text = problem.solution[: note.start(2)] + str(wrong) + problem.solution[note.end(2) :]
        steps = [*reference_steps(text), f"The answer is {wrong}."]
        right = [*reference_steps(problem.solution), f"The answer is {problem.answer}."]
        changed = next(k for k, (a, b) in enumerate(zip(steps, right, strict=True), 1) if a != b)
        found = correct(problem, steps)
        total += 1
        hits += found.incorrect_step == changed
        assert continues_the_reference(problem, found)
        restored += [*steps[: found.incorrect_step - 1], *found.correct_steps] == right
    assert total > 1200
    assert hits >= 0.98 * total, f"{hits} of {total}"  # measured: 98.5 %
    assert restored >= 0.98 * total, f"{restored} of {total}"


@needs_data
def test_wrong_solutions_of_a_real_model_are_corrected_whatever_they_say() -> None:
    problems = {problem.id: problem for problem in gsm8k("test")}
    with gzip.open(DATA / "grading" / "model_outputs.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    wrong = [row for row in rows if row["source"] == "rho-math-1b-v0.1" and not row["official_correct"]]
    wrong = [row for row in wrong if row["task"] == "gsm8k"]
    assert len(wrong) > 500
    for row in wrong[::2]:  # all of them pass, in twice the time
        problem, steps = problems[row["id"]], split_steps(row["text"])
        found = correct(problem, steps)
        assert 1 <= found.incorrect_step <= len(steps) + 1
        assert continues_the_reference(problem, found)
        kept = [equation for step in steps[: found.incorrect_step - 1] for equation in equations_of(step, 0)]
        stated = {equation.formula for step in problem.solution.splitlines() for equation in equations_of(step, 0)}
        assert all(equation.right or equation.formula in stated for equation in kept), (row["text"], found)


def plain(text: str) -> str:
    return re.sub(r"\W+", "", text).lower()


@needs_data
def test_named_steps_agree_with_human_labels_as_often_as_measured() -> None:
    by_question = {plain(problem.question): problem for problem in [*gsm8k("train"), *gsm8k("test")]}
    agreement = []
    for line in (DATA / "first_error" / "processbench_gsm8k.jsonl").read_text().splitlines():
        row = json.loads(line)
        problem = by_question.get(plain(row["problem"]))
        if problem is not None and row["label"] >= 0 and not row["final_answer_correct"]:
            agreement.append(correct(problem, row["steps"]).incorrect_step == row["label"] + 1)
    assert len(agreement) == 200
    assert sum(agreement) == 109


def held_out(question: str) -> bool:
    """Whether a row of MR-GSM8K judges the corrector; the other half of its questions may be read to mend it."""
    return hashlib.sha256(question.encode()).digest()[0] % 2 == 1


@needs_data
def test_named_steps_agree_with_labels_of_a_half_that_is_not_read() -> None:
    rows, right = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for line in (DATA / "first_error" / "mr_gsm8k.jsonl").read_text().splitlines():
        row = json.loads(line)
        solution, _, answer = row["ground_truth_solution"].partition("\n####")
        steps = [re.sub(r"^Step \d+:\s*", "", step) for step in row["model_output_steps"]]
        found = correct(Problem("m", row["question"], solution, answer.strip()), steps)
        group = row["question_type"], "held out" if held_out(row["question"]) else "read"
        rows[group] += 1
        right[group] += found.incorrect_step == int(row["model_output_solution_first_error_step"])
    measured = {
        ("original", "read"): (111, 172),
        ("original", "held out"): (106, 168),
        ("reversed", "read"): (20, 87),
        ("reversed", "held out"): (17, 100),
        ("POT", "read"): (9, 30),
        ("POT", "held out"): (8, 33),
    }
    assert {group: (right[group], count) for group, count in rows.items()} == measured


@needs_data
def test_a_changed_step_of_a_math_solution_is_located() -> None:
    random, total, hits = Random(9), 0, 0
    for row, line in enumerate((DATA / "math" / "train.jsonl").read_text().splitlines()):
        record = json.loads(line)
        problem = Problem(f"math-train-{row}", record["problem"], record["solution"], "7")
        right = [*reference_steps(problem.solution), "The answer is 7."]
        with_digits = [k for k, step in enumerate(right[:-1]) if re.search(r"\d", step)]
        if not with_digits:
            continue
        k = random.choice(with_digits)
        digit = random.choice(list(re.finditer(r"\d", right[k])))
        changed = right[k][: digit.start()] + str((int(digit[0]) + 1) % 10) + right[k][digit.end() :]
        if changed in right:
            continue
        found = correct(problem, [*right[:k], changed, *right[k + 1 :]])
        total += 1
        hits += found.incorrect_step == k + 1 and found.correct_steps == right[k:]
        assert found.kind == "differs from the reference"
        assert "reference solution" in found.explanation
    assert total > 7000
    assert hits >= 0.99 * total, f"{hits} of {total}"  # a changed step may read like another one of the solution


def garbage(random: Random, length: int) -> str:
    pieces = [
        *("5", "+", "=", "<<", ">>", "(", ")", "/ 0", "The answer is", ".", "\n", "9" * 50, "é", "٣", "²", "½", "\x00"),
    ]
    pieces += ["\\frac{1}{0}", "x", "$", "%", "1,2,3", "of", "Step 1:", "\ud800", "1 1/0", "--", "**", "5 + 3 = 9", " "]
    text = ""
    while len(text) < length:
        text += random.choice(pieces) + random.choice(["", " "])
    return text


def test_nothing_fails_and_ten_thousand_characters_take_under_a_second() -> None:
    random = Random(11)
    unusual = [TOM, Problem("e", "", "", ""), Problem("m", "What is $x$?", "We have $x = 2$.\nSo $2x = 4$.", "4")]
    for _ in range(300):
        problem = random.choice([*unusual, Problem("g", garbage(random, 50), garbage(random, 200), "3")])
        steps = split_steps(garbage(random, random.randrange(1, 400)))
        assert correct(problem, steps).correct_steps[-1] == f"The answer is {problem.answer}."
    assert correct(TOM, []).incorrect_step == 1
    texts = [
        garbage(random, 10_000),
        *(part * (10_000 // len(part)) for part in ("5 + ", "(", "5+3=8 ", "4+3=7\n", "9")),
    ]
    texts += [part * (10_000 // len(part)) for part in ("5 a ", "\\frac{", "1000000 * ", "1" + "+1" * 30 + "=31 ")]
    texts += ["3+8=5 pi" + "z" * 10_000, "5 t" + "an" * 5_000, "5 " + "ab-" * 3_000]  # models without an end
    for text in texts:
        start = time.process_time()
        correct(TOM, split_steps(text))
        assert time.process_time() - start < 1, text[:40]
