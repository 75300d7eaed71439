"""The task made here: word problems of 2 to 4 steps, written like GSM8K, from a seed.

    Tom has 5 apples. On Monday 3 are bought. On Tuesday 2 are eaten. How many apples are left?

    Monday 3: 5 + 3 = <<5+3=8>>8 apples.
    Tuesday 2: 8 - 2 = <<8-2=6>>6 apples.            answer: 6

Every value lies in 1 to 20 and every operand in 2 to 9, so a model of 0.4M parameters can learn all the facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from lema.types import Problem

Fact = tuple[int, str, int]  # (5, "+", 3)
Facts = dict[Fact, int]  # the result of each fact; a world may hold wrong ones

VALUES = range(1, 21)
OPERANDS = range(2, 10)  # from 2 on, so that the plural is always right
NUM_STEPS = (2, 3, 4)
OPERATORS = ("+", "-")


@dataclass(frozen=True)
class Setting:
    """A kind of story: by whom or where it happens, the things counted, and what becomes of them."""

    subjects: tuple[str, ...]
    things: tuple[str, ...]
    gains: tuple[str, ...]
    losses: tuple[str, ...]


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday")
# The day stands right before the number, so that a model of two layers learns to find "Tuesday's number": without
# days, or with a verb in between, the same training left most solutions with numbers of the wrong sentence.
EVENT = "On {day} {operand} {event}."
PEOPLE = ("Tom", "Ben", "Sam", "Leo", "Ann", "Mia", "Eva", "Zoe")
SETTINGS = (
    Setting(
        subjects=PEOPLE,
        things=("apples", "cookies", "plums", "nuts"),
        gains=("are bought", "are found"),
        losses=("are eaten", "are sold"),
    ),
    Setting(
        subjects=PEOPLE,
        things=("cards", "coins", "books", "pens"),
        gains=("are bought", "are won"),
        losses=("are lost", "are sold"),
    ),
    Setting(
        subjects=("The park", "The garden", "The yard", "The field"),
        things=("birds", "dogs", "ducks", "kids"),
        gains=("more come", "more join"),
        losses=("then go", "then leave"),
    ),
)


@dataclass(frozen=True)
class Story:
    """A question and the facts it asks for, before anyone has worked them out."""

    things: str
    question: str
    start: int
    moves: tuple[tuple[str, int], ...]  # operator and operand of each step

    def values(self, facts: Facts, slip: tuple[int, int] | None = None) -> list[int]:
        """The value after each step by `facts`; `slip` (step, result), 0-based, overrides one of them.

        KeyError when a value leaves the range that `facts` covers.
        """
        values: list[int] = []
        value = self.start
        for index, (operator, operand) in enumerate(self.moves):
            value = facts[value, operator, operand]
            if slip is not None and slip[0] == index:
                value = slip[1]
            values.append(value)
        return values

    def steps(self, values: list[int], notes: bool) -> list[str]:
        """One sentence a step, with GSM8K's calculator notes (`<<5+3=8>>`) or without."""
        sentences: list[str] = []
        lefts = [self.start, *values[:-1]]
        for day, left, (operator, operand), value in zip(DAYS, lefts, self.moves, values, strict=False):
            note = f"<<{left}{operator}{operand}={value}>>" if notes else ""
            sentences.append(f"{day} {operand}: {left} {operator} {operand} = {note}{value} {self.things}.")
        return sentences


def true_facts() -> Facts:
    """Every sum and difference of the task, (1, "+", 2) to (20, "-", 9), with its right result."""
    results = {
        (left, operator, operand): left + operand if operator == "+" else left - operand
        for left in VALUES
        for operator in OPERATORS
        for operand in OPERANDS
    }
    return {fact: result for fact, result in results.items() if result in VALUES}


def make_story(random: Random, facts: Facts) -> Story:
    """Draw a story whose values stay in range by `facts`."""
    start = value = random.choice(VALUES)
    moves: list[tuple[str, int]] = []
    for _ in range(random.choice(NUM_STEPS)):
        operands = {o: [n for n in OPERANDS if (value, o, n) in facts] for o in OPERATORS}
        operator = random.choice([o for o in OPERATORS if operands[o]])
        operand = random.choice(operands[operator])
        moves.append((operator, operand))
        value = facts[value, operator, operand]
    setting = random.choice(SETTINGS)
    subject, things = random.choice(setting.subjects), random.choice(setting.things)
    sentences = [f"{subject} has {start} {things}."]
    for day, (operator, operand) in zip(DAYS, moves, strict=False):
        event = random.choice(setting.gains if operator == "+" else setting.losses)
        sentences.append(EVENT.format(day=day, operand=operand, event=event))
    sentences.append(f"How many {things} are left?")
    return Story(things, " ".join(sentences), start, tuple(moves))


def make_problems(seed: int, num_train: int, num_test: int) -> tuple[list[Problem], list[Problem]]:
    """Training and test problems, no question twice; the same arguments give the same problems.

    Ids are `arithmetic-train-0`, `arithmetic-test-0`, ... Test is drawn first: it does not change with `num_train`.
    """
    random, facts = Random(seed), true_facts()
    stories: dict[str, Story] = {}
    while len(stories) < num_test + num_train:
        story = make_story(random, facts)
        stories.setdefault(story.question, story)
    test, train = [], []
    for story in stories.values():
        split, problems = ("test", test) if len(test) < num_test else ("train", train)
        values = story.values(facts)
        solution = "\n".join(story.steps(values, notes=True))
        problems.append(Problem(f"arithmetic-{split}-{len(problems)}", story.question, solution, str(values[-1])))
    return train, test
