"""The worked examples of both kinds: our own, right, and in the layout of what they ask for."""

import json
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, permutations
from math import isqrt
from pathlib import Path

import pytest

from lema.grading import grade
from lema.prompts.demonstrations import demonstrations
from lema.prompts.formats import correction_completion, correction_prompt, few_shot_prompt, split_steps
from lema.prompts.replies import finds_no_error, read_correction
from lema.types import MAY_BE_RIGHT, UserError

START = "Let's think step by step.\n"


def own(kind: str, grader: str) -> str:
    return demonstrations(kind, grader, None, "corrector.prompt")


def questions_of(kind: str, grader: str) -> list[str]:
    blocks = own(kind, grader).rstrip("\n").split("\n\nQuestion: ")[1:]
    assert len(blocks) == 4
    return blocks


@pytest.mark.parametrize("grader", ["gsm8k", "math"])
def test_corrections_are_right(grader: str) -> None:
    firsts, checked = set(), 0
    for block in questions_of("correct", grader):
        head, _, reply = block.partition("Incorrect Step:")
        question, _, path = head.partition("\nOriginal Solution:\n")
        wrong = [line.partition(": ")[2] for line in path.strip("{}\n").splitlines()]
        prompt = correction_prompt(question, wrong)
        assert prompt.endswith(f"\nQuestion: {head}Incorrect Step:"), "the layout of the training examples"
        correction, reason = read_correction(reply, wrong)
        assert correction is not None
        assert reason is None
        assert correction_completion(*correction[:3]) == reply
        first = correction.incorrect_step
        assert correction.correct_steps[0] != wrong[first - 1]
        assert correction.correct_steps[-1].startswith("The answer is ")
        assert correction.correct_steps[-1] != wrong[-1]
        for step in [*wrong[: first - 1], *correction.correct_steps]:
            checked += check_equations(step)
        firsts.add(first)
    assert 1 in firsts
    assert len(firsts) > 1
    assert checked >= {"gsm8k": 12, "math": 3}[grader]


@pytest.mark.parametrize("grader", ["gsm8k", "math"])
def test_a_corrector_that_may_say_none_sees_one_right_solution_more(grader: str) -> None:
    text = demonstrations("correct", grader, MAY_BE_RIGHT, "corrector.prompt")
    blocks = text.rstrip("\n").split("\n\nQuestion: ")[1:]
    [added] = [block for block in blocks if block not in questions_of("correct", grader)]
    assert len(blocks) == 5
    assert "write none in the place of the step" in text.partition("\n")[0]
    head, _, reply = added.partition("Incorrect Step:")
    question, _, path = head.partition("\nOriginal Solution:\n")
    steps = [line.partition(": ")[2] for line in path.strip("{}\n").splitlines()]
    assert correction_prompt(question, steps).endswith(f"\nQuestion: {head}Incorrect Step:")
    assert finds_no_error(reply)
    assert sum(map(check_equations, steps)) >= 1


def test_corrections_among_choices_are_in_the_layout_of_their_training_examples() -> None:
    for block in questions_of("correct", "csqa"):
        head, _, reply = block.partition("\nMistakes:")
        question, _, rest = head.partition("\nCandidate Answers: ")
        listed, _, wrong = rest.partition(".\nOriginal Answer:\n{\n")
        candidates, wrong_lines = listed.split(", "), wrong.removesuffix("\n}").split("\n")
        assert correction_prompt(question, wrong_lines, candidates).endswith(f"\nQuestion: {head}\nMistakes:")
        correction, reason = read_correction(reply, wrong_lines, candidates)
        assert correction is not None
        assert reason is None
        assert correction_completion(*correction[:3], candidates) == reply
        check_choice_lines(wrong_lines, candidates)
        check_choice_lines(correction.correct_steps, candidates)
        assert wrong_lines[-1] != correction.correct_steps[-1]


@pytest.mark.parametrize("grader", ["gsm8k", "math", "csqa"])
def test_solutions_are_in_the_layout_of_their_prompt(grader: str) -> None:
    text = own("solve", grader)
    before = text.partition("\n\n")[0]
    assert "\n" not in before, "one line of instruction"
    for block in questions_of("solve", grader):
        asked, _, answer = block.partition("\nAnswer: ")
        question, _, listed = asked.partition("\nCandidate Answers: ")
        candidates = listed.removesuffix(".").split(", ") if listed else []
        before = few_shot_prompt(before, question, candidates) + answer.removeprefix(START)
        if candidates:
            check_choice_lines(answer.removeprefix(START).split("\n"), candidates)
        else:
            assert answer.count("\n") == 1, "one line of sentences"
    assert before == text.rstrip("\n")


def test_solutions_are_right() -> None:
    checked = 0
    for block in questions_of("solve", "gsm8k"):
        *steps, last = split_steps(block.partition(START)[2])
        assert all(check_equations(step) for step in steps if "=" in step)
        results = [result for step in steps for _, result in equations(step)]
        assert last == f"The answer is {results[-1]:.0f}."
        assert grade(" ".join([*steps, last]), f"{results[-1]:.0f}", "gsm8k").correct
        checked += len(results)
    assert checked == 12


@pytest.mark.parametrize("grader", ["arithmetic", "svamp", "asdiv"])
@pytest.mark.parametrize("kind", ["correct", "solve"])
def test_all_tasks_of_numbers_have_the_demonstrations_of_gsm8k(grader: str, kind: str) -> None:
    assert own(kind, grader) == own(kind, "gsm8k")


def test_answers_of_the_latex_corrections_hold_by_trying_out() -> None:
    rolls = [one * other for one in range(1, 7) for other in range(1, 7)]
    expected = [
        str(min(x * x - 6 * x + 4 for x in range(-20, 20))),
        fraction(sum(product % 2 for product in rolls), len(rolls)),
        ", ".join(str(x) for x in range(5, 100) if (x - 5) ** 2 == x + 7),
        str(len(list(permutations("12345", 3)))),
    ]
    blocks = own("correct", "math").split("Correct Solution:")[1:]
    assert [re.findall(r"The answer is (.*)\.\n}", block)[0] for block in blocks] == expected


def test_answers_of_the_latex_solutions_hold_by_trying_out() -> None:
    pairs = list(combinations(range(1, 7), 2))
    root, square = next(  # of 75, less that of 12
        (a, b) for b in range(1, 100) for a in range(1, 10) if abs(a * b**0.5 - (75**0.5 - 12**0.5)) < 1e-9
    )
    expected = [
        *(str(sum(n for n in range(-100, 100) if n * n < 5 * n + 6)), fraction(8 * 15, isqrt(8**2 + 15**2))),
        *(rf"{root}\sqrt{{{square}}}", fraction(sum(sum(pair) % 3 == 0 for pair in pairs), len(pairs))),
    ]
    blocks = questions_of("solve", "math")
    assert [re.findall(r"The answer is (.*)\.$", block)[0] for block in blocks] == expected
    assert sum(check_equations(step) for block in blocks for step in split_steps(block.partition(START)[2])) == 9


@pytest.mark.parametrize("kind", ["correct", "solve"])
def test_own_file_is_taken_byte_for_byte(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_bytes("Correct thís.\r\n\n\nQuestion: q\n\n".encode())
    assert demonstrations(kind, "gsm8k", str(file), "corrector.prompt").encode() == file.read_bytes()


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b" \n", "Solve.".encode("utf-16-le")])
def test_unreadable_file_is_a_user_error(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    if content:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"sampler\.prompt=.*own\.txt.*; name a readable"):
        demonstrations("solve", "gsm8k", str(file), "sampler.prompt")


def test_solutions_share_no_eight_words_with_a_question_of_the_data(data_dir: Path) -> None:
    ours = {gram for grader in ("gsm8k", "math", "csqa") for gram in grams(own("solve", grader))}
    rows = [json.loads(line) for file in data_dir.glob("*/*.jsonl") for line in file.read_text().splitlines()]
    questions = [question for row in rows for question in texts(row)]
    assert len(questions) > 30_000
    shared = {gram for question in questions for gram in grams(question)} & ours
    assert not shared


def test_solutions_share_no_eight_words_with_the_corrections() -> None:
    solved = {gram for grader in ("gsm8k", "math", "csqa") for block in questions_of("solve", grader)
              for gram in grams(block.partition("\nAnswer:")[0])}  # fmt: skip
    corrected = {gram for grader in ("gsm8k", "math", "csqa") for gram in grams(own("correct", grader))}
    assert solved
    assert not solved & corrected


def texts(row: dict) -> Iterator[str]:
    """The question of a row, whichever data set it is from."""
    if "Body" in row:
        yield f"{row['Body']} {row['Question']}"
    elif isinstance(row.get("question"), dict):
        yield row["question"]["stem"]
    else:
        yield from (row[name] for name in ("question", "problem") if name in row)


def grams(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return list(zip(*(words[start:] for start in range(8)), strict=False))


def fraction(part: int, whole: int) -> str:
    value = Fraction(part, whole)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def check_choice_lines(lines: list[str], candidates: list[str]) -> None:
    assert [line.split(" - ")[0].lower() for line in lines[1:6]] == candidates
    assert (lines[0], lines[6]) == ("Explanations:", "Reasons and Final Answer:")
    answer = grade("\n".join(lines), "", "csqa", candidates=candidates).answer
    assert lines[-1] == f"The answer is {answer}."
    assert f'"{answer}"' in lines[-2]
    assert len(lines) == 9


def check_equations(step: str) -> int:
    """How many equations the step states; all hold."""
    found = list(equations(step))
    for left, result in found:
        assert left == pytest.approx(result), step
    return len(found)


def equations(step: str) -> Iterator[tuple[float, float]]:
    """Both sides of `a op b (op c) = d`, as plain numbers, in a step of a demonstration."""
    plain = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", lambda found: str(int(found[1]) / int(found[2])), step)
    plain = plain.replace("$", "").replace(r"\cdot", "*")
    for terms, result in re.findall(
        r"(?<![\w.^)])(?<![\w)] [-+*/] )((?:\d[\d.]*\s*[-+*/]\s*)+\d[\d.]*) = (\d[\d.]*\d|\d)", plain
    ):
        numbers = [float(number) for number in re.split(r"[-+*/]", terms)]
        total = numbers[0]
        for sign, number in zip(re.findall(r"[-+*/]", terms), numbers[1:], strict=True):
            total = {"+": total + number, "-": total - number, "*": total * number, "/": total / number}[sign]
        yield total, float(result)
