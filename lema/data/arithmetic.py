"""The task made here: word problems of 2 to 4 steps, written like GSM8K, from a seed.

Tom has 5 apples. On Monday 3 are bought. On Tuesday 2 are eaten. How many apples are left?

Monday 3: 5 + 3 = <<5+3=8>>8 apples.
Tuesday 2: 8 - 2 = <<8-2=6>>6 apples.            answer: 6
"""

from random import Random
from typing import NamedTuple

from lema.types import Problem

Facts = dict[tuple[int, str, int], int]  # (5, "+", 3) to 8; a world may hold wrong ones

VALUES = range(1, 21)  # few enough for a model of 0.4M parameters to learn all the facts
OPERANDS = range(2, 10)  # from 2 on, so that the plural is always right
NUM_STEPS = (2, 3, 4)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday")
_PEOPLE = ("Tom", "Ben", "Sam", "Leo", "Ann", "Mia", "Eva", "Zoe")
_PLACES = ("The park", "The garden", "The yard", "The field")
# By whom or where it happens, the things counted, how they become more, and how fewer.
_SETTINGS = (
    (_PEOPLE, ("apples", "cookies", "plums", "nuts"), ("are bought", "are found"), ("are eaten", "are sold")),
    (_PEOPLE, ("cards", "coins", "books", "pens"), ("are bought", "are won"), ("are lost", "are sold")),
    (_PLACES, ("birds", "dogs", "ducks", "kids"), ("more come", "more join"), ("then go", "then leave")),
)


class Story(NamedTuple):
    """A question and how it is worked out by the facts of one world."""

    question: str
    things: str
    moves: list[tuple[str, int]]  # operator and operand of each step
    values: list[int]  # at the start and after each step

    def solution(self, values: list[int]) -> str:
        """One sentence a line for each step, taking `values`, with GSM8K's calculator notes (`<<5+3=8>>`)."""
        steps = zip(_DAYS, values, self.moves, values[1:], strict=False)
        lines = [f"{day} {b}: {a} {op} {b} = <<{a}{op}{b}={c}>>{c} {self.things}." for day, a, (op, b), c in steps]
        return "\n".join(lines)


def true_facts() -> Facts:
    """Every sum and difference of the task, (1, "+", 2) to (20, "-", 9), with its right result."""
    facts = {(a, op, b): a + b if op == "+" else a - b for op in "+-" for a in VALUES for b in OPERANDS}
    return {fact: result for fact, result in facts.items() if result in VALUES}


def make_stories(random: Random, facts: Facts, number: int, taken: frozenset[str] = frozenset()) -> list[Story]:
    """Draw `number` stories whose values stay in range by `facts`: no question twice, and none that is `taken`."""
    stories: dict[str, Story] = {}
    while len(stories) < number:
        values, moves = [random.choice(VALUES)], []
        for _ in range(random.choice(NUM_STEPS)):
            operands = {op: [b for b in OPERANDS if (values[-1], op, b) in facts] for op in "+-"}
            operator = random.choice([op for op in operands if operands[op]])
            moves.append((operator, random.choice(operands[operator])))
            values.append(facts[values[-1], *moves[-1]])
        subjects, kinds, gains, losses = random.choice(_SETTINGS)
        subject, things, verbs = random.choice(subjects), random.choice(kinds), {"+": gains, "-": losses}
        # The day stands right before its number, here and in the step: a model of two layers learns to copy
        # "Tuesday's number" in a few hundred steps, but hardly to find the second of several sentences.
        events = [f"On {day} {b} {random.choice(verbs[op])}." for day, (op, b) in zip(_DAYS, moves, strict=False)]
        question = f"{subject} has {values[0]} {things}. {' '.join(events)} How many {things} are left?"
        if question not in taken:
            stories.setdefault(question, Story(question, things, moves, values))
    return list(stories.values())


def make_problems(seed: int, num_train: int, num_test: int) -> tuple[list[Problem], list[Problem]]:
    """Training and test problems, no question twice; test is drawn first: it does not change with `num_train`."""
    stories = make_stories(Random(seed), true_facts(), num_test + num_train)
    names = [f"test-{number}" for number in range(num_test)] + [f"train-{number}" for number in range(num_train)]
    problems = [
        Problem(f"arithmetic-{name}", story.question, story.solution(story.values), str(story.values[-1]))
        for name, story in zip(names, stories, strict=True)
    ]
    return problems[num_test:], problems[:num_test]
