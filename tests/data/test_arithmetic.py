"""The made task: problems that are right, distinct, disjoint and the same for the same seed."""

import re

from lema.data.arithmetic import NUM_STEPS, OPERANDS, VALUES, make_problems, true_facts
from lema.prompts.formats import reference_steps

TRAIN, TEST = make_problems(seed=3, num_train=500, num_test=200)
STEP = re.compile(r"\w+ (\d+): (\d+) ([+-]) (\d+) = <<(\d+)([+-])(\d+)=(\d+)>>(\d+) \w+\.")


def test_same_seed_gives_the_same_problems():
    assert make_problems(3, 500, 200) == (TRAIN, TEST)
    assert make_problems(4, 500, 200) != (TRAIN, TEST)


def test_more_training_problems_leave_the_test_as_it_is():
    train, test = make_problems(3, 700, 200)
    assert test == TEST
    assert train[:500] == TRAIN


def test_questions_are_distinct_and_the_splits_disjoint():
    questions = [problem.question for problem in TRAIN + TEST]
    assert len(questions) == len(set(questions)) == 700


def test_ids_name_the_split_and_the_row():
    assert [TRAIN[0].id, TRAIN[499].id, TEST[199].id] == [
        "arithmetic-train-0",
        "arithmetic-train-499",
        "arithmetic-test-199",
    ]


def test_every_step_is_right_and_follows_from_the_last():
    for problem in TRAIN + TEST:
        numbers = [int(number) for number in re.findall(r"\d+", problem.question)]
        value, operands = numbers[0], numbers[1:]
        steps = problem.solution.splitlines()
        assert len(steps) == len(operands)
        assert len(steps) in NUM_STEPS
        for step, operand in zip(steps, operands, strict=True):
            match = STEP.fullmatch(step)
            assert match, step
            named, left, operator, right, note_left, note_operator, note_right, note_result, result = match.groups()
            assert (left, operator, right, result) == (note_left, note_operator, note_right, note_result)
            assert (int(left), int(right), int(named)) == (value, operand, operand)
            value = value + operand if operator == "+" else value - operand
            assert int(result) == value
            assert value in VALUES
            assert operand in OPERANDS
        assert problem.answer == str(value)


def test_every_number_of_steps_occurs_about_equally_often():
    counts = [sum(len(p.solution.splitlines()) == steps for p in TRAIN + TEST) for steps in NUM_STEPS]
    assert min(counts) > 180


def test_steps_read_without_their_notes():
    plain = [step.replace("<<", "[").replace(">>", "]") for step in reference_steps(TRAIN[0].solution)]
    assert len(plain) == len(TRAIN[0].solution.splitlines())
    assert not any("[" in step for step in plain)


def test_facts_are_all_sums_and_differences_in_range():
    facts = true_facts()
    assert facts[5, "+", 3] == 8
    assert facts[12, "-", 9] == 3
    assert (20, "+", 2) not in facts
    assert (2, "-", 2) not in facts
    assert all(eval_fact(fact) == result for fact, result in facts.items())


def eval_fact(fact: tuple[int, str, int]) -> int:
    left, operator, right = fact
    return left + right if operator == "+" else left - right
