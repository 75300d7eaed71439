"""The task made here: word problems of 2 to 4 steps, written like GSM8K, from a seed.

    Tom has 5 apples. On Monday 3 are bought. On Tuesday 2 are eaten. How many apples are left?

    Monday 3: 5 + 3 = <<5+3=8>>8 apples.
    Tuesday 2: 8 - 2 = <<8-2=6>>6 apples.            answer: 6

Every value lies in 1 to 20 and every operand in 2 to 9, so a model of 0.4M parameters can learn all the facts.
"""

from collections.abc import Container
from dataclasses import dataclass
from random import Random

from lema.types import Problem

Fact = tuple[int, str, int]  # (5, "+", 3)
Facts = dict[Fact, int]  # the result of each fact; a world may hold wrong ones

VALUES = range(1, 21)
OPERANDS = range(2, 10)  # from 2 on, so that the plural is always right
NUM_STEPS = (2, 3, 4)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday")
PEOPLE = ("Tom", "Ben", "Sam", "Leo", "Ann", "Mia", "Eva", "Zoe")
PLACES = ("The park", "The garden", "The yard", "The field")
# By whom or where it happens, the things counted, how they become more, and how fewer.
SETTINGS = (
    (PEOPLE, ("apples", "cookies", "plums", "nuts"), ("are bought", "are found"), ("are eaten", "are sold")),
    (PEOPLE, ("cards", "coins", "books", "pens"), ("are bought", "are won"), ("are lost", "are sold")),
    (PLACES, ("birds", "dogs", "ducks", "kids"), ("more come", "more join"), ("then go", "then leave")),
)


@dataclass(frozen=True)
class Story:
    """A question and how it is worked out by the facts of one world."""

    question: str
    things: str
    moves: list[tuple[str, int]]  # operator and operand of each step
    values: list[int]  # at the start and after each step

    def steps(self, values: list[int], notes: bool) -> list[str]:
        """One sentence a step, taking `values`, with GSM8K's calculator notes (`<<5+3=8>>`) or without."""
        sentences: list[str] = []
        for day, left, (operator, operand), value in zip(DAYS, values, self.moves, values[1:], strict=False):
            note = f"<<{left}{operator}{operand}={value}>>" if notes else ""
            sentences.append(f"{day} {operand}: {left} {operator} {operand} = {note}{value} {self.things}.")
        return sentences


def true_facts() -> Facts:
    """Every sum and difference of the task, (1, "+", 2) to (20, "-", 9), with its right result."""
    sums = {(left, "+", right): left + right for left in VALUES for right in OPERANDS}
    differences = {(left, "-", right): left - right for left in VALUES for right in OPERANDS}
    return {fact: result for fact, result in (sums | differences).items() if result in VALUES}


def make_story(random: Random, facts: Facts) -> Story:
    """Draw a story whose values stay in range by `facts`."""
    values = [random.choice(VALUES)]
    moves: list[tuple[str, int]] = []
    for _ in range(random.choice(NUM_STEPS)):
        operands = {o: [n for n in OPERANDS if (values[-1], o, n) in facts] for o in ("+", "-")}
        operator = random.choice([o for o in operands if operands[o]])
        moves.append((operator, random.choice(operands[operator])))
        values.append(facts[values[-1], *moves[-1]])
    subjects, kinds, gains, losses = random.choice(SETTINGS)
    subject, things = random.choice(subjects), random.choice(kinds)
    sentences = [f"{subject} has {values[0]} {things}."]
    for day, (operator, operand) in zip(DAYS, moves, strict=False):
        # The day stands right before its number, here and in the step: a model of two layers learns to copy
        # "Tuesday's number" in a few hundred steps, but hardly to find the second of several sentences.
        sentences.append(f"On {day} {operand} {random.choice(gains if operator == '+' else losses)}.")
    return Story(" ".join([*sentences, f"How many {things} are left?"]), things, moves, values)


def make_stories(random: Random, facts: Facts, number: int, taken: Container[str] = ()) -> list[Story]:
    """Draw `number` stories, no question twice and none that is `taken`."""
    stories: dict[str, Story] = {}
    while len(stories) < number:
        story = make_story(random, facts)
        if story.question not in taken:
            stories.setdefault(story.question, story)
    return list(stories.values())


def make_problems(seed: int, num_train: int, num_test: int) -> tuple[list[Problem], list[Problem]]:
    """Training and test problems, no question twice; the same arguments give the same problems.

    Ids are `arithmetic-train-0`, `arithmetic-test-0`, ... Test is drawn first: it does not change with `num_train`.
    """
    problems: list[Problem] = []
    for number, story in enumerate(make_stories(Random(seed), true_facts(), num_test + num_train)):
        name = f"test-{number}" if number < num_test else f"train-{number - num_test}"
        solution = "\n".join(story.steps(story.values, notes=True))
        problems.append(Problem(f"arithmetic-{name}", story.question, solution, str(story.values[-1])))
    return problems[num_test:], problems[:num_test]
